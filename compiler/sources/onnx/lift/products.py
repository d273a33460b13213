# SPDX-License-Identifier: Apache-2.0
"""Embeddings and products with constant matrices, in every spelling of their weights."""

from __future__ import annotations

from typing import Any

import onnx

from meadow.compiler.sources.onnx.lift.attention import product_of_values
from meadow.compiler.sources.onnx.lift.elementwise import add
from meadow.compiler.sources.onnx.lift.form import Arrangement, Form, Reject
from meadow.compiler.sources.onnx.lift.lifter import Lifter, given, rule
from meadow.compiler.sources.onnx.lift.lookup import embedding
from meadow.compiler.sources.onnx.lift.settle import form_of, rows
from meadow.compiler.sources.onnx.lift.values import Const, GroupSum, Minima, Product, Value


@rule("GatherBlockQuantized")
def _gather_quantized(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    return embedding(lift, node, int(a.get("gather_axis", 0)), xs[0], xs[1])


def _source(lift: Lifter, value: Value) -> Arrangement:
    """What a product reads: whole rows in order, without factors of their own."""
    form = form_of(lift, value)
    made = rows(lift, form)
    if not made.ordered:
        raise Reject("a product of features that are not in order", feature="features moved")
    return made


def product(lift: Lifter, node: onnx.NodeProto, x: Value, size: int) -> Form:
    """x @ W.T with W in `node`, of `size` rows."""
    form = form_of(lift, x)
    made = _source(lift, form)
    if made.rows.width != form.shape[-1]:
        raise Reject(
            f"a product of {form.shape[-1]} features of rows of {made.rows.width}", feature="product of part of a row"
        )
    base = Product(node.output[0], len(made.rows.tokens), size, made.rows, node)
    return Form.of(base, (*form.shape[:-1], size))


@rule("MatMul")
def _matmul(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x, y = xs
    if isinstance(y, Const) and isinstance(x, GroupSum):
        return _minima(lift, x, node.input[1])
    if isinstance(y, Const):
        shape = lift.g.shape(node.input[1]) or y.array.shape
        if len(shape) != 2:
            raise Reject(
                f"a product with {len(shape)}-dimensional weights (a mixture of experts?)", feature="batched weights"
            )
        return product(lift, node, x, shape[1])
    if isinstance(x, Const):
        raise Reject("a product whose first factor is constant", feature="constant first factor")
    return product_of_values(lift, node, form_of(lift, x), form_of(lift, y))


def _minima(lift: Lifter, x: GroupSum, table: str) -> Minima:
    bases = x.x.bases()
    if len(bases) != 1:
        raise Reject("sums of groups of several values", feature="minima")
    return Minima(bases[0], table)


@rule("Gemm")
def _gemm(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    if not isinstance(xs[1], Const):
        raise Reject("a Gemm of two computed values", feature="Gemm of values")
    shape = lift.g.shape(node.input[1]) or xs[1].array.shape
    made = product(lift, node, xs[0], shape[0] if a.get("transB") else shape[1])
    if given(xs, 2) is not None:
        return add(lift, made, xs[2], node.output[0])
    return made


@rule("MatMulNBits")
def _nbits(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    made = product(lift, node, xs[0], int(a.get("N", 0)))
    if given(xs, 5) is not None:
        return add(lift, made, xs[5], node.output[0])
    return made
