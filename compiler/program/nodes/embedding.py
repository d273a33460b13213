# SPDX-License-Identifier: Apache-2.0
"""Embeddings: the host looks them up, with their factor and learned positions, so no step does."""

from __future__ import annotations

from meadow.compiler.graph.graph import Node
from meadow.compiler.graph.ops import Embedding
from meadow.compiler.program.assembly import Assembly
from meadow.compiler.program.nodes.node import Lack, Rule


class EmbeddingRule(Rule):
    """The rows are in the residual buffer when a program begins."""

    ops = (Embedding,)

    def lacks(self, op: Embedding) -> list[Lack]:
        return []

    def lower(self, p: Assembly, node: Node) -> None:
        p.values[node.name] = "x"
