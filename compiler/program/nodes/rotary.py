# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: queries and keys are rotated as they leave their linear layer, by halves (passes/turn_halves.py)."""

from __future__ import annotations

from meadow.compiler.graph.graph import Node
from meadow.compiler.graph.ops import Rotary
from meadow.compiler.program.assembly import Assembly
from meadow.compiler.program.nodes.node import Lack, Rule


class RotaryRule(Rule):
    """Part of the linear layer before it."""

    ops = (Rotary,)

    def lacks(self, op: Rotary) -> list[Lack]:
        return [(op.factor != 1, f"a factor of {op.factor:g} on the rotation", "none")]

    def lower(self, p: Assembly, node: Node) -> None:
        """Nothing to do: linear.py did it."""
