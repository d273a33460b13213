# SPDX-License-Identifier: Apache-2.0
"""Constants that a program reads besides matrices: tables of rotary embeddings, and vectors such as the gains of norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph
from meadow.compiler.program.nodes.node import Vector, rule_of
from meadow.compiler.program.parts import tile_rows
from meadow.compiler.program.tables import rope_row_bytes, rotary_names, rotary_table
from meadow.machine.design import Design
from meadow.machine.instructions.instruction import FLOATS
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES


@dataclass(frozen=True)
class Constant:
    """What a constants buffer holds: its bytes, and its values, which are made when they are written."""

    length: int
    values: Callable[[], NDArray[Any]]


def constants(graph: Graph, design: Design) -> dict[str, Constant]:
    """By buffer: the rotary tables, then the vectors that steps read, in the order of the graph's."""
    found = {}
    for frequencies, name in rotary_names(graph).items():
        length = design.context * rope_row_bytes(2 * len(frequencies))
        found[name] = Constant(length, partial(rotary_table, frequencies, design.context))
    read: dict[str, dict[str, Vector]] = {}
    readers = graph.readers()
    for node in graph.nodes:
        for buffer, vector in rule_of(node).vectors(node.op, tile_rows(node, readers, design)).items():
            read.setdefault(vector.name, {})[buffer] = vector
    for name, values in graph.vectors.items():
        for buffer, vector in read.get(name, {}).items():
            length = 4 * _length(values.size, vector.tile)
            found[buffer] = Constant(padded(length, BEAT_BYTES), partial(_laid_out, values, vector))
    return found


def _length(size: int, tile: int) -> int:
    """Elements of a vector in memory."""
    return -(-size // tile) * padded(tile, FLOATS) if tile else size


def _laid_out(values: NDArray[np.float32], vector: Vector) -> NDArray[np.float32]:
    values = values + np.float32(vector.plus) if vector.plus else values
    if not vector.tile:
        return values
    tiles = -(-values.size // vector.tile)
    rows = np.zeros((tiles, padded(vector.tile, FLOATS)), np.float32)
    whole = np.zeros(tiles * vector.tile, np.float32)
    whole[: values.size] = values
    rows[:, : vector.tile] = whole.reshape(tiles, vector.tile)
    return rows.reshape(-1)
