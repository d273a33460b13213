# SPDX-License-Identifier: Apache-2.0
"""Codes that are computed, and products of integers, which rounding.py did not take out: named, and not served."""

from __future__ import annotations

from typing import Any

import onnx

from meadow.compiler.sources.onnx.lift.form import Reject
from meadow.compiler.sources.onnx.lift.lifter import Lifter, rule
from meadow.compiler.sources.onnx.lift.values import Value


@rule("DequantizeLinear")
def _dequantize(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    raise Reject("DequantizeLinear of codes that are computed", feature="quantized input")


@rule("BipolarQuant")
def _bipolar(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    raise Reject("activations of one bit (BipolarQuant)", feature="operator BipolarQuant")


@rule("DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul", "ConvInteger")
def _integers(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    raise Reject(f"{node.op_type}: a product of integers", feature=f"operator {node.op_type}")
