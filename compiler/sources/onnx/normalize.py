# SPDX-License-Identifier: Apache-2.0
"""normalize: local functions and branches for a cache are written out, and Constants become initializers: a graph is one list of operators."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper

from meadow.compiler.sources.onnx.file import refuse_disorder
from meadow.machine.errors import UsageError

MOST_NODES = 1 << 20
"""Operators of a graph after its functions are written out: a file with more is hostile."""
DEEPEST = 64
"""Functions that call one another, and branches within branches."""


def normalize(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The same graph without local functions, branches on use_cache_branch and Constants; `name` is the file's, for messages.

    Of two graphs that an exporter merged, the one for a cache is kept.  Raises UsageError for functions without an end.
    """
    if model.functions:
        _refuse_growth(model, name)
        model = inliner.inline_local_functions(model)
    for _ in range(DEEPEST):
        if not any(_is_branch(n) for n in model.graph.node):
            break
        model = _branched(model)
    model = _with_scaled_tables(_without_constants(model))
    refuse_disorder(name, model)
    return model


def _refuse_growth(model: onnx.ModelProto, name: str) -> None:
    """Raise UsageError where writing functions out makes more than MOST_NODES operators, or never ends."""
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: object, depth: int) -> int:
        total = 0
        if depth > DEEPEST:
            raise UsageError(f"{name}: functions call one another more than {DEEPEST} deep: not a valid graph")
        for node in nodes:  # type: ignore[attr-defined]
            key = (node.domain, node.op_type)
            if key in bodies and key not in sizes:
                sizes[key] = size(bodies[key], depth + 1)
            total += sizes.get(key, 1) + sum(size(a.g.node, depth + 1) for a in node.attribute if a.HasField("g"))
        return total

    found = size(model.graph.node, 0)
    if found > MOST_NODES:
        raise UsageError(f"{name}: its functions make {found} operators when written out; {MOST_NODES} are possible")


def _is_branch(node: onnx.NodeProto) -> bool:
    return node.op_type == "If" and list(node.input) == ["use_cache_branch"]


def _branched(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every If on use_cache_branch replaced by its branch for a cache."""
    nodes: list[onnx.NodeProto] = []
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for node in model.graph.node:
        if not _is_branch(node):
            nodes.append(node)
            continue
        branch = next(a.g for a in node.attribute if a.name == "then_branch")
        made.graph.initializer.extend(branch.initializer)
        nodes += branch.node
        for inner, outer in zip(branch.output, node.output, strict=True):
            if inner.name != outer:
                nodes.append(helper.make_node("Identity", [inner.name], [outer], name=f"{outer}.branch"))
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _without_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every Constant of numbers as an initializer, so that its data may be external, as an initializer's."""
    constants = {n: t for n in range(len(model.graph.node)) if (t := _tensor_of(model.graph.node[n])) is not None}
    if not constants:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kept = [node for n, node in enumerate(model.graph.node) if n not in constants]
    del made.graph.node[:]
    made.graph.node.extend(kept)
    made.graph.initializer.extend(constants.values())
    return made


def _with_scaled_tables(model: onnx.ModelProto) -> onnx.ModelProto:
    """Codes that are looked up and then scaled, all by one scale, become rows of a table that is scaled: the same numbers."""
    known = {t.name: t for t in model.graph.initializer}
    gathers = {n.output[0]: n for n in model.graph.node if n.op_type == "Gather" and n.input[0] in known}
    single = Counter(name for n in model.graph.node for name in n.input)
    for node in model.graph.node:
        gather = gathers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        scales = [known[name] for name in node.input[1:] if name in known]
        if gather is None or single[node.input[0]] != 1 or len(scales) != len(node.input) - 1:
            continue
        if any(int(np.prod(t.dims)) != 1 for t in scales):
            continue
        table, ids, found = gather.input[0], gather.input[1], node.output[0]
        axis = [a for a in gather.attribute if a.name == "axis"]
        scaled = f"{table}.scaled"
        gather.CopyFrom(
            helper.make_node("DequantizeLinear", [table, *node.input[1:]], [scaled], name=f"{node.name}.table", axis=0)
        )
        node.CopyFrom(helper.make_node("Gather", [scaled, ids], [found], name=node.name))
        node.attribute.extend(axis)
    return model


def _tensor_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant of numbers holds, called as its output; None for any other operator."""
    if node.op_type != "Constant" or len(node.attribute) != 1 or len(node.output) != 1:
        return None
    (attribute,) = node.attribute
    made = onnx.TensorProto()
    if attribute.name == "value":
        made.CopyFrom(attribute.t)
    elif attribute.name in ("value_float", "value_floats"):
        made = numpy_helper.from_array(np.asarray(helper.get_attribute_value(attribute), np.float32))
    elif attribute.name in ("value_int", "value_ints"):
        made = numpy_helper.from_array(np.asarray(helper.get_attribute_value(attribute), np.int64))
    else:
        return None
    made.name = node.output[0]
    return made
