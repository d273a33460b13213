# SPDX-License-Identifier: Apache-2.0
"""Rule: what lowering knows of one kind of node.  Each kind has one subclass, in a file of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from meadow.compiler.graph.graph import Node
from meadow.compiler.graph.ops import Op
from meadow.compiler.program.assembly import Assembly

Lack = tuple[bool, str, str]
"""(whether the node has it, what it has, what the engines run instead)"""


class Vector(NamedTuple):
    """A constant that a step reads: a vector of the graph plus a number, in tiles that begin at a beat each (0: as it is)."""

    name: str
    plus: float = 0.0
    tile: int = 0


class Rule:
    """One kind of node, or several that are lowered alike."""

    ops: ClassVar[tuple[type[Op], ...]]

    def lacks(self, op: Any) -> list[Lack]:
        """Every attribute that no unit has."""
        return []

    def vectors(self, op: Any, tile_rows: int) -> dict[str, Vector]:
        """The constants that its steps read, by buffer; `tile_rows` of a linear."""
        return {}

    def lower(self, p: Assembly, node: Node) -> None:
        """Append its steps, and note where its value is."""
        raise NotImplementedError


@lru_cache
def rules() -> dict[type[Op], Rule]:
    """Every rule, by the kind of node."""
    package = __name__.rpartition(".")[0]
    names = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = [importlib.import_module(f"{package}.{name}") for name in names if name != "node"]
    found = [
        v for m in modules for v in vars(m).values() if isinstance(v, type) and issubclass(v, Rule) and v is not Rule
    ]
    return {op: kind() for kind in found for op in kind.ops}


def rule_of(node: Node) -> Rule:
    """Raises ValueError for a kind that cannot be lowered."""
    rule = rules().get(type(node.op))
    if rule is None:
        raise ValueError(f"%{node.name}: {node.op.title} cannot be lowered")
    return rule
