# SPDX-License-Identifier: Apache-2.0
"""Operators that only move elements: they become index algebra and leave no node."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from meadow.compiler.sources.onnx.lift.form import Array, Form, Reject, Term, joined
from meadow.compiler.sources.onnx.lift.lifter import Lifter, given, rule
from meadow.compiler.sources.onnx.lift.lookup import embedding
from meadow.compiler.sources.onnx.lift.settle import cache_of, form_of
from meadow.compiler.sources.onnx.lift.values import (
    Const,
    Curve,
    GroupSum,
    Guard,
    Looked,
    Past,
    Squared,
    Stat,
    Tokens,
    Value,
)
from meadow.compiler.sources.onnx.numeric import FLOATS, HALVES
from meadow.compiler.sources.onnx.shapes import axes_of, parts_of, reshaped, sliced, unsqueezed


def moved(lift: Lifter, value: Value, move: Any) -> Value:
    """A value with its elements moved."""
    if isinstance(value, Curve):
        return Curve(value.x.view(move), value.fn, value.own)
    if isinstance(value, Squared) and isinstance(value.x, Form):
        return Squared(value.x.view(move))
    if isinstance(value, Past):
        raise Reject("the KV cache has no fixed heads and head size in its shape", value.name, "cache shape")
    return form_of(lift, value).view(move)


@rule("Identity", "Dropout")
def _identity(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    return xs[0]


@rule("Cast", "CastLike")
def _cast(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x = xs[0]
    if isinstance(x, Looked):
        return x
    if isinstance(x, Form) and any(isinstance(b, Tokens) for b in x.bases()):
        if node.op_type == "Cast" and a["to"] in FLOATS:
            raise Reject("rounds input_ids to floats: tokens must stay whole", feature="rounded tokens")
        return x
    kind = int(a["to"]) if node.op_type == "Cast" else onnx.TensorProto.FLOAT
    if kind not in FLOATS:
        name = onnx.TensorProto.DataType.Name(kind)
        raise Reject(f"computed values are cast to {name}", feature="cast to integers")
    if kind in HALVES:
        lift.note("casts to 16-bit floats: values are kept in FP32")
    return x


@rule("Reshape", "Flatten")
def _reshape(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x = xs[0]
    if node.op_type == "Flatten":
        axis = a.get("axis", 1)
        shape: tuple[int, ...] = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    else:
        shape = reshaped(x.shape, lift.array(xs[1]), a.get("allowzero", 0))
    if isinstance(x, (Stat, GroupSum, Looked)):
        return replace(x, shape=shape)
    return moved(lift, x, lambda v: v.reshape(shape))


@rule("Squeeze", "Unsqueeze")
def _squeeze(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x = xs[0]
    axes = axes_of(a, lift.optional(xs, 1))
    if node.op_type == "Unsqueeze":
        shape = unsqueezed(x.shape, axes or ())
    else:
        gone = {n for n in range(len(x.shape)) if x.shape[n] == 1} if axes is None else {n % len(x.shape) for n in axes}
        if any(x.shape[n] != 1 for n in gone):
            raise Reject(f"Squeeze of axes {sorted(gone)} of {list(x.shape)}")
        shape = tuple(n for i, n in enumerate(x.shape) if i not in gone)
    if isinstance(x, (Stat, GroupSum, Looked)):
        return replace(x, shape=shape)
    return moved(lift, x, lambda v: v.reshape(shape))


@rule("Transpose")
def _transpose(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    return moved(lift, xs[0], lambda v: np.transpose(v, a.get("perm")))


@rule("Expand", "Tile")
def _expand(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x, shape = xs[0], [int(n) for n in lift.array(xs[1]).reshape(-1)]
    if node.op_type == "Tile":
        return moved(lift, x, lambda v: np.tile(v, shape))
    wanted = np.broadcast_shapes(x.shape, tuple(shape))
    if isinstance(x, Stat) and wanted == x.shape:
        return x
    return moved(lift, x, lambda v: np.broadcast_to(v, wanted))


@rule("Slice")
def _slice(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x = xs[0]
    if "starts" in a:  # before opset 10
        starts, ends, axes, steps = np.array(a["starts"]), np.array(a["ends"]), a.get("axes"), None
        axes = None if axes is None else np.array(axes)
    else:
        starts, ends = lift.array(xs[1]), lift.array(xs[2])
        axes = lift.optional(xs, 3)
        steps = lift.optional(xs, 4)
    index = sliced(len(x.shape), x.shape, starts, ends, axes, steps)
    return moved(lift, x, lambda v: v[index])


@rule("Split")
def _split(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x, axis = xs[0], int(a.get("axis", 0))
    sizes = lift.optional(xs, 1)
    cuts = np.cumsum(parts_of(a, x.shape[axis], len(node.output), sizes))[:-1]
    count = len(cuts) + 1

    def part(n: int) -> Any:
        return lambda v: np.split(v, cuts, axis)[n]

    return [moved(lift, x, part(n)) for n in range(count)]


@rule("Concat")
def _concat(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    shaped = next((x.shape for x in xs if isinstance(x, Form)), None)
    parts = []
    for x in xs:
        if isinstance(x, Const):
            parts.append(Form(x.array.shape, (), np.asarray(x.array, np.float64)))
        elif isinstance(x, Past) and shaped is not None and len(shaped) == 4:
            parts.append(cache_of(lift, x, shaped[1], shaped[3]))
        else:
            parts.append(form_of(lift, x))
    if len(parts) == 2 and len(parts[0].terms) == 1 and isinstance(parts[0].terms[0].base, Past):
        lift.appended[parts[0].terms[0].base.name] = node.input[1]
    parts = [p for p in parts if p.shape[int(a["axis"])]]
    return parts[0] if len(parts) == 1 else joined(parts, int(a["axis"]))


@rule("Gather")
def _gather(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x, index = xs
    axis = int(a.get("axis", 0))
    if isinstance(x, Const):
        return embedding(lift, node, axis, x, index)
    where = np.asarray(lift.array(index)).astype(np.int64)
    return moved(lift, x, lambda v: np.take(v, where, axis=axis))


@rule("GatherND")
def _gather_nd(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    index = np.asarray(lift.array(xs[1])).astype(np.int64)
    if a.get("batch_dims", 0):
        raise Reject("GatherND with batch_dims")
    return moved(lift, xs[0], lambda v: v[tuple(np.moveaxis(index, -1, 0))])


@rule("Trilu")
def _trilu(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x = form_of(lift, xs[0])
    by = int(lift.number(xs[1])) if given(xs, 1) is not None else 0
    kept = (np.triu if a.get("upper", 1) else np.tril)(np.ones(x.shape, bool), by)
    return x.select(kept, Form(x.shape, ()))


@rule("Where")
def _where(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    condition, x, y = xs
    if not isinstance(condition, Const):
        if isinstance(condition, Form) and any(isinstance(b, Guard) for b in condition.bases()):
            return y  # where(isnan(p), 0, p): rows that see nothing, which there are none of
        raise Reject("a choice by a computed value", feature="choice by a computed value")
    chosen = np.asarray(condition.array, bool)
    return _as_form(lift, x).select(chosen, _as_form(lift, y))


def _as_form(lift: Lifter, value: Value) -> Form:
    if isinstance(value, Const):
        return Form(value.array.shape, (), np.asarray(value.array, np.float64))
    return form_of(lift, value)


@rule("Pad")
def _pad(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x = form_of(lift, xs[0])
    pads = lift.array(xs[1]).reshape(2, -1).T if len(xs) > 1 else np.array(a["pads"]).reshape(2, -1).T
    if a.get("mode", "constant") != "constant":
        raise Reject(f"Pad in mode {a['mode']}")
    if np.any(lift.optional(xs, 2) or 0) or given(xs, 3) is not None:
        raise Reject("Pad with a value or of some axes", feature="operator Pad")
    kept = np.pad(np.ones(x.shape), pads)
    terms = tuple(
        Term(t.base, np.pad(t.index, pads), np.pad(np.broadcast_to(np.asarray(t.coef, np.float64), x.shape), pads))
        for t in x.terms
    )
    const: Array | float = 0.0 if x.const == 0.0 else np.pad(np.broadcast_to(x.const, x.shape), pads)
    return Form(kept.shape, terms, const)
