# SPDX-License-Identifier: Apache-2.0
"""Parts: the rows of each weight matrix that one LINEAR step streams, split where a port's stream would pass a chunk.

Decides nothing else about a matrix; which order its bytes have is decided in machine/storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Attention, Linear, Rotary
from meadow.compiler.program.pack import group_format
from meadow.machine.design import BEAT_BYTES, LANE_COLS, Design
from meadow.machine.program import CHUNK_LIMIT
from meadow.machine.storage.groups import BLOCK_ROWS, GroupLayout
from meadow.machine.storage.rows import Layout, padded
from meadow.machine.types import Weight


@dataclass(frozen=True)
class Part:
    """Some rows of one weight matrix: what one LINEAR step streams.  Split so that no port's stream passes a chunk.

    number  among the parts of its matrix; None when it is the whole
    """

    matrix: str
    first_row: int
    layout: Layout | GroupLayout
    number: int | None = None

    @property
    def name(self) -> str:
        return self.matrix if self.number is None else f"{self.matrix}#{self.number}"


def parts(name: str, rows: int, cols: int, ports: int, tile_rows: int) -> list[Part]:
    """The parts of a matrix whose port streams are at most CHUNK_LIMIT bytes when raw, in whole tiles."""
    row_bytes = padded(cols, LANE_COLS)
    most = max(tile_rows, CHUNK_LIMIT // row_bytes * ports // tile_rows * tile_rows)
    found = []
    for first in range(0, rows, most):
        number = first // most if rows > most else None
        found.append(Part(name, first, Layout(min(most, rows - first), cols, ports, tile_rows), number))
    return found


def group_parts(weight: Weight, ports: int) -> list[Part]:
    """The same for a matrix of grouped weights, in whole blocks."""
    whole = GroupLayout(weight.rows, weight.cols, ports, group_format(weight))
    unit = BLOCK_ROWS * ports
    most = max(1, CHUNK_LIMIT // (whole.groups * whole.group_beats * BEAT_BYTES)) * unit
    found = []
    for first in range(0, weight.rows, most):
        number = first // most if weight.rows > most else None
        found.append(Part(weight.name, first, replace(whole, rows=min(most, weight.rows - first)), number))
    return found


def tile_rows(node: Node, readers: Mapping[str, list[Node]], design: Design) -> int:
    """Output features per tile: whole heads for Q, K and V, else the design's."""
    for reader in readers[node.name]:
        if isinstance(reader.op, (Rotary, Attention)):
            return reader.op.head_dim
    return design.tile_rows


def weight_parts(graph: Graph, design: Design) -> dict[str, list[Part]]:
    """The parts of every matrix that the engine streams, by weight name."""
    found, readers = {}, graph.readers()
    for node in graph.nodes:
        if isinstance(node.op, Linear):
            weight = graph.weight_of(node)
            if weight.elem.group:
                found[weight.name] = group_parts(weight, design.pacq_ports)
            else:
                found[weight.name] = parts(
                    weight.name, weight.rows, weight.cols, design.weight_ports, tile_rows(node, readers, design)
                )
    return found
