# SPDX-License-Identifier: Apache-2.0
"""Activations that a graph rounds to integers by scales of its own, and products of integers: named, and not served."""

from __future__ import annotations

from typing import Any

import onnx

from meadow.compiler.sources.onnx.lift.form import Reject
from meadow.compiler.sources.onnx.lift.lifter import Lifter, rule, where_of
from meadow.compiler.sources.onnx.lift.values import Quantized, Value


def _rounded(lift: Lifter, node: onnx.NodeProto) -> None:
    """Note that activations are rounded by scales of the file, which no engine does; the rest is followed all the same."""
    found = f"activations are quantized by {node.op_type}, with scales of the file"
    lift.problem(Reject(found, where_of(node), "static activations"))


@rule("QuantizeLinear")
def _quantize(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    _rounded(lift, node)
    return Quantized(xs[0])


@rule("DequantizeLinear")
def _dequantize(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    if not isinstance(xs[0], Quantized):
        raise Reject("DequantizeLinear of something that was not quantized here", feature="quantized input")
    return xs[0].x


@rule("Quant", "BipolarQuant")
def _quant(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    if node.op_type == "BipolarQuant":
        raise Reject("activations of one bit (BipolarQuant)", feature="operator BipolarQuant")
    _rounded(lift, node)
    return xs[0]


@rule("DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul", "ConvInteger")
def _integers(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    raise Reject(f"{node.op_type}: a product of integers", feature=f"operator {node.op_type}")
