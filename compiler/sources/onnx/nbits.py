# SPDX-License-Identifier: Apache-2.0
"""Weights as operators of other domains hold them: MatMulNBits and GatherBlockQuantized of onnxruntime, Quant of QONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from meadow.compiler.sources.onnx.codes import unpacked_codes
from meadow.compiler.sources.onnx.graph import OnnxGraph
from meadow.compiler.sources.onnx.lift.form import Reject
from meadow.compiler.sources.onnx.numeric import attributes_of
from meadow.machine.storage.groups import WIDTHS
from meadow.machine.types import I8, Weight, grouped


def marked(group: int, axis: str, bits: int = 8) -> Any:
    """The type of codes whose scales lie along `axis`, which its name holds until the last transpose."""
    elem = grouped(bits, group) if group else I8
    return type(elem)(f"{elem.name}@{axis}", elem.bits, elem.quantized, elem.group)


def quant_weight(g: OnnxGraph, node: onnx.NodeProto) -> Weight:
    """QONNX's Quant of constant weights: (clamp(round(x / scale + zero)) - zero) * scale, as the INT8 codes that it means."""
    x, scale, zero, width = (g.folded(i) for i in node.input)
    if x is None or scale is None or zero is None or width is None or x.ndim != 2:
        raise Reject(f"Quant {node.name!r} of computed values")
    a = attributes_of(node)
    bits = float(np.asarray(width).reshape(-1)[0])
    signed, narrow = bool(a.get("signed", 1)), bool(a.get("narrow", 0))
    if (
        a.get("rounding_mode", "ROUND") not in ("ROUND", "HALF_EVEN")
        or np.any(zero)
        or not 2 <= bits <= 8
        or not signed
    ):
        raise Reject(
            f"Quant {node.name!r}: signed codes of 2 to 8 bits without zero points, rounded to the nearest, are read"
        )
    high = 2 ** (int(bits) - 1) - 1
    scales = np.asarray(scale, np.float32)
    codes = np.clip(np.rint(np.asarray(x, np.float32) / scales), -high if narrow else -high - 1, high).astype(np.int8)
    name = g.source_name(node.input[0])
    if scales.size == 1:
        return Weight(name, marked(0, "all"), codes, scales.reshape(1))
    axes = [n for n in range(scales.ndim) if scales.shape[n] > 1]
    axis = axes[0] - scales.ndim + 2
    if len(axes) != 1 or scales.size != codes.shape[axis]:
        raise Reject(f"Quant {node.name!r} has scales {list(scales.shape)} for {list(codes.shape)}")
    return Weight(name, marked(0, str(axis)), codes, scales.reshape(-1))


def matmul_nbits_weight(g: OnnxGraph, node: onnx.NodeProto, attributes: dict[str, Any]) -> Weight:
    """The weight of a MatMulNBits as W[N, K].  Raises Reject."""
    n, k, bits, block = (int(attributes.get(key, 0)) for key in ("N", "K", "bits", "block_size"))
    name = node.input[1]
    if bits not in WIDTHS:
        raise Reject(f"MatMulNBits {node.name!r} has {bits} bits; {WIDTHS} are supported")
    if any(node.input[4:5]):
        raise Reject(f"MatMulNBits {node.name!r} has a group index, which is not supported")
    packed, scale = g.array(name), g.array(node.input[2])
    if packed is None or scale is None:
        raise Reject(f"MatMulNBits {node.name!r} has computed weights")
    groups = -(-k // block) if block else 0
    each = 8 // bits
    if not groups or packed.size * each != n * groups * block or scale.size != n * groups:
        raise Reject(f"MatMulNBits {node.name!r}: {packed.shape} codes and {scale.shape} scales for {n} x {k}")
    codes = unpacked_codes(np.asarray(packed, np.uint8).reshape(n, groups, -1), bits).reshape(n, -1)[:, :k]
    scales = np.asarray(scale, np.float32).reshape(n, groups)
    zero = g.zero_points(node, 3)
    if zero is not None and zero.size != n * (groups if zero.dtype.kind == "f" else -(-groups * bits // 8)):
        raise Reject(f"MatMulNBits {node.name!r}: {zero.shape} zero points for {n} x {groups} groups")
    if zero is not None and zero.dtype.kind != "f" and zero.dtype != np.uint8:
        raise Reject(f"MatMulNBits {node.name!r} has {zero.dtype} zero points; uint8 and floats are supported")
    if zero is not None and zero.dtype.kind == "f":
        minimum = (-np.asarray(zero, np.float32).reshape(n, groups) * scales).astype(np.float32)
    elif zero is not None:
        points = unpacked_codes(np.asarray(zero, np.uint8).reshape(n, -1), bits)[:, :groups].astype(np.float32)
        minimum = -points * scales
    else:
        minimum = (-(1 << (bits - 1)) * scales).astype(np.float32)
    return Weight(name, grouped(bits, block), codes, scales, minimum)


def gathered_weight(g: OnnxGraph, node: onnx.NodeProto) -> Weight:
    """The table that a GatherBlockQuantized reads, as W[vocab, dim].  Raises Reject."""
    attributes = g.attributes(node)
    name, block = node.input[0], int(attributes.get("block_size", 128))
    bits = int(attributes.get("bits", 4))
    packed, scale = g.array(name), g.array(node.input[2])
    if packed is None or scale is None:
        raise Reject(f"GatherBlockQuantized {node.name!r} has a computed table")
    rows = packed.shape[0]
    if (
        int(attributes.get("gather_axis", 0))
        or int(attributes.get("quantize_axis", 1)) % packed.ndim != packed.ndim - 1
    ):
        raise Reject(f"GatherBlockQuantized {node.name!r} has other axes than rows of the table and blocks along them")
    kind = packed.dtype.name
    zero = g.zero_points(node, 3)
    if kind == "uint8":
        codes = unpacked_codes(np.asarray(packed, np.uint8).reshape(rows, -1), bits)
        groups = codes.shape[1] // block
        points = (
            None if zero is None else unpacked_codes(np.asarray(zero, np.uint8).reshape(rows, -1), bits)[:, :groups]
        )
        default, shift = 1 << (bits - 1), 0
    else:
        bits = int(kind.removeprefix("u").removeprefix("int"))
        shift = 0 if kind.startswith("u") else 1 << (bits - 1)
        codes = (np.asarray(packed).astype(np.int16) + shift).astype(np.uint8).reshape(rows, -1)
        points = (
            None if zero is None else (np.asarray(zero).astype(np.int16) + shift).astype(np.uint8).reshape(rows, -1)
        )
        default = shift
    scales = np.asarray(scale, np.float32).reshape(rows, -1)
    at = np.full(scales.shape, default, np.float32) if points is None else np.asarray(points, np.float32)
    if bits not in WIDTHS or codes.shape[1] != scales.shape[1] * block or at.shape != scales.shape:
        raise Reject(f"GatherBlockQuantized {node.name!r}: {codes.shape} codes of {bits} bits, scales {scales.shape}")
    return Weight(name, grouped(bits, block), codes, scales, (-at * scales).astype(np.float32))
