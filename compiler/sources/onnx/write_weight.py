# SPDX-License-Identifier: Apache-2.0
"""Write a weight as ONNX, as it is stored: a linear layer of it, or the rows of an embedding.  Part of write.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.sources.onnx.builder import Builder
from meadow.compiler.sources.onnx.codes import integer_zero_points, packed_codes
from meadow.machine.types import Weight


def write_linear(b: Builder, x: str, weight: Weight, out: str) -> str:
    """y = x @ W.T for a weight in whatever type it has.  [.., K] -> [.., N]"""
    if not weight.elem.group:
        source = _dense(b, weight)
        return b.node("MatMul", x, b.once("Transpose", source, name=f"{weight.name}.transposed", perm=[1, 0]), name=out)
    zero = integer_zero_points(weight) if weight.minimum is not None else None
    apart = weight.minimum is not None and zero is None
    y = f"{out}.codes" if apart else out
    if weight.elem.bits == 8:
        extra = [] if weight.minimum is None else [_zero(b, weight, zero)]
        assert weight.scale is not None
        source = b.once(
            "DequantizeLinear",
            b.const(weight.name, weight.codes),
            b.const(f"{weight.name}.scale", weight.scale),
            *extra,
            name=f"{weight.name}.float",
            axis=1,
            block_size=weight.elem.group,
        )
        y = b.node("MatMul", x, b.once("Transpose", source, name=f"{weight.name}.transposed", perm=[1, 0]), name=y)
    else:
        y = _matmul_nbits(b, x, weight, zero, y)
    return _minima(b, x, weight, y, out) if apart else y


def _dense(b: Builder, weight: Weight) -> str:
    """float32 [N, K] of floats, or of int8 codes with one scale per row, or per tensor where all rows have the same."""
    name = weight.name
    codes = b.const(name, weight.codes)
    if weight.scale is None:
        return codes if weight.codes.dtype == np.float32 else b.once("Cast", codes, name=f"{name}.float", to=1)
    alike = bool((weight.scale == weight.scale[0]).all())
    scale = b.const(f"{name}.scale", weight.scale[0].reshape(()) if alike else weight.scale)
    axis: dict[str, Any] = {} if alike else {"axis": 0}
    return b.once("DequantizeLinear", codes, scale, name=f"{name}.float", **axis)


def _zero(b: Builder, weight: Weight, zero: NDArray[np.uint8] | None) -> str:
    """The zero points of 8-bit codes; zeros where the minima are added apart."""
    assert weight.scale is not None
    return b.const(f"{weight.name}.zero", np.zeros(weight.scale.shape, np.uint8) if zero is None else zero)


def _matmul_nbits(b: Builder, x: str, weight: Weight, zero: NDArray[np.uint8] | None, out: str) -> str:
    """com.microsoft MatMulNBits: codes less their zero points, times their scales; zero points of 0 for None."""
    assert weight.scale is not None
    rows, groups = weight.scale.shape
    bits = weight.elem.bits
    missing = groups * weight.elem.group - weight.cols
    codes = np.pad(np.asarray(weight.codes, np.uint8), ((0, 0), (0, missing))).reshape(rows, groups, -1)
    points = np.zeros((rows, groups), np.uint8) if zero is None else zero
    return b.node(
        "MatMulNBits",
        x,
        b.const(weight.name, packed_codes(codes, bits)),
        b.const(f"{weight.name}.scale", weight.scale),
        b.const(f"{weight.name}.zero", packed_codes(points, bits)),
        name=out,
        domain="com.microsoft",
        K=weight.cols,
        N=rows,
        bits=bits,
        block_size=weight.elem.group,
    )


def _minima(b: Builder, x: str, weight: Weight, y: str, out: str) -> str:
    """y + (sums of x over each group) @ minima.T: what the minimum of a group adds to each of its products."""
    assert weight.minimum is not None
    groups, group = weight.minimum.shape[1], weight.elem.group
    missing = groups * group - weight.cols
    sums = f"{x}.sums_{group}"
    if sums not in b.made:
        source = x
        if missing:
            source = b.node("Pad", x, b.ints(0, 0, 0, 0, 0, missing), name=f"{x}.padded_{group}")
        split = b.node("Reshape", source, b.ints(0, 0, groups, group), name=f"{x}.groups_{group}")
        b.once("ReduceSum", split, b.ints(-1), name=sums, keepdims=0)
    minima = b.const(f"{weight.name}.minimum", weight.minimum)
    minima = b.once("Transpose", minima, name=f"{weight.name}.minima", perm=[1, 0])
    return b.node("Add", y, b.node("MatMul", sums, minima, name=f"{out}.least"), name=out)


def write_embedding(b: Builder, ids: str, weight: Weight, out: str) -> str:
    """The rows that `ids` name, in float32: the codes are gathered first, so that a step never unpacks the table."""
    if weight.elem.group and (weight.elem.bits < 8 or weight.minimum is not None):
        # Written as floats, which are the products and sums of what was stored.
        return b.node("Gather", b.const(f"{weight.name}.table", weight.dequantize()), ids, name=out)
    codes = b.const(weight.name, weight.codes)
    if weight.scale is None:
        half = weight.codes.dtype != np.float32
        rows = b.node("Gather", codes, ids, name=f"{out}.rows" if half else out)
        return b.node("Cast", rows, name=out, to=1) if half else rows
    rows = b.node("Cast", b.node("Gather", codes, ids, name=f"{out}.codes"), name=f"{out}.rows", to=1)
    alike = not weight.elem.group and bool((weight.scale == weight.scale[0]).all())
    scale = b.const(f"{weight.name}.scale", weight.scale[0].reshape(()) if alike else weight.scale)
    if alike:
        return b.node("Mul", rows, scale, name=out)
    scales = b.node("Gather", scale, ids, name=f"{out}.scales")
    if not weight.elem.group:
        scales = b.node("Unsqueeze", scales, b.ints(-1), name=f"{out}.scale_column")
        return b.node("Mul", rows, scales, name=out)
    groups, group = weight.cols // weight.elem.group, weight.elem.group
    split = b.node("Reshape", rows, b.ints(0, 0, groups, group), name=f"{out}.groups")
    column = b.node("Unsqueeze", scales, b.ints(-1), name=f"{out}.scale_column")
    product = b.node("Mul", split, column, name=f"{out}.product")
    return b.node("Reshape", product, b.ints(0, 0, weight.cols), name=out)
