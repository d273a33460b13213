# SPDX-License-Identifier: Apache-2.0
"""Constant matrices of an ONNX graph, whatever dialect they are written in, as one kind of Weight.

Recognises plain floats, DequantizeLinear (per tensor, per channel, blocked), MatMulNBits and Gemm; decides nothing
about roles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from meadow.compiler.sources.onnx.graph import OnnxGraph
from meadow.compiler.sources.onnx.lift.form import Reject
from meadow.compiler.sources.onnx.nbits import marked, matmul_nbits_weight, quant_weight
from meadow.machine.storage.groups import WIDTHS
from meadow.machine.types import F16, F32, I8, Weight, grouped

BLOCKS = (128, 64, 32, 16)
"""Sizes of the groups in which codes with a scale per channel are stored, where they are not plain INT8."""


def constant_matrix(g: OnnxGraph, name: str) -> Weight | None:
    """The constant matrix `name` as a Weight with rows and columns as stored, through Transpose, Cast and DQ.

    None when it is not constant.  Raises Reject for a quantization that is not understood.
    """
    if name in g.initializers:
        value = g.array(name)
        return _plain(name, value) if value is not None and value.ndim == 2 else None
    node = g.producer.get(name)
    if node is None:
        return None
    if node.op_type in ("Identity", "Cast"):
        return constant_matrix(g, node.input[0])
    if node.op_type == "Transpose":
        weight = constant_matrix(g, node.input[0])
        return transpose(weight) if weight is not None else None
    if node.op_type == "DequantizeLinear":
        return _dequantize_linear(g, node)
    if node.op_type == "Quant" and len(node.input) == 4:
        return quant_weight(g, node)
    value = g.folded(name)
    return _plain(name, value) if value is not None and value.ndim == 2 else None


def _plain(name: str, value: NDArray[np.generic]) -> Weight:
    if value.dtype == np.float16:
        return Weight(name, F16, value)
    if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
        return Weight(name, F32, value if value.dtype == np.float32 else value.astype(np.float32))
    raise Reject(f"{name} is a plain {value.dtype} matrix without a scale")


def transpose(weight: Weight) -> Weight:
    """The transposed matrix.  Only floats, and quantized weights whose scale is one number or lies on the other axis."""
    if not weight.elem.quantized:
        return Weight(weight.name, weight.elem, weight.codes.T)
    return Weight(f"{weight.name}\0T", weight.elem, weight.codes.T, weight.scale, weight.minimum)


def linear_weight(g: OnnxGraph, node: onnx.NodeProto) -> Weight:
    """The weight of a MatMul, Gemm or MatMulNBits as W[N, K].  Raises Reject."""
    attributes = g.attributes(node)
    if node.op_type == "MatMulNBits":
        return matmul_nbits_weight(g, node, attributes)
    weight = constant_matrix(g, node.input[1])
    if weight is None:
        raise Reject(f"{node.op_type} {node.name!r} multiplies two computed values")
    if node.op_type == "Gemm":
        if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
            raise Reject(f"Gemm {node.name!r} has transA, alpha or beta")
        if not attributes.get("transB", 0):
            weight = transpose(weight)
    else:
        weight = transpose(weight)
    return _rows_first(weight)


def embedding_weight(g: OnnxGraph, name: str) -> Weight:
    """The table that a Gather reads, as W[vocab, dim].  Raises Reject."""
    weight = constant_matrix(g, name)
    if weight is None:
        raise Reject("the embedding table is not constant")
    return _rows_first(weight)


def _rows_first(weight: Weight) -> Weight:
    """Check that the scales go with the rows, after all transposes."""
    turned = weight.name.count("\0T") % 2 == 1
    name = weight.name.split("\0")[0]
    axis = weight.elem.name.partition("@")[2]
    if not weight.elem.quantized:
        return Weight(name, weight.elem, weight.codes)
    assert weight.scale is not None
    elem = I8 if not weight.elem.group else grouped(weight.elem.bits, weight.elem.group)
    if axis == "all":
        return Weight(name, elem, weight.codes, np.repeat(weight.scale.reshape(1), weight.rows))
    if (axis == "1") != turned:
        raise Reject(f"{name} has its scales along the input features; per tensor or per output channel is supported")
    if weight.elem.group:
        scale = weight.scale.T if turned else weight.scale
        minimum = weight.minimum.T if turned and weight.minimum is not None else weight.minimum
        return Weight(
            name,
            elem,
            weight.codes,
            np.ascontiguousarray(scale),
            None if minimum is None else np.ascontiguousarray(minimum),
        )
    return Weight(name, elem, weight.codes, weight.scale)


def _dequantize_linear(g: OnnxGraph, node: onnx.NodeProto) -> Weight | None:
    """A constant DequantizeLinear.  The axis of its scales is kept in the type's name until the last transpose."""
    codes = g.folded(node.input[0])
    scale = g.folded(node.input[1])
    if codes is None or codes.ndim != 2:
        return None
    if scale is None:
        raise Reject(f"DequantizeLinear {node.name!r} has a computed scale")
    name = g.source_name(node.input[0])
    zero = g.zero_points(node, 2)
    attributes = g.attributes(node)
    axis, block = int(attributes.get("axis", 1)) % 2, int(attributes.get("block_size", 0))
    scales = np.asarray(scale, np.float32)
    if block and scales.size > 1:
        return _blocked(name, codes, scales, zero, axis, block)
    if codes.dtype == np.uint8 and zero is not None and np.all(np.asarray(zero) == 128):  # the same numbers as int8
        codes, zero = (codes.astype(np.int16) - 128).astype(np.int8), None
    if codes.dtype != np.int8 or (zero is not None and np.any(np.asarray(zero).astype(np.int16))):
        return _in_blocks(name, codes, scales, zero, axis)
    if scales.size == 1:
        return Weight(name, marked(0, "all"), codes, scales.reshape(1))
    # A scale's axis is that of the codes as stored: for per-channel scales `axis` itself, for blocked ones the other.
    return Weight(name, marked(0, str(axis)), codes, scales.reshape(-1))


