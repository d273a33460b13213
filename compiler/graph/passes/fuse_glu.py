# SPDX-License-Identifier: Apache-2.0
"""Join gate and up into one matrix whose rows alternate, so that silu(gate) * up needs no buffer between them.

%g = linear(%n, @gate)                    %gu = linear(%n, @gate_up)
%u = linear(%n, @up)          becomes     %h = act(%gu, silu, alternating)
%h = act(%g, %u, silu)                    (rows gate 0, up 0, gate 1, up 1, ...)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph, Node, name_of
from meadow.compiler.graph.ops import Activation, Linear
from meadow.machine.types import Deferred, Rows, Weight


def fuse_glu(graph: Graph, join: Callable[[Weight, Weight], Weight] | None = None) -> Graph:
    """Fuse every gated activation of two linears that read one input and have weights of one type, both with a bias or neither.

    join  makes one matrix of two; `alternate` unless told
    """
    by_name = {node.name: node for node in graph.nodes}
    weights, vectors = dict(graph.weights), dict(graph.vectors)
    dropped: set[str] = set()
    replaced: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Activation) or len(node.inputs) != 2:
            continue
        gate, up = (by_name[i] for i in node.inputs)
        if type(gate.op) is not Linear or type(up.op) is not Linear or gate.inputs != up.inputs:
            continue
        a, b = graph.weight_of(gate), graph.weight_of(up)
        if bool(gate.op.bias) != bool(up.op.bias) or gate.op.factor != up.op.factor:
            continue
        if a.elem != b.elem or a.shape != b.shape:
            continue
        joined = (join or alternate)(a, b)
        weights[joined.name] = joined
        bias = None
        if gate.op.bias and up.op.bias:
            bias = f"{gate.op.bias}+{up.op.bias}"
            vectors[bias] = np.stack([vectors[gate.op.bias], vectors[up.op.bias]], axis=1).reshape(-1)
        role = f"{gate.role}_{up.role}"
        name = name_of(node.layer, role)
        replaced[node.name] = [
            Node(name, Linear(joined.name, bias, gate.op.factor), gate.inputs, node.layer, role),
            replace(node, op=replace(node.op, alternating=True), inputs=(name,)),
        ]
        dropped |= {gate.name, up.name}
    nodes = []
    for node in graph.nodes:
        if node.name not in dropped:
            nodes += replaced.get(node.name, [node])
    return graph.replace(nodes=tuple(nodes), weights=weights, vectors=vectors).used()


def alternate(a: Weight, b: Weight) -> Weight:
    """Rows a0, b0, a1, b1, ... of two matrices of one shape and type."""
    name = f"{a.name}+{b.name}"

    def joined(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        return np.stack([x, y], axis=1).reshape(2 * x.shape[0], *x.shape[1:])

    scale = None if a.scale is None or b.scale is None else joined(a.scale, b.scale)
    minimum = None if a.minimum is None or b.minimum is None else joined(a.minimum, b.minimum)
    if not isinstance(a, Deferred):
        return Weight(name, a.elem, joined(a.codes, b.codes), scale, minimum)

    def some(rows: Rows) -> NDArray[Any]:
        order = np.arange(2 * a.rows)[rows]
        made = np.empty((len(order), a.cols), a.some_codes(slice(0, 1)).dtype)
        for first, weight in ((0, a), (1, b)):
            made[order % 2 == first] = weight.some_codes(order[order % 2 == first] // 2)
        return made

    return Deferred(name, a.elem, (2 * a.rows, a.cols), some, scale, minimum)
