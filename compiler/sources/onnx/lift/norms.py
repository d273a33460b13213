# SPDX-License-Identifier: Apache-2.0
"""Norms as one operator: ONNX's, and those of onnxruntime, which may have a sum before them."""

from __future__ import annotations

from typing import Any

import onnx

from meadow.compiler.sources.onnx.lift.elementwise import add, multiply
from meadow.compiler.sources.onnx.lift.form import Form, Reject
from meadow.compiler.sources.onnx.lift.lifter import Lifter, given, rule
from meadow.compiler.sources.onnx.lift.settle import form_of, norm
from meadow.compiler.sources.onnx.lift.values import Centred, Nothing, Value


@rule("RMSNormalization", "SimplifiedLayerNormalization", "LayerNormalization")
def _norm(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    centred = isinstance(xs[0], Centred)  # a value less its mean: a layer norm then, in two operators
    x = form_of(lift, xs[0].x if isinstance(xs[0], Centred) else xs[0])
    if int(a.get("axis", -1)) % len(x.shape) != len(x.shape) - 1:
        raise Reject(f"a norm from axis {a['axis']} on", feature="norm axis")
    kind = "layer" if node.op_type == "LayerNormalization" or centred else "rms"
    return _gained(lift, x, kind, float(a.get("epsilon", 1e-5)), xs[1:], node.output[0])


def _gained(lift: Lifter, x: Form, kind: str, eps: float, tensors: list[Value], name: str) -> Form:
    """A norm with its gain and bias."""
    made: Value = norm(lift, x, kind, eps, name)
    if tensors and tensors[0] is not None:
        made = multiply(lift, made, tensors[0], name)
    if len(tensors) > 1 and tensors[1] is not None:
        made = add(lift, made, tensors[1], name)
    return form_of(lift, made)


@rule("SkipSimplifiedLayerNormalization", "SkipLayerNormalization")
def _skip_norm(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    layer = node.op_type == "SkipLayerNormalization"
    more = given(xs, 4 if layer else 3)
    name = next((o for o in node.output[3:4] if o), node.output[0] + ".sum")
    second = xs[1] if more is None else add(lift, xs[1], more, name)
    total = form_of(lift, add(lift, xs[0], second, name))
    tensors = [xs[2], given(xs, 3) if layer else None]
    made = _gained(lift, total, "layer" if layer else "rms", float(a.get("epsilon", 1e-5)), tensors, node.output[0])
    return [made, Nothing(), Nothing(), total]
