# SPDX-License-Identifier: Apache-2.0
"""A linear layer in an ONNX graph: the product, and what is added to it: minima of groups, and a bias.

Part of read.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from meadow.compiler.sources.onnx.weight import Reject, constant_matrix, linear_weight, transpose
from meadow.machine.types import Weight

if TYPE_CHECKING:
    from meadow.compiler.sources.onnx.read import Reader

LINEAR = {"MatMul", "Gemm", "MatMulNBits"}
DEEPEST = 3
"""Sums that a linear layer may end in."""


@dataclass(frozen=True)
class Projection:
    """One linear layer, by names in the ONNX graph.

    node    its MatMul, Gemm or MatMulNBits
    output  its value, after minima and bias
    minima  the value [groups, N] that the sums of each group of inputs are multiplied with; "" for none
    bias    the constant [N] that is added; "" for none
    """

    node: onnx.NodeProto
    output: str
    minima: str = ""
    bias: str = ""

    @property
    def input(self) -> str:
        return str(self.node.input[0])


def projection(r: Reader, name: str, depth: int = DEEPEST) -> Projection | None:
    """The linear layer whose value is `name`; None when it is no linear layer."""
    name = r.strip(name)
    node = r.g.producer.get(name)
    if node is None:
        return None
    if node.op_type in LINEAR:
        place = {"Gemm": 2, "MatMulNBits": 5}.get(node.op_type, 9)
        return Projection(node, name, "", str(node.input[place]) if len(node.input) > place else "")
    if node.op_type != "Add" or not depth:
        return None
    for index in (0, 1):
        inner, other = projection(r, node.input[index], depth - 1), str(node.input[1 - index])
        if inner is None or inner.bias:
            continue
        if r.g.array(r.strip_constant(other)) is not None:
            return replace(inner, output=name, bias=other)
        minima = _minima(r, other, inner)
        if minima and not inner.minima:
            return replace(inner, output=name, minima=minima)
    return None


def _minima(r: Reader, name: str, inner: Projection) -> str:
    """The constant that the sums of groups of the linear's own input are multiplied with; "" when `name` is no such product."""
    product = r.g.producer.get(r.strip(name))
    if product is None or product.op_type != "MatMul":
        return ""
    sums = r.g.producer.get(r.strip(product.input[0]))
    if sums is None or sums.op_type != "ReduceSum":
        return ""
    source = r.strip(sums.input[0])
    padding = r.g.producer.get(source)
    if padding is not None and padding.op_type == "Pad":
        source = r.strip(padding.input[0])
    return str(product.input[1]) if source == r.strip(inner.input) else ""


def projected_weight(r: Reader, p: Projection) -> Weight:
    """The matrix of a linear layer, with its minima.  Raises Reject."""
    weight = linear_weight(r.g, p.node)
    if not p.minima:
        return weight
    table = constant_matrix(r.g, p.minima)
    if table is None or weight.scale is None or not weight.elem.group:
        raise Reject(f"{p.node.op_type} {p.node.name!r}: minima that are no constants, or weights without groups")
    if weight.minimum is not None and np.any(weight.minimum):
        raise Reject(f"{p.node.op_type} {p.node.name!r} has zero points, and minima besides")
    minimum = np.ascontiguousarray(transpose(table).codes, np.float32)
    if minimum.shape != weight.scale.shape:
        raise Reject(f"{p.node.op_type} {p.node.name!r}: minima {minimum.shape} for scales {weight.scale.shape}")
    codes = weight.codes
    if codes.dtype != np.uint8:
        raise Reject(f"{p.node.op_type} {p.node.name!r} has {codes.dtype} codes, and minima besides")
    return replace(weight, codes=codes, minimum=minimum)
