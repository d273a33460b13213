# SPDX-License-Identifier: Apache-2.0
"""outline: the Graph of a model of which only the shapes are known, to price a design without weights.

Its weights have a distribution and no memory; nothing computes with them.
"""

from __future__ import annotations

import numpy as np

from meadow.compiler.graph.graph import Graph, Model
from meadow.compiler.graph.ops import Head, Norm
from meadow.compiler.graph.passes.fuse_glu import fuse_glu
from meadow.compiler.sources.families import family as families
from meadow.compiler.sources.families.llama import FAMILY as LLAMA
from meadow.evidence.bench.published import Shape
from meadow.machine.types import I8, Weight

SPREAD = 24.0
"""Standard deviation of the stand-in's codes: 6.6 bits of entropy, between per-tensor and per-channel weights."""


def outline(shape: Shape, context: int = 1024) -> Graph:
    """A decoder of LLaMA's kind of the size of `shape`: gated MLPs of two thirds of its width, the same bytes per layer."""
    gated = -(-2 * shape.ffn // 3 // 32) * 32
    dim, vocab = shape.dim, shape.vocab
    model = Model(
        f"{shape.name}-sized",
        shape.layers,
        dim,
        shape.heads,
        shape.heads,
        shape.head_dim,
        gated,
        vocab,
        context,
        "int8",
    )
    weights: dict[str, Weight] = {}
    vectors = {"norm": np.ones(dim, np.float32)}

    def matrix(name: str, rows: int, cols: int) -> str:
        row = np.clip(np.rint(np.random.default_rng(cols).normal(0, SPREAD, cols)), -127, 127).astype(np.int8)
        weights[name] = Weight(name, I8, np.broadcast_to(row, (rows, cols)), np.broadcast_to(np.float32(1), (rows,)))
        return name

    nodes = families.Nodes()
    frequencies = tuple(1e4 ** (-np.arange(shape.head_dim // 2) / (shape.head_dim // 2)))
    block = families.Shape(shape.heads, shape.heads, shape.head_dim, (1e-5, 1e-5), frequencies)
    sizes = {"gate": (gated, dim), "up": (gated, dim), "down": (dim, gated)}
    x = nodes.begin(matrix("vocabulary", vocab, dim))
    for layer in range(shape.layers):
        nodes.layer = layer
        names = {role: matrix(f"l{layer}.{role}", *sizes.get(role, (dim, dim))) for role in families.LINEARS}
        for role in ("attn_norm", "ffn_norm"):
            names[role] = f"l{layer}.{role}"
            vectors[names[role]] = np.ones(dim, np.float32)
        x = LLAMA.block(nodes, block, names, x)
    nodes.layer = None
    nodes.end(x, Head("vocabulary"), Norm("norm", 1e-5))
    graph = fuse_glu(Graph(model, tuple(nodes.made), weights, vectors), _joined)
    graph.check()
    return graph


def _joined(a: Weight, b: Weight) -> Weight:
    """Two stand-ins as one of twice the rows; both have the same row."""
    rows, cols = a.codes.shape
    return Weight(
        f"{a.name}+{b.name}",
        a.elem,
        np.broadcast_to(a.codes[0], (2 * rows, cols)),
        np.broadcast_to(np.float32(1), (2 * rows,)),
    )
