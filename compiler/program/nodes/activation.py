# SPDX-License-Identifier: Apache-2.0
"""Activations: act(gate) * up, or act(up), is computed as the rows leave their linear layer."""

from __future__ import annotations

from meadow.compiler.graph.graph import Node
from meadow.compiler.graph.ops import Activation
from meadow.compiler.program.assembly import Assembly
from meadow.compiler.program.nodes.node import Lack, Rule
from meadow.machine.isa import Function

FUNCTIONS = {f.name.lower(): f for f in Function}
"""The engine's activations by the Graph's names."""


class ActivationRule(Rule):
    """Part of the linear layer before it."""

    ops = (Activation,)

    def lacks(self, op: Activation) -> list[Lack]:
        return [(op.kind not in FUNCTIONS, f"the activation {op.kind}", ", ".join(FUNCTIONS))]

    def lower(self, p: Assembly, node: Node) -> None:
        """Nothing to do: linear.py did it."""
