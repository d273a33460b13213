# SPDX-License-Identifier: Apache-2.0
"""A decoder: a model of a family with all its numbers, and its Graph as soon as a file gives the tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph, Model
from meadow.compiler.graph.ops import Head, Norm
from meadow.compiler.sources.families.family import FUSED, Family, Nodes, Shape
from meadow.machine.types import Weight


class Store(Protocol):
    """A file's tensors, by layer (None: in no layer) and role."""

    def name(self, layer: int | None, role: str) -> str:
        """What the graph calls it."""
        ...

    def matrix(self, layer: int | None, role: str) -> Weight: ...

    def vector(self, layer: int | None, role: str) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Decoder:
    """Everything but the tensors.

    shapes            one per layer
    eps               of the norm before the head
    embedding_factor  of the embedding's rows
    residual_factor   of what attention and MLP add to the stream
    logits_factor     of the logits; logits_softcap caps them where it is not 0
    tied              the head is the embedding
    places            rows of the learned positions
    notes             what people should know of this reading
    longest           positions from which rotary positions are others; 0: nowhere
    """

    family: Family
    model: Model
    shapes: tuple[Shape, ...]
    eps: float
    embedding_factor: float = 1.0
    residual_factor: float = 1.0
    logits_factor: float = 1.0
    logits_softcap: float = 0.0
    tied: bool = False
    places: int = 0
    notes: tuple[str, ...] = ()
    longest: int = 0

    def changed(self, **values: Any) -> Decoder:
        return replace(self, **values)

    def wired(self, **values: Any) -> Decoder:
        """With other fields of the family."""
        return replace(self, family=replace(self.family, **values))

    def per_layer(self, values: Callable[[int], dict[str, Any]]) -> Decoder:
        """With other numbers of each layer."""
        return replace(self, shapes=tuple(replace(s, **values(n)) for n, s in enumerate(self.shapes)))

    def size(self, role: str) -> tuple[int, ...]:
        """The shape of a tensor, [N, K] or [n]; of the part where files fuse it."""
        model, shape = self.model, self.shapes[0]
        q, kv, dim, ffn = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, model.dim, model.ffn
        by_head = self.family.head_norms == "heads"
        sizes: dict[str, tuple[int, ...]] = {
            "embed": (model.vocab, dim),
            "positions": (self.places, dim),
            "q": (q, dim),
            "k": (kv, dim),
            "v": (kv, dim),
            "o": (dim, q),
            "gate": (ffn, dim),
            "up": (ffn, dim),
            "down": (dim, ffn),
            "q_norm": (shape.head_dim,) if by_head else (q,),
            "k_norm": (shape.head_dim,) if by_head else (kv,),
            "head": (model.vocab, dim),
        }
        matrix, _, bias = role.partition(".")
        if matrix in FUSED:
            parts = [sizes[part] for part in FUSED[matrix]]
            size: tuple[int, ...] = (sum(p[0] for p in parts), dim)
        else:
            size = sizes.get(matrix, (dim,))
        return size[:1] if bias else size

    def part(self, role: str) -> slice | None:
        """The rows of `role` in the matrix that its rows are fused into one after the other; None where it is a tensor of its own."""
        matrix = role.partition(".")[0]
        whole = self.family.whole(matrix)
        if whole == matrix:
            return None
        start = 0
        for part in FUSED[whole]:
            rows = self.size(part)[0]
            if part == matrix:
                return slice(start, start + rows)
            start += rows
        raise KeyError(role)

    def tensors(self) -> Iterator[tuple[int | None, str]]:
        """(layer, role) of every tensor that a file must have, each whole once."""
        family = self.family
        for role in (*family.ends(), *([] if self.tied else ["head"])):
            yield None, role
        for layer in range(self.model.layers):
            for role in dict.fromkeys(family.whole(role) for role in family.roles()):
                yield layer, role

    def graph(self, store: Store, source: str, metadata: dict[str, str], positions: int) -> Graph:
        """The Graph with the tensors of `store`."""
        family, nodes = self.family, Nodes()
        weights: dict[str, Weight] = {}
        vectors: dict[str, NDArray[np.float32]] = {}

        def take(layer: int | None, roles: tuple[str, ...]) -> dict[str, str]:
            names = {role: store.name(layer, role) for role in roles}
            for role, name in names.items():
                if len(self.size(role)) == 1:
                    vectors[name] = store.vector(layer, role)
                elif name not in weights:
                    weights[name] = store.matrix(layer, role)
            return names

        ends = take(None, family.ends())
        x = nodes.begin(ends["embed"], self.embedding_factor, ends.get("positions"), family.positions or 0)
        for nodes.layer, shape in enumerate(self.shapes):
            x = family.block(nodes, shape, take(nodes.layer, family.roles()), x, self.residual_factor)
        nodes.layer = None
        head = ends["embed"] if self.tied else take(None, ("head",))["head"]
        norm = None if family.after_norms else Norm(ends.get("norm"), self.eps, family.norm, ends.get("norm.bias"))
        nodes.end(x, Head(head, ends.get("head.bias"), self.logits_factor, self.logits_softcap), norm)
        metadata = {**metadata, "meadow.family": family.title}
        made = Graph(
            self.model, tuple(nodes.made), weights, vectors, source, metadata, self.longest or positions, self.notes
        )
        made.check()
        return made
