# SPDX-License-Identifier: Apache-2.0
"""outline: the Graph of a model of which only the shapes are known, to price a design without weights.

Its weights have a distribution and no memory; nothing computes with them.
"""

from __future__ import annotations

import numpy as np

from meadow.compiler.graph.graph import Graph, Model, Node, Op
from meadow.evidence.bench.published import Shape
from meadow.machine.types import I8, Weight

SPREAD = 24.0
"""Standard deviation of the stand-in's codes: 6.6 bits of entropy, between per-tensor and per-channel weights."""


def outline(shape: Shape, context: int = 1024) -> Graph:
    """A decoder of LLaMA's kind of the size of `shape`: gated MLPs of two thirds of its width, the same bytes a layer."""
    gated = -(-2 * shape.ffn // 3 // 32) * 32
    model = Model(f"{shape.name}-sized", shape.layers, shape.dim, shape.heads, shape.heads, shape.head_dim, gated, shape.vocab,
                  1e-5, tuple(1e4 ** (-np.arange(shape.head_dim // 2) / (shape.head_dim // 2))), context, "int8")  # fmt: skip
    weights: dict[str, Weight] = {}
    gains = {}
    nodes = [Node("embed", Op.EMBED, (), "vocabulary")]

    def matrix(name: str, rows: int, cols: int) -> str:
        row = np.clip(np.rint(np.random.default_rng(cols).normal(0, SPREAD, cols)), -127, 127).astype(np.int8)
        weights[name] = Weight(name, I8, np.broadcast_to(row, (rows, cols)), np.broadcast_to(np.float32(1), (rows,)))
        return name

    def norm(name: str, source: str) -> str:
        gains[name] = np.ones(shape.dim, np.float32)
        nodes.append(Node(name, Op.NORM, (source,), name))
        return name

    def linear(name: str, source: str, rows: int, cols: int) -> str:
        layer = int(name[1 : name.index(".")])
        nodes.append(Node(name, Op.LINEAR, (source,), matrix(name, rows, cols), layer))
        return name

    matrix("vocabulary", shape.vocab, shape.dim)
    x = "embed"
    for n in range(shape.layers):
        normed = norm(f"l{n}.attn_norm", x)
        q, k, v = (linear(f"l{n}.{part}", normed, shape.dim, shape.dim) for part in "qkv")
        nodes.append(Node(f"l{n}.q_rope", Op.ROPE, (q,), heads=shape.heads))
        nodes.append(Node(f"l{n}.k_rope", Op.ROPE, (k,), heads=shape.heads))
        nodes.append(Node(f"l{n}.attend", Op.ATTEND, (f"l{n}.q_rope", f"l{n}.k_rope", v), layer=n, heads=shape.heads))
        nodes.append(Node(f"l{n}.attn_add", Op.ADD, (x, linear(f"l{n}.o", f"l{n}.attend", shape.dim, shape.dim))))
        normed = norm(f"l{n}.ffn_norm", f"l{n}.attn_add")
        nodes.append(Node(f"l{n}.glu", Op.GLU, (linear(f"l{n}.gate_up", normed, 2 * gated, shape.dim),)))
        nodes.append(Node(f"l{n}.add", Op.ADD, (f"l{n}.attn_add", linear(f"l{n}.down", f"l{n}.glu", shape.dim, gated))))
        x = f"l{n}.add"
    nodes.append(Node("logits", Op.HEAD, (norm("norm", x),), "vocabulary"))
    graph = Graph(model, tuple(nodes), weights, gains)
    graph.check()
    return graph
