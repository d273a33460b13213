# SPDX-License-Identifier: Apache-2.0
"""SmoothQuant (Xiao et al., 2023): move range from activations into the weights that read them, which changes no function."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Activation, Attention, Linear, Norm
from meadow.compiler.quantize.calibrate import Statistics
from meadow.machine.types import F32, Weight

Floats = NDArray[np.float32]


def smooth(graph: Graph, statistics: Statistics, strength: float) -> Graph:
    """Divide activation channels by s and multiply the weights that read them by s; the statistics follow.

    s = (peak of the activation / peak of the weight's column) ^ (strength / 2), equation 4 at alpha = 0.5 for strength 1.
    What divides an activation is folded into what produces it, as the graph is wired: a norm's gain, the rows of up (for
    down), the rows of V (for the output projection, shared by the query heads of a KV head).  Weights come out as floats.
    """
    weights = {name: w.dequantize() for name, w in graph.weights.items()}
    vectors = dict(graph.vectors)
    readers = graph.readers()
    by_name = {node.name: node for node in graph.nodes}
    for node in graph.nodes:
        linears = [r for r in readers[node.name] if type(r.op) is Linear and r.layer is not None]
        match node.op:
            case Norm() as op if linears and len(linears) == len(readers[node.name]) and op.gain is not None:
                _norm(op, linears, weights, vectors, statistics, strength)
    for node in graph.nodes:
        if isinstance(node.op, Activation) and node.op.gated and len(node.inputs) == 2:
            _gated(by_name[node.inputs[1]], readers[node.name], weights, statistics, strength)
    for node in graph.nodes:
        if isinstance(node.op, Attention) and node.op.keys_from is None:
            _attention(node.op, by_name[node.inputs[2]], readers[node.name], weights, statistics, strength)
    for node in graph.nodes:
        if isinstance(node.op, Norm) and node.op.gain is not None and node.layer is not None:
            ratio = (vectors[node.op.gain] / graph.vectors[node.op.gain]) ** 2
            for reader in readers[node.name]:
                if reader.name in statistics.power:
                    statistics.power[reader.name] = statistics.power[reader.name] * ratio
    made = {name: Weight(name, F32, w) for name, w in weights.items()}
    return replace(graph, weights=made, vectors=vectors)


def _factor(peak: Floats, matrices: list[Floats], strength: float) -> Floats:
    column = np.max([np.abs(w).max(axis=0) for w in matrices], axis=0)
    ratio = np.maximum(peak, 1e-5) / np.maximum(column, 1e-5)
    s = ratio.astype(np.float64) ** (strength / 2)
    return (s / np.exp(np.mean(np.log(s)))).astype(np.float32)


def _norm(
    op: Norm,
    linears: list[Node],
    weights: dict[str, Floats],
    vectors: dict[str, Floats],
    statistics: Statistics,
    strength: float,
) -> None:
    """A norm's gain against all linears that read it."""
    names = [n.weight or "" for n in linears]
    s = _factor(statistics.peak[linears[0].name], [weights[w] for w in names], strength)
    for name in names:
        weights[name] = weights[name] * s
    gain = op.gain or ""
    vectors[gain] = (
        (vectors[gain] + np.float32(op.offset)) / s - np.float32(op.offset) if op.offset else vectors[gain] / s
    ).astype(np.float32)
    if op.bias is not None:
        vectors[op.bias] = (vectors[op.bias] / s).astype(np.float32)


def _gated(up: Node, readers: list[Node], weights: dict[str, Floats], statistics: Statistics, strength: float) -> None:
    """The rows of up against down; a bias of up keeps it as it is."""
    if len(readers) != 1 or type(up.op) is not Linear or up.op.bias is not None or type(readers[0].op) is not Linear:
        return
    (down,) = readers
    s = _factor(statistics.peak[down.name], [weights[down.weight or ""]], strength)
    weights[down.weight or ""] = weights[down.weight or ""] * s
    weights[up.weight or ""] = weights[up.weight or ""] / s[:, None]
    statistics.power[down.name] = statistics.power[down.name] / s**2


def _attention(
    op: Attention, v: Node, readers: list[Node], weights: dict[str, Floats], statistics: Statistics, strength: float
) -> None:
    """The rows of V against the output projection; a bias of V keeps it as it is."""
    if len(readers) != 1 or type(v.op) is not Linear or v.op.bias is not None or type(readers[0].op) is not Linear:
        return
    first = np.cumsum([0, *op.heads_of_kv])[:-1]  # query head of each KV head

    def per_kv_head(values: Floats) -> Floats:
        """[heads * head_dim] -> the largest over the query heads of a KV head, repeated for each of them."""
        split = np.maximum.reduceat(values.reshape(op.heads, op.head_dim), first, axis=0)
        return np.repeat(split, op.heads_of_kv, axis=0).reshape(-1)

    o = readers[0]
    matrix, values = o.weight or "", v.weight or ""
    column = per_kv_head(np.abs(weights[matrix]).max(axis=0))
    s = _factor(per_kv_head(statistics.peak[o.name]), [column[None, :]], strength)
    weights[matrix] = weights[matrix] * s
    once = s.reshape(op.heads, op.head_dim)[first].reshape(-1)
    weights[values] = weights[values] / once[:, None]
    statistics.power[o.name] = statistics.power[o.name] / s**2
