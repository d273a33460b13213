# SPDX-License-Identifier: Apache-2.0
"""Planner: what the compiler does for one engine.  Each engine has one subclass, in a file of the engine's name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from meadow.boards import Board
from meadow.compiler.engines.stored import Part, Stored, Streamed
from meadow.machine.design import IDENTITY, Design
from meadow.machine.engines.engine import Engine
from meadow.machine.engines.table import engine_for
from meadow.machine.errors import UsageError
from meadow.machine.memories import Memory
from meadow.machine.types import Elem, Weight
from meadow.machine.units import BEAT_BYTES

OTHER_PORTS = 2
"""Beside the ports for weights: one for constants (read only), one for activations and the KV cache."""
Problem = tuple[str, str, str]
"""(where, what was found, what is served or what to do)"""
E = TypeVar("E", bound=Engine)


@dataclass(frozen=True)
class Needs:
    """What an engine is sized for.

    fixed     the numbers of a design that the user fixed
    packing   the scheme that the user chose, or auto
    head_dim  of the model
    shared    whether the design has another engine for weights
    bram36    block RAMs of the board
    """

    board: Board
    fixed: Mapping[str, int]
    packing: str
    head_dim: int
    shared: bool
    bram36: int


class Planner(Generic[E]):
    """The compiler's side of one engine.

    kind    the engine
    search  its numbers that the search varies, with the values of each
    shape   those of `search` that change the generated programs: for each of their values the model is lowered again.  The others
            change only what the same programs cost
    """

    kind: type[E]
    search: ClassVar[dict[str, tuple[int, ...]]]
    shape: ClassVar[tuple[str, ...]]

    # -- matrices --------------------------------------------------------------------------------------------------

    def problems(self, weight: Weight) -> list[Problem]:
        """What keeps a matrix of a type that the engine multiplies from it."""
        return []

    def parts(self, weight: Weight, engine: E, tile_rows: int) -> list[Part]:
        """The rows of a matrix that one step streams each, so that no port's stream passes a chunk of memory."""
        raise NotImplementedError

    def store(self, weight: Weight, part: Part, engine: E, packing: str) -> Stored:
        """A part as it lies in memory."""
        raise NotImplementedError

    def sampled_bits(self, weight: Weight, engine: E, packing: str) -> float:
        """Bits per weight, estimated from a sample of its rows."""
        raise NotImplementedError

    def stand_in(self, layout: Streamed, bits: float, engine: E, packing: str) -> Stored:
        """A part of which only the size is known: its arrays have lengths and no memory."""
        raise NotImplementedError

    # -- sizes -----------------------------------------------------------------------------------------------------

    def start(self, weights: Sequence[Weight], needs: Needs) -> E:
        """The engine that the search starts from.  Raises UsageError, UnsupportedModel or ResourceExceeded."""
        raise NotImplementedError

    def refuse(self, fixed: Mapping[str, int], packing: str) -> None:
        """Raise UsageError for what the user asked of an engine that no matrix needs."""
        asked = [name for name in fixed if name in self.kind.numbers]
        if asked:
            raise UsageError(
                f"--set {', '.join(asked)}: the model has no {self.kind.weights}, so the design has not {self.kind.name}; drop it"
            )

    def growth(self, engine: E) -> dict[str, tuple[int, ...]]:
        """Numbers that take the first of these values that fits, unless the user fixed them."""
        return {}

    def pinned(self, packing: str) -> set[str]:
        """Numbers that the user's packing decides, so that they are not searched."""
        return set()

    def options(self, engine: E) -> dict[str, tuple[int, ...]]:
        """What the search tries: `search`, as far as this start of it allows."""
        return self.search

    def sizes(self, engine: E) -> dict[str, tuple[int, ...]]:
        """Numbers of the design itself of which the search tries other values with this engine."""
        return {}

    def largest_block(self, engine: E) -> int:
        """Tokens of a block with which the search begins, at most."""
        return 64

    def wasteful(self, engine: E, block: int) -> bool:
        """Whether a smaller engine would serve blocks of so many tokens as well, so that the search need not look at this one."""
        return False

    def possible(self, engine: E, block: int, head_dim: int) -> bool:
        """Whether the engine takes blocks of so many tokens and heads of this size."""
        return True

    def stored_as(self, engine: E, packing: str) -> str:
        """One word for how its matrices are stored."""
        raise NotImplementedError

    def notes(self, engine: E, weights: Sequence[Weight], packing: str) -> list[str]:
        """What the user should know of it."""
        return []


@lru_cache
def planners() -> dict[type[Engine], Planner[Engine]]:
    """Every engine's planner, found in this folder, in the order of IDENTITY."""
    package = __name__.rpartition(".")[0]
    names = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = [importlib.import_module(f"{package}.{name}") for name in names if name != "engine"]
    made = [value() for module in modules for value in vars(module).values() if _is_planner(value)]
    return {p.kind: p for p in sorted(made, key=lambda p: IDENTITY.index(p.kind.ports_name()))}


def _is_planner(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Planner) and value is not Planner


def planner_for(elem: Elem, design: Design | None = None) -> Planner[Engine] | None:
    """The planner of the engine that multiplies weights of a type, usually or in a design; None when no engine does."""
    kind = design.multiplier(elem) if design is not None else engine_for(elem)
    return None if kind is None else planners()[kind]


FIFO = (4096, 2048, 1024, 512)
"""Beats that a port may read ahead: 64 KiB each is what streams while a layer attends (docs/decisions/0014)."""
FIFO_SHARE = 0.12
"""Of the board's BRAM that these FIFOs take at most."""
ULTRA_SHARE = 0.25
"""Of its UltraRAM, where it has some."""


def read_ahead(needs: Needs, ports: int) -> int:
    """Beats that each port of an engine reads ahead on a board."""
    ultra = needs.fixed.get("uram", needs.board.uram)
    fifos = {n: Memory(ports, n, 8 * BEAT_BYTES) for n in FIFO}
    affordable = [
        n
        for n, m in fifos.items()
        if (m.uram <= ULTRA_SHARE * needs.board.uram if ultra else m.bram36 <= FIFO_SHARE * needs.bram36)
    ]
    return max(affordable, default=min(FIFO))
