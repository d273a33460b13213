# SPDX-License-Identifier: Apache-2.0
"""Join gate and up into one matrix whose rows alternate, so that silu(gate) * up needs no buffer between them.

%g = linear(%n, @gate)                    %gu = linear(%n, @gate_up)
%u = linear(%n, @up)          becomes     %h = glu(%gu)
%h = glu(%g, %u)                          (rows gate 0, up 0, gate 1, up 1, ...)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph, Node, Op
from meadow.machine.types import Weight


def fuse_glu(graph: Graph) -> Graph:
    """Fuse every glu of two linears that read one input and have weights of one type."""
    by_name = {node.name: node for node in graph.nodes}
    weights = dict(graph.weights)
    dropped: set[str] = set()
    replaced: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op is not Op.GLU or len(node.inputs) != 2:
            continue
        gate, up = (by_name[i] for i in node.inputs)
        if gate.op is not Op.LINEAR or up.op is not Op.LINEAR or gate.inputs != up.inputs:
            continue
        a, b = graph.weight_of(gate), graph.weight_of(up)
        if a.elem != b.elem or a.codes.shape != b.codes.shape:
            continue
        joined = alternate(a, b)
        weights[joined.name] = joined
        name = node.name.removesuffix("glu") + "gate_up"
        replaced[node.name] = [
            Node(name, Op.LINEAR, gate.inputs, joined.name, gate.layer),
            Node(node.name, Op.GLU, (name,)),
        ]
        dropped |= {gate.name, up.name}
    nodes = []
    for node in graph.nodes:
        if node.name not in dropped:
            nodes += replaced.get(node.name, [node])
    used = {node.weight for node in nodes if node.weight is not None}
    return graph.replace(nodes=tuple(nodes), weights={k: v for k, v in weights.items() if k in used})


def alternate(a: Weight, b: Weight) -> Weight:
    """Rows a0, b0, a1, b1, ... of two matrices of one shape and type."""
    name = f"{a.name}+{b.name.split('.')[-2] if '.' in b.name else b.name}"

    def joined(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        return np.stack([x, y], axis=1).reshape(2 * x.shape[0], *x.shape[1:])

    scale = None if a.scale is None or b.scale is None else joined(a.scale, b.scale)
    minimum = None if a.minimum is None or b.minimum is None else joined(a.minimum, b.minimum)
    return Weight(name, a.elem, joined(a.codes, b.codes), scale, minimum)
