# SPDX-License-Identifier: Apache-2.0
"""Sums: the linear before adds its results to the residual as they leave."""

from __future__ import annotations

from meadow.compiler.graph.graph import Node
from meadow.compiler.graph.ops import Add
from meadow.compiler.program.assembly import Assembly
from meadow.compiler.program.nodes.node import Rule


class AddRule(Rule):
    """Part of the linear layer before it."""

    ops = (Add,)

    def lower(self, p: Assembly, node: Node) -> None:
        p.values[node.name] = "x"
