# SPDX-License-Identifier: Apache-2.0
"""Fold the factors of linears into the scales of their weights: one rounding of FP32 (docs/decisions/0031-what-is-folded.md).

The head's factor is the host's: a tied head shares its scales with the embedding.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Linear


def fold_factors(graph: Graph) -> Graph:
    """The graph with a factor of 1 on every linear whose weights have scales."""
    weights, nodes = dict(graph.weights), []
    for node in graph.nodes:
        op = node.op
        if type(op) is not Linear or op.factor == 1 or weights[op.weight].scale is None:
            nodes.append(node)
            continue
        weight, factor = weights[op.weight], np.float32(op.factor)
        assert weight.scale is not None
        name = f"{op.weight}.times{op.factor:g}"
        minimum = None if weight.minimum is None else weight.minimum * factor
        weights[name] = replace(weight, name=name, scale=weight.scale * factor, minimum=minimum)
        nodes.append(replace(node, op=replace(op, weight=name, factor=1.0)))
    return graph.replace(nodes=tuple(nodes), weights=weights).used()
