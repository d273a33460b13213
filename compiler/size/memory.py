# SPDX-License-Identifier: Apache-2.0
"""Memory of a model on a board: the weights that the engines read and the KV cache, and what would fit where they do not.

Counted from shapes before anything is packed; `place` counts the bytes themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from meadow.boards import Board
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Attention, Linear
from meadow.machine.errors import ResourceExceeded
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES

WIDTHS = (8, 4, 2)
"""Bits per weight that `quantize` writes, from the best."""
SCALES = {8: 0.0, 4: 2.0, 2: 2.0}
"""Bits per weight of the scales and minima beside them, in groups of 32: FP32 each."""


@dataclass(frozen=True)
class Memory:
    """Bytes, as they are stored densely.

    elements   of the matrices that are multiplied with, each once
    weights    bytes of these
    per_token  bytes of keys and values of a token: INT8, with an FP32 scale per head
    """

    elements: int
    weights: int
    per_token: int

    def total(self, context: int) -> int:
        return self.weights + context * self.per_token

    def context(self, room: int, bits: int | None = None) -> int:
        """The longest context in `room` bytes, in steps of 64; with weights of `bits` bits where given."""
        weights = self.weights if bits is None else int(self.elements * (bits + SCALES[bits]) / 8)
        return max(room - weights, 0) // self.per_token // 64 * 64


def memory_of(graph: Graph) -> Memory:
    """What the engines read of a graph."""
    multiplied = {n.weight for n in graph.nodes if isinstance(n.op, Linear)}
    weights = [weight for name, weight in graph.weights.items() if name in multiplied]
    caches = [n.op for n in graph.nodes if isinstance(n.op, Attention) and n.op.keys_from is None]
    per_token = sum(2 * op.kv_heads * (padded(op.head_dim, BEAT_BYTES) + 4) for op in caches)
    return Memory(sum(w.size for w in weights), sum(w.nbytes for w in weights), per_token)


def room_beside(graph: Graph, context: int, board: Board) -> int:
    """Bytes of a board's DRAM beside the weights that the engines read and the KV cache."""
    return board.dram_bytes - memory_of(graph).total(context)


def require_memory(graph: Graph, context: int, board: Board) -> None:
    """Raise ResourceExceeded, with what would fit in numbers, for weights and KV cache that the board does not hold."""
    memory, room = memory_of(graph), board.dram_bytes
    if memory.total(context) <= room:
        return
    would = []
    if longest := memory.context(room):
        would.append(f"--set context={longest} with these weights")
    narrowest = min((w.elem.bits for w in graph.weights.values() if w.elem.quantized), default=8)
    for bits in WIDTHS:
        if bits < narrowest and (longest := memory.context(room, bits)):
            would.append(
                f"context {min(longest, context)} with {bits}-bit weights (meadowc quantize --weights int{bits})"
            )
    raise ResourceExceeded(
        f"the model needs {memory.weights / 1e6:,.0f} MB of weights and {context * memory.per_token / 1e6:,.0f} MB of KV cache for a "
        f"context of {context}, and {board.title} has {room / 1e6:,.0f} MB; "
        + (
            f"this would fit: {'; '.join(would)}"
            if would
            else "no width of weights and no context would fit: a smaller model is needed"
        )
    )
