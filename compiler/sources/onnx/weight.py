# SPDX-License-Identifier: Apache-2.0
"""Constant matrices of an ONNX graph, whatever dialect they are written in, as one kind of Weight.

Recognises plain floats, DequantizeLinear (per tensor, per channel, blocked), MatMulNBits and Gemm; decides nothing
about roles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from meadow.compiler.sources.onnx.codes import unpacked_codes
from meadow.compiler.sources.onnx.file import tensor_array
from meadow.machine.storage.groups import WIDTHS
from meadow.machine.types import F16, F32, I8, Weight, grouped

ATTRIBUTES: dict[str, dict[str, tuple[Any, ...]]] = {
    "Attention": {
        "scale": (),
        "is_causal": (),
        "q_num_heads": (),
        "kv_num_heads": (),
        "softmax_precision": (),
        "qk_matmul_output_mode": (0,),
        "softcap": (0.0,),
    },
    "RotaryEmbedding": {"interleaved": (0,), "rotary_embedding_dim": (0,), "num_heads": ()},
    "RMSNormalization": {"axis": (), "epsilon": (), "stash_type": ()},
    "SimplifiedLayerNormalization": {"axis": (), "epsilon": (), "stash_type": ()},
    "Gemm": {"alpha": (1.0,), "beta": (1.0,), "transA": (0,), "transB": (0, 1)},
    "MatMul": {},
    "MatMulNBits": {"K": (), "N": (), "bits": (), "block_size": (), "accuracy_level": ()},
    "DequantizeLinear": {"axis": (), "block_size": (), "output_dtype": ()},
    "Gather": {"axis": (0,)},
}
"""Attributes that are read, by operator, with the values that are served: () for any, whose meaning numbers confirm."""

TRANSPARENT = {"Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Flatten"}
"""Operators that move values without changing them: structure is looked for through these."""


class Reject(Exception):
    """A node that is not what the caller looked for; the message says why, for the table of problems."""


class OnnxGraph:
    """An ONNX graph indexed for looking backwards: who made this value, and is it constant?"""

    def __init__(self, model: onnx.ModelProto, folder: Path):
        self.model = model
        self.folder = folder
        self.graph = model.graph
        self.producer: dict[str, onnx.NodeProto] = {out: n for n in self.graph.node for out in n.output if out}
        self.index: dict[str, int] = {out: i for i, n in enumerate(self.graph.node) for out in n.output if out}
        self.initializers: dict[str, onnx.TensorProto] = {t.name: t for t in self.graph.initializer}
        self.inputs = [i.name for i in self.graph.input if i.name not in self.initializers]
        self._arrays: dict[str, NDArray[np.generic]] = {}

    def strip(self, name: str) -> str:
        """`name` without the operators that only move values."""
        while name in self.producer and self.producer[name].op_type in TRANSPARENT:
            name = self.producer[name].input[0]
        return name

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """The attributes of a node.  Raises Reject for one that ATTRIBUTES does not know, or a value that it does not serve."""
        found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        known = ATTRIBUTES.get(node.op_type)
        if known is not None:
            for name, value in found.items():
                served = known.get(name)
                if served is None or (served and value not in served):
                    wanted = f"{' or '.join(str(v) for v in served)} is served" if served else "it is not known here"
                    raise Reject(f"{node.op_type} {node.name or node.output[0]!r} has {name}={value}; {wanted}")
        return found

    def array(self, name: str) -> NDArray[np.generic] | None:
        """The value of `name` if it is an initializer or a Constant (through Identity), else None."""
        for _ in range(64):
            if name in self._arrays:
                return self._arrays[name]
            if name in self.initializers:
                self._arrays[name] = tensor_array(self.initializers[name], self.folder)
                return self._arrays[name]
            node = self.producer.get(name)
            if node is None:
                return None
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        return tensor_array(attribute.t, self.folder)
                    if attribute.name.startswith("value_"):
                        return np.asarray(onnx.helper.get_attribute_value(attribute))
                return None
            if node.op_type != "Identity":
                return None
            name = node.input[0]
        return None

    def scalar(self, name: str) -> float | None:
        value = self.array(name)
        return float(np.asarray(value).reshape(-1)[0]) if value is not None and value.size == 1 else None

    def source_name(self, name: str) -> str:
        """The initializer that `name` is, through Identity and Cast."""
        while name in self.producer and self.producer[name].op_type in ("Identity", "Cast"):
            name = self.producer[name].input[0]
        return name


def constant_matrix(g: OnnxGraph, name: str) -> Weight | None:
    """The constant matrix `name` as a Weight with rows and columns as stored, through Transpose, Cast and DQ.

    None when it is not constant.  Raises Reject for a quantization that is not understood.
    """
    if name in g.initializers or (name in g.producer and g.producer[name].op_type == "Constant"):
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
    return None


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
        return _matmul_nbits(g, node, attributes)
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
    codes = g.array(node.input[0])
    scale = g.array(node.input[1])
    if codes is None or codes.ndim != 2:
        return None
    if scale is None:
        raise Reject(f"DequantizeLinear {node.name!r} has a computed scale")
    name = g.source_name(node.input[0])
    zero = _zero_points(g, node, 2)
    attributes = g.attributes(node)
    axis, block = int(attributes.get("axis", 1)) % 2, int(attributes.get("block_size", 0))
    scales = np.asarray(scale, np.float32)
    if block and scales.size > 1:
        return _blocked(name, codes, scales, zero, axis, block)
    if codes.dtype == np.uint8 and zero is not None and np.all(np.asarray(zero) == 128):  # the same numbers as int8
        codes, zero = (codes.astype(np.int16) - 128).astype(np.int8), None
    if zero is not None and np.any(np.asarray(zero).astype(np.int16)):
        raise Reject(f"{name} has zero points; symmetric weights are supported (zero point 0)")
    if codes.dtype != np.int8:
        raise Reject(f"{name} has {codes.dtype} codes; int8 is supported here")
    if scales.size == 1:
        return Weight(name, _marked(0, "all"), codes, scales.reshape(1))
    # A scale's axis is that of the codes as stored: for per-channel scales `axis` itself, for blocked ones the other.
    return Weight(name, _marked(0, str(axis)), codes, scales.reshape(-1))


def _zero_points(g: OnnxGraph, node: onnx.NodeProto, place: int) -> NDArray[np.generic] | None:
    """The constant zero points at input `place`, None where the node has none."""
    if len(node.input) <= place or not node.input[place]:
        return None
    found = g.array(node.input[place])
    if found is None:
        raise Reject(f"{node.op_type} {node.name!r} has computed zero points")
    return found


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
        return Weight(name, _marked(block, str(1 - axis)), codes, scales)
    points = np.zeros(scales.shape, np.float32) if zero is None else np.asarray(zero).astype(np.float32)
    if signed:
        points = points + np.float32(1 << (bits - 1))
    elem = _marked(block, str(1 - axis), bits)
    return Weight(name, elem, values.astype(np.uint8), scales, (-points * scales).astype(np.float32))


def _marked(group: int, axis: str, bits: int = 8) -> Any:
    elem = grouped(bits, group) if group else I8
    return type(elem)(f"{elem.name}@{axis}", elem.bits, elem.quantized, elem.group)


def _matmul_nbits(g: OnnxGraph, node: onnx.NodeProto, attributes: dict[str, Any]) -> Weight:
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
    zero = _zero_points(g, node, 3)
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
