# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: queries and keys are rotated as they leave their linear layer."""

from __future__ import annotations

from meadow.compiler.graph.graph import Node
from meadow.compiler.graph.ops import Rotary
from meadow.compiler.program.assembly import Assembly
from meadow.compiler.program.nodes.node import Lack, Rule


class RotaryRule(Rule):
    """Part of the linear layer before it."""

    ops = (Rotary,)

    def lacks(self, op: Rotary) -> list[Lack]:
        part = 2 * len(op.frequencies)
        return [
            (part != op.head_dim, f"{part} of {op.head_dim} elements of a head turned", "whole heads"),
            (op.interleaved, "rotary pairs that are neighbours", "halves"),
            (op.factor != 1, f"a factor of {op.factor:g} on the rotation", "none"),
        ]

    def lower(self, p: Assembly, node: Node) -> None:
        """Nothing to do: linear.py did it."""
