# SPDX-License-Identifier: Apache-2.0
"""rewrite: run the named passes in order, and check the graph after each.  Knows no pass by name."""

from __future__ import annotations

from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.passes import PASSES


def rewrite(graph: Graph) -> Graph:
    """The same computation in the shape that `lower` wants.  Raises ValueError when a pass breaks the graph."""
    for step in PASSES:
        graph = step(graph)
        try:
            graph.check()
        except ValueError as error:
            raise ValueError(f"after {step.__name__}: {error}") from error
    return graph
