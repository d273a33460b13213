# SPDX-License-Identifier: Apache-2.0
"""Constants that a program reads besides matrices: gains of norms and tables of rotary embeddings, by buffer name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Norm, Rotary
from meadow.machine.arithmetic.int8 import rope_table
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES


def gain_name(op: Norm) -> str:
    """The buffer of a norm's gain."""
    assert op.gain is not None
    return f"{op.gain}+{op.offset:g}" if op.offset else op.gain


def gains(graph: Graph) -> dict[str, NDArray[np.float32]]:
    """What the norms multiply with, float32 [dim], by buffer name, in the order of the graph's vectors."""
    norms = {n.op.gain: n.op for n in graph.nodes if isinstance(n.op, Norm)}
    found = {}
    for name, values in graph.vectors.items():
        op = norms.get(name)
        if op is not None:
            found[gain_name(op)] = values + np.float32(op.offset) if op.offset else values
    return found


def rotary_names(graph: Graph) -> dict[tuple[float, ...], str]:
    """The buffer of each rotary table, by its frequencies: "rope" for the first."""
    found: dict[tuple[float, ...], str] = {}
    for node in graph.nodes:
        if isinstance(node.op, Rotary) and node.op.frequencies not in found:
            found[node.op.frequencies] = f"rope{len(found) or ''}"
    return found


def rope_row_bytes(head_dim: int) -> int:
    """Bytes of one position in the rotary table: cos and sin of head_dim / 2 pairs, int16, padded to a beat."""
    return padded(head_dim * 2, BEAT_BYTES)


def rotary_table(frequencies: tuple[float, ...], context: int) -> NDArray[np.int16]:
    """int16 [context, row]: the rows of a table as they lie in memory."""
    table = rope_table(np.array(frequencies), context).reshape(context, -1)
    rows = np.zeros((context, rope_row_bytes(2 * len(frequencies)) // 2), np.int16)
    rows[:, : table.shape[1]] = table
    return rows
