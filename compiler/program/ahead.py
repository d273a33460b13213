# SPDX-License-Identifier: Apache-2.0
"""ahead: whether the engine can go from token to token by itself, and the table of embeddings on the board that it gathers from then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Embedding, Head
from meadow.machine.design import Design
from meadow.machine.instructions.next import ENDS
from meadow.machine.isa import Opcode
from meadow.machine.program import CHUNK_LIMIT, Buffer
from meadow.machine.step import NOWHERE, Slot, Step
from meadow.machine.storage.embedding import MINIMA, PARTS, SIGNED, EmbeddingLayout, Rows
from meadow.machine.types import Weight
from meadow.machine.units import BEAT_BYTES

SMALLEST = np.float32(2.0**-100)
"""Scales and minima below it could make numbers that the engine takes for zero."""


@dataclass(frozen=True)
class Ahead:
    """How tokens follow each other on a board.

    layout  of the table that the engine gathers from; None where the host chooses every token
    factor  that a row is multiplied with
    why     the host does, where it does
    """

    layout: EmbeddingLayout | None
    factor: float = 1.0
    why: str = ""

    def buffers(self, design: Design) -> list[Buffer]:
        """The table, and what the host reads and writes besides."""
        if self.layout is None:
            return []
        table = [Buffer(f"embedding.{n}", length, "weights") for n, length in enumerate(self.layout.lengths())]
        return [*table, Buffer("ends", 4 * ENDS, "pinned"), Buffer("ring", BEAT_BYTES * design.context, "pinned")]

    def step(self, buffers: dict[str, Buffer], design: Design) -> Step:
        """NEXT, the last step of a token."""
        assert self.layout is not None

        def slot(name: str) -> Slot:
            return Slot(name, 0, buffers[name].length)

        layout = self.layout
        parts = {f"table{n}": slot(f"embedding.{n}") if n < layout.parts else NOWHERE for n in range(PARTS)}
        numbers = {
            "vocab": layout.rows,
            "dim": layout.dim,
            "group": layout.group,
            "shift": layout.shift,
            "form": layout.form,
            "factor": self.factor,
            "places": design.context,
        }
        places = {name: slot(name) for name in ("logits", "x", "ends", "ring")}
        return Step("next", Opcode.NEXT, {**places, **parts, **numbers})

    def contents(self, graph: Graph) -> dict[str, Callable[[], NDArray[Any]]]:
        """What the buffers of the table hold."""
        if self.layout is None:
            return {}
        weight = graph.weights[graph.nodes[0].weight or ""]
        return {
            f"embedding.{n}": partial(_packed, weight, self.layout, first, last)
            for n, (first, last) in enumerate(self.layout.spans())
        }


def ahead_of(graph: Graph, design: Design, room: int) -> Ahead:
    """Whether a program can go on by itself.

    room  bytes of the board's DRAM beside weights and KV cache
    """
    why = host_only(graph)
    if why:
        return Ahead(None, why=why)
    embedding, weight = graph.nodes[0].op, graph.weights[graph.nodes[0].weight or ""]
    assert isinstance(embedding, Embedding)
    signed = weight.some_codes(slice(0, 1)).dtype == np.int8
    form = SIGNED * signed | MINIMA * (weight.minimum is not None)
    layout = EmbeddingLayout(weight.rows, weight.cols, weight.elem.group or -(-weight.cols // 4) * 4, form, CHUNK_LIMIT)
    try:
        layout.check()
    except ValueError as error:
        return Ahead(None, why=f"of the embedding: {error}")
    if sum(layout.lengths()) > room:
        return Ahead(
            None, why=f"the board has no room for the table of embeddings, {sum(layout.lengths()) / 1e6:,.0f} MB"
        )
    return Ahead(layout, float(np.float32(embedding.factor)))


def host_only(graph: Graph) -> str:
    """What about a model lets the host alone choose its tokens; "" where nothing does."""
    embedding, head = graph.nodes[0].op, graph.nodes[-1].op
    assert isinstance(embedding, Embedding) and isinstance(head, Head)
    weight = graph.weights[graph.nodes[0].weight or ""]
    if weight.scale is None:
        return "the embedding is in floats"
    if embedding.positions is not None:
        return "its positions are learned"
    if head.softcap or head.factor != 1:
        return f"the logits have a {'cap' if head.softcap else 'factor'}"
    if weight.rows != graph.model.vocab:
        return f"the embedding has {weight.rows} rows and the head {graph.model.vocab}"
    for values in (weight.scale, weight.minimum):
        if values is not None and np.array((values != 0) & (np.abs(values) < SMALLEST)).any():
            return "the embedding has scales below 2^-100"
    return ""


def _packed(weight: Weight, layout: EmbeddingLayout, first: int, last: int) -> NDArray[np.uint8]:
    rows = slice(first, last)
    assert weight.scale is not None
    scale = weight.scale[rows].reshape(last - first, -1)
    minimum = None if weight.minimum is None else weight.minimum[rows]
    return layout.pack(Rows(np.ascontiguousarray(weight.some_codes(rows)), scale, minimum))
