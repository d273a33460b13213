# SPDX-License-Identifier: Apache-2.0
"""Make every rotation one of whole heads by halves, which is the engine's: rows of Q and K move, and what rests turns by nothing.

    neighbours (2i, 2i + 1)      ->  halves (i, i + head_dim / 2)
    the first part of a head     ->  the whole head, with frequencies of 0 for the rest
    no rotation at all           ->  frequencies of 0: cosine 1 and sine 0, which changes no bit

Scores do not change: Q and K move alike.  Gains of norms on heads and biases move with their rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph, Node, name_of
from meadow.compiler.graph.ops import Attention, Linear, Norm, Rotary
from meadow.machine.types import Weight


def turn_halves(graph: Graph) -> Graph:
    """The graph with every query and key of an attention turned by halves."""
    nodes = {n.name: n for n in graph.nodes}
    weights, vectors = dict(graph.weights), dict(graph.vectors)
    made: dict[str, list[Node]] = {}
    for attention in [n for n in graph.nodes if isinstance(n.op, Attention)]:
        op = attention.op
        assert isinstance(op, Attention)
        for place, heads in ((0, op.heads), (1, op.kv_heads)):
            source = nodes[attention.inputs[place]]
            rotary = source.op if isinstance(source.op, Rotary) else None
            if rotary is not None and not rotary.interleaved and 2 * len(rotary.frequencies) == op.head_dim:
                continue
            order = _order(op.head_dim, rotary)
            speeds = () if rotary is None else rotary.frequencies
            turned = Rotary(heads, op.head_dim, speeds + (0.0,) * (op.head_dim // 2 - len(speeds)))
            inner = source if rotary is None else nodes[source.inputs[0]]
            _move(nodes, inner, order, weights, vectors)
            if rotary is not None:
                nodes[source.name] = replace(source, op=turned)
                continue
            role = f"{'qk'[place]}_rope"
            name = name_of(attention.layer, role)
            made.setdefault(source.name, []).append(Node(name, turned, (source.name,), attention.layer, role))
            inputs = tuple(name if n == place else i for n, i in enumerate(nodes[attention.name].inputs))
            nodes[attention.name] = replace(nodes[attention.name], inputs=inputs)
    order_of = [n for old in graph.nodes for n in (nodes[old.name], *made.get(old.name, []))]
    return graph.replace(nodes=tuple(order_of), weights=weights, vectors=vectors).used()


def _order(head_dim: int, rotary: Rotary | None) -> NDArray[np.intp]:
    """Which element of a head each element is afterwards."""
    count = 0 if rotary is None else len(rotary.frequencies)
    if rotary is not None and rotary.interleaved:
        low, high = np.arange(0, 2 * count, 2), np.arange(1, 2 * count, 2)
    else:
        low, high = np.arange(count), np.arange(count, 2 * count)
    rest = np.arange(2 * count, head_dim)
    half = head_dim // 2 - count
    return np.concatenate([low, rest[:half], high, rest[half:]])


def _move(
    nodes: dict[str, Node],
    node: Node,
    order: NDArray[np.intp],
    weights: dict[str, Weight],
    vectors: dict[str, NDArray[np.float32]],
) -> None:
    """Reorder the elements of every head that `node`, a norm on heads or a linear, computes."""
    if np.array_equal(order, np.arange(len(order))):
        return
    op = node.op
    if isinstance(op, Norm):
        assert op.gain is not None
        if len(vectors[op.gain]) != len(order):
            raise ValueError(f"%{node.name}: a norm of whole rows before a rotation of parts")
        name = f"{op.gain}.turned"
        vectors[name] = np.ascontiguousarray(vectors[op.gain][order])
        nodes[node.name] = replace(node, op=replace(op, gain=name))
        _move(nodes, nodes[node.inputs[0]], order, weights, vectors)
        return
    assert isinstance(op, Linear)
    weight = weights[op.weight]
    rows = (np.arange(0, weight.rows, len(order))[:, None] + order).reshape(-1)
    name = f"{op.weight}.turned"
    weights[name] = weight.only(rows, name)
    bias = None
    if op.bias:
        bias = f"{op.bias}.turned"
        vectors[bias] = np.ascontiguousarray(vectors[op.bias][rows])
    nodes[node.name] = replace(node, op=replace(op, weight=name, bias=bias))
