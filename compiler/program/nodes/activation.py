# SPDX-License-Identifier: Apache-2.0
"""Activations: silu(gate) * up is computed as the rows of gate and up leave their linear layer."""

from __future__ import annotations

from meadow.compiler.graph.graph import Node
from meadow.compiler.graph.ops import Activation
from meadow.compiler.program.assembly import Assembly
from meadow.compiler.program.nodes.node import Lack, Rule


class ActivationRule(Rule):
    """Part of the linear layer before it."""

    ops = (Activation,)

    def lacks(self, op: Activation) -> list[Lack]:
        return [(op.kind != "silu" or not op.gated, f"{op.kind}{' of a gate' * op.gated}", "silu(gate) * up")]

    def lower(self, p: Assembly, node: Node) -> None:
        """Nothing to do: linear.py did it."""