def _in_blocks(
    name: str, codes: NDArray[np.generic], scales: NDArray[np.float32], zero: NDArray[np.generic] | None, axis: int
) -> Weight:
    """Codes with a scale and a zero point per channel or tensor, as the same numbers in blocks along the other axis."""
    along = 1 - axis  # of one scale for all, the axis is a hint alone
    size = codes.shape[along]
    block = next((n for n in BLOCKS if size % n == 0), 0)
    if not block:
        raise Reject(
            f"{name} has {codes.dtype} codes or zero points, and {size} inputs are no multiple of {BLOCKS[-1]}"
        )
    shape = tuple(size // block if n == along else m for n, m in enumerate(codes.shape))

    def spread(value: NDArray[Any]) -> NDArray[Any]:
        flat = np.asarray(value).reshape(-1)
        column = flat.reshape([-1 if n == axis and flat.size > 1 else 1 for n in range(2)])
        return np.ascontiguousarray(np.broadcast_to(column, shape))

    points = None if zero is None else spread(np.asarray(zero).astype(np.int16))
    return _blocked(name, codes, spread(scales), points, along, block)


def _blocked(
    name: str,
    codes: NDArray[np.generic],
    scales: NDArray[np.float32],
    zero: NDArray[np.generic] | None,
    axis: int,
    block: int,
) -> Weight:
    """Codes of 2, 4 or 8 bits with a scale, and perhaps a zero point, for each `block` along `axis`."""
    kind = codes.dtype.name
    bits = int(kind.removeprefix("u").removeprefix("int") or 0) if kind.removeprefix("u").startswith("int") else 0
    if bits not in WIDTHS:
        raise Reject(f"{name} has {kind} codes; {WIDTHS} bits are supported")
    wanted = tuple(-(-n // block) if a == axis else n for a, n in enumerate(codes.shape))
    if scales.shape != wanted or (zero is not None and zero.shape not in (wanted, ())):
        raise Reject(f"{name}: scales {scales.shape} for {codes.shape} codes in blocks of {block} along axis {axis}")
    signed = not kind.startswith("u")
    values = codes.astype(np.int16) + np.int16(1 << (bits - 1) if signed else 0)
    if zero is None and signed and bits == 8:  # as GGUF's Q8_0: codes stay as they are
        return Weight(name, marked(block, str(1 - axis)), codes, scales)
    points = np.zeros(scales.shape, np.float32) if zero is None else np.asarray(zero).astype(np.float32)
    if signed:
        points = points + np.float32(1 << (bits - 1))
    elem = marked(block, str(1 - axis), bits)
    return Weight(name, elem, values.astype(np.uint8), scales, (-points * scales).astype(np.float32))
