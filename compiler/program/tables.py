# SPDX-License-Identifier: Apache-2.0
"""Tables of rotary embeddings: which a graph needs, and what they hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Rotary
from meadow.machine.arithmetic.int8 import rope_table
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES


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
