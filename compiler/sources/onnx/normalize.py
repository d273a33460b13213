# SPDX-License-Identifier: Apache-2.0
"""normalize: local functions and branches are written out, and Constants become initializers, so that a graph is one list of operators."""

from __future__ import annotations

import onnx
from onnx import helper

MOST_NODES = 1 << 20
"""Operators of a graph after its functions are written out."""


def normalize(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without local functions, and with the branch for a cache where an exporter merged two graphs."""
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    for _ in range(8):
        chosen = [n for n in model.graph.node if n.op_type == "If" and n.input[0] == "use_cache_branch"]
        if not chosen:
            break
        model = _branched(model)
    return model


def _branched(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every If on use_cache_branch replaced by its branch for a cache."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    nodes = []
    for node in model.graph.node:
        if node.op_type != "If" or node.input[0] != "use_cache_branch":
            nodes.append(node)
            continue
        branch = next(a.g for a in node.attribute if a.name == "then_branch")
        made.graph.initializer.extend(branch.initializer)
        nodes += list(branch.node)
        for inner, outer in zip(branch.output, node.output, strict=True):
            if inner.name != outer:
                nodes.append(helper.make_node("Identity", [inner.name], [outer], name=f"{outer}.branch"))
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made
