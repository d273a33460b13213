# SPDX-License-Identifier: Apache-2.0
"""Weights of few bits as their operators mean them, in FP32: MatMulNBits, GatherBlockQuantized and DequantizeLinear.

Written apart from weight.py, which they check.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.sources.onnx.shapes import NotEvaluated

ROWS_AT_ONCE = 1 << 20
"""Elements that are dequantized at a time."""
Floats = NDArray[np.float32]


def fields(packed: NDArray[Any], rows: int, count: int, bits: int) -> Floats:
    """`count` codes of `bits` in each of `rows` rows, the first in the lowest bits."""
    flat = np.unpackbits(np.asarray(packed).view(np.uint8).reshape(rows, -1), axis=1, bitorder="little")
    weights = flat[:, : count * bits].reshape(rows, count, bits) @ (1 << np.arange(bits)).astype(np.float32)
    return np.asarray(weights, np.float32)


def blocks_dequantized(
    packed: NDArray[Any], scales: NDArray[Any], zero: NDArray[Any] | None, rows: int, cols: int, bits: int, block: int
) -> Floats:
    """W [rows, cols] of codes in blocks along the columns: (code - zero point) * scale."""
    blocks = -(-cols // block)
    codes = fields(packed, rows, blocks * block, bits).reshape(rows, blocks, block)
    if zero is None:
        points: Any = np.float32(1 << (bits - 1))
    elif np.asarray(zero).dtype.kind == "f":
        points = np.asarray(zero, np.float32).reshape(rows, blocks, 1)
    else:
        points = fields(zero, rows, blocks, bits).reshape(rows, blocks, 1)
    made = (codes - points) * np.asarray(scales, np.float32).reshape(rows, blocks, 1)
    return np.asarray(made.reshape(rows, -1)[:, :cols], np.float32)


def matmul_nbits(
    a: Any,
    b: Any,
    scales: Any,
    zero_points: Any = None,
    group: Any = None,
    bias: Any = None,
    K: int = 0,
    N: int = 0,
    bits: int = 4,
    block_size: int = 32,
    **_: Any,
) -> NDArray[Any]:
    """com.microsoft.MatMulNBits: y = a @ ((code - zero point) * scale).T (+ bias), a few rows of W at a time."""
    if group is not None:
        raise NotEvaluated("MatMulNBits with a group index")
    b, scales = np.asarray(b).reshape(N, -1), np.asarray(scales).reshape(N, -1)
    zero = None if zero_points is None else np.asarray(zero_points).reshape(N, -1)
    rows, found = max(1, ROWS_AT_ONCE // max(1, K)), []
    for first in range(0, N, rows):
        some = slice(first, first + rows)
        points = None if zero is None else zero[some]
        w = blocks_dequantized(b[some], scales[some], points, len(b[some]), K, bits, block_size)
        found.append(a @ w.T)
    y = np.concatenate(found, axis=-1)
    return y if bias is None else y + bias


def rows_dequantized(
    x: Any, scale: Any, zero: Any = None, axis: int = 1, block_size: int = 0, **_: Any
) -> NDArray[np.float32]:
    """DequantizeLinear: y = (x - zero point) * scale, a few rows at a time to save memory."""
    scale = np.asarray(scale, np.float32)
    points = np.zeros((), np.float32) if zero is None else np.asarray(zero).astype(np.float32)
    if scale.size == 1 and x.ndim != 2:
        return np.asarray((x.astype(np.float32) - points.reshape(())) * scale.reshape(()), np.float32)
    if scale.ndim == 1 and scale.size > 1 and not block_size:
        shape = [-1 if n == axis % x.ndim else 1 for n in range(x.ndim)]
        scale, points = scale.reshape(shape), points.reshape(shape) if points.ndim else points
    made = np.empty(x.shape, np.float32)
    rows = max(1, ROWS_AT_ONCE // max(1, x[:1].size))
    for first in range(0, len(x), rows):
        some = slice(first, first + rows)
        part, s, z = made[some], scale, points
        part[...] = x[some]
        if block_size and scale.ndim:
            if axis % x.ndim == 0:
                places = np.arange(first, first + len(part)) // block_size
                s, z = scale[places], points[places] if points.ndim else points
            else:
                s, z = (np.repeat(t[some], block_size, axis)[:, : x.shape[1]] if t.ndim else t for t in (scale, points))
        else:
            s, z = (t[some] if t.ndim and t.shape[0] > 1 else t for t in (scale, points))
        if zero is not None:
            part -= z
        part *= s
    return made


def table_rows(
    data: Any,
    indices: Any,
    scales: Any,
    zero_points: Any = None,
    gather_axis: int = 0,
    quantize_axis: int = 1,
    block_size: int = 128,
    bits: int = 4,
    **_: Any,
) -> NDArray[np.float32]:
    """com.microsoft.GatherBlockQuantized: rows of a table of codes in blocks along its rows."""
    if gather_axis or quantize_axis % data.ndim != data.ndim - 1:
        raise NotEvaluated("GatherBlockQuantized along other axes")
    some, scale = data[indices], np.asarray(scales, np.float32)[indices]
    points = None if zero_points is None else zero_points[indices]
    rows = int(np.prod(indices.shape))
    if data.dtype == np.uint8:
        cols = some.reshape(rows, -1).shape[1] * (8 // bits)
        made = blocks_dequantized(some, scale, points, rows, cols, bits, block_size)
    else:
        codes = np.asarray(some).astype(np.float32).reshape(rows, -1, block_size)
        zero = 0 if points is None else np.asarray(points).astype(np.float32).reshape(rows, -1, 1)
        made = ((codes - zero) * scale.reshape(rows, -1, 1)).reshape(rows, -1)
    return np.asarray(made, np.float32).reshape(*indices.shape, -1)
