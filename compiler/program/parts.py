# SPDX-License-Identifier: Apache-2.0
"""Parts: the rows of each weight matrix that one LINEAR step streams, as the matrix's engine cuts it."""

from __future__ import annotations

from collections.abc import Mapping

from meadow.compiler.engines.engine import planner_for
from meadow.compiler.engines.stored import Part
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Attention, Linear, Norm, Rotary
from meadow.machine.design import Design


def on_heads(node: Node, readers: Mapping[str, list[Node]]) -> bool:
    """Whether a norm is of queries, keys or values, head by head, before they turn or attend."""
    return isinstance(node.op, Norm) and any(isinstance(r.op, (Rotary, Attention)) for r in readers[node.name])


def tile_rows(node: Node, readers: Mapping[str, list[Node]], design: Design) -> int:
    """Output features per tile: whole heads for Q, K and V, else the design's."""
    for reader in readers[node.name]:
        if on_heads(reader, readers):
            return tile_rows(reader, readers, design)
        if isinstance(reader.op, (Rotary, Attention)):
            return reader.op.head_dim
    return design.tile_rows


def weight_parts(graph: Graph, design: Design) -> dict[str, list[Part]]:
    """The parts of every matrix that an engine streams, by weight name."""
    found, readers = {}, graph.readers()
    for node in graph.nodes:
        if isinstance(node.op, Linear):
            weight = graph.weight_of(node)
            planner = planner_for(weight.elem)
            assert planner is not None, weight
            found[weight.name] = planner.parts(weight, design.engine(planner.kind), tile_rows(node, readers, design))
    return found
