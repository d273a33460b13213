# SPDX-License-Identifier: Apache-2.0
"""What ONNX operators compute, on numpy arrays and in FP32: for constants while a graph is read, and to confirm the reading.

The few dozen operators that language models are made of are written here, as https://onnx.ai/onnx/operators says; whatever else a
graph has is computed by onnx's own reference evaluator.  Values of 16 or 64 bits are computed in FP32: what is read is the
meaning of a graph, not its roundings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from meadow.compiler.sources.onnx import contrib
from meadow.compiler.sources.onnx.packed import matmul_nbits, rows_dequantized, table_rows
from meadow.compiler.sources.onnx.shapes import NotEvaluated, axes_of, bounded, parts_of, reshaped, sliced, unsqueezed

Array = NDArray[Any]
HALVES = frozenset([TensorProto.FLOAT16, TensorProto.BFLOAT16])
FLOATS = HALVES | {TensorProto.FLOAT, TensorProto.DOUBLE}
ROUNDED = frozenset(["QuantizeLinear", "DequantizeLinear", "Quant"])
"""Operators that round activations where they are not of constants."""
QONNX = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")


def full(array: Array) -> Array:
    """Floats of 16 or 64 bits in FP32; anything else as it is."""
    if array.dtype in (np.float64, np.float16) or array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    return array


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node by name; text as str."""
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode(errors="replace") if isinstance(v, bytes) else v for k, v in found.items()}


def compute(node: onnx.NodeProto, inputs: Sequence[Array | None], opset: int) -> list[Array | None]:
    """The outputs of one operator, floats in FP32; None for those that no model uses.  Raises NotEvaluated."""
    rule = _rule(node)
    try:
        with np.errstate(all="ignore"):
            if rule is None:
                return _reference(node, inputs, opset)
            attributes = attributes_of(node)
            if node.op_type == "Split":
                attributes["outputs"] = len(node.output)
            found = rule(attributes, *inputs)
            made = found if isinstance(found, (list, tuple)) else [found]
            return [None if v is None else full(np.asarray(v)) for v in made]
    except NotEvaluated:
        raise
    except Exception as error:  # numpy and the reference evaluator raise whatever they like for shapes that do not fit
        name = node.name or (node.output[0] if node.output else "")
        raise NotEvaluated(f"{node.op_type} {name!r}: {type(error).__name__}: {str(error)[:120]}") from None


def _rule(node: onnx.NodeProto) -> Callable[..., Any] | None:
    if node.domain == "com.microsoft" and node.op_type in _CONTRIB:
        return _CONTRIB[node.op_type]
    if node.domain in QONNX:
        return _RULES.get(node.op_type) if node.op_type == "Quant" else None
    return _RULES.get(node.op_type) if node.domain in ("", "ai.onnx", "com.microsoft") else None


def _reference(node: onnx.NodeProto, inputs: Sequence[Array | None], opset: int) -> list[Array | None]:
    """One operator by onnx's reference evaluator."""
    fed = {name: value for name, value in zip(node.input, inputs, strict=True) if name and value is not None}
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape))
        for n, v in fed.items()
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output if name]
    domains = [helper.make_opsetid("", opset)] + [helper.make_opsetid(node.domain, 1)] * bool(node.domain)
    graph = helper.make_graph([node], "one", infos, results)
    made = helper.make_model(graph, opset_imports=domains, ir_version=10)
    return [full(np.asarray(v)) for v in ReferenceEvaluator(made).run(None, fed)]


def cast(x: Array, to: int) -> Array:
    """`x` as another type; of floats there is one, FP32."""
    if to in FLOATS:
        return x.astype(np.float32)
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(to))
    return x.astype(kind)


def _cast(a: dict[str, Any], x: Array) -> Array:
    return cast(x, int(a["to"]))


def _cast_like(a: dict[str, Any], x: Array, like: Array) -> Array:
    return x.astype(like.dtype)


def _constant_of_shape(a: dict[str, Any], shape: Array) -> Array:
    value = a.get("value")
    fill = np.zeros(1, np.float32) if value is None else full(np.asarray(onnx.numpy_helper.to_array(value)))
    return np.full(bounded(shape.reshape(-1).tolist()), fill.reshape(-1)[0], fill.dtype)


def _gather(a: dict[str, Any], x: Array, index: Array) -> Array:
    return np.take(x, index, axis=int(a.get("axis", 0)))


def _gather_nd(a: dict[str, Any], x: Array, index: Array) -> Array:
    if int(a.get("batch_dims", 0)):
        raise NotEvaluated("GatherND with batch_dims")
    return np.asarray(x[tuple(np.moveaxis(index, -1, 0))])


def _squeeze(a: dict[str, Any], x: Array, axes: Array | None = None) -> Array:
    return np.squeeze(x, axes_of(a, axes))


def _unsqueeze(a: dict[str, Any], x: Array, axes: Array | None = None) -> Array:
    return x.reshape(unsqueezed(x.shape, axes_of(a, axes) or ()))


def _shape(a: dict[str, Any], x: Array) -> Array:
    return np.array(x.shape[slice(a.get("start", 0), a.get("end"))], np.int64)


def _split(a: dict[str, Any], x: Array, sizes: Array | None = None) -> list[Array]:
    axis = int(a.get("axis", 0))
    cuts = np.cumsum(parts_of(a, x.shape[axis], int(a.get("outputs", 0)), sizes))[:-1]
    return np.split(x, cuts, axis)


def _expand(a: dict[str, Any], x: Array, shape: Array) -> Array:
    wanted = np.broadcast_shapes(x.shape, bounded(np.asarray(shape).reshape(-1).tolist()))
    return np.broadcast_to(x, bounded(wanted))


def _trilu(a: dict[str, Any], x: Array, k: Array | None = None) -> Array:
    by = 0 if k is None else int(np.asarray(k).reshape(-1)[0])
    return np.triu(x, by) if int(a.get("upper", 1)) else np.tril(x, by)


def _range(a: dict[str, Any], start: Array, end: Array, step: Array) -> Array:
    first, last, by = (np.asarray(v).reshape(-1)[0] for v in (start, end, step))
    bounded([abs(int((last - first) / by)) + 1])
    return np.arange(first, last, by, dtype=np.asarray(start).dtype)


def _reduce(a: dict[str, Any], x: Array, axes: Array | None, how: Callable[..., Any]) -> Array:
    axis = axes_of(a, axes)
    if axis is None and a.get("noop_with_empty_axes"):
        return x
    return np.asarray(how(x, axis=axis, keepdims=bool(a.get("keepdims", 1))))


def _divide(a: dict[str, Any], x: Array, y: Array) -> Array:
    if np.asarray(x).dtype.kind in "iu":
        return np.asarray(np.trunc(np.asarray(x, np.float64) / y).astype(np.asarray(x).dtype))
    return np.asarray(x / y)


def _gemm(a: dict[str, Any], x: Array, w: Array, c: Array | None = None) -> Array:
    x, w = (x.T if a.get("transA") else x), (w.T if a.get("transB") else w)
    y: Array = x @ w
    y = y if a.get("alpha", 1.0) == 1.0 else np.asarray(y * np.float32(a["alpha"]))
    return y if c is None else y + (c if a.get("beta", 1.0) == 1.0 else c * np.float32(a["beta"]))


def _fused_matmul(a: dict[str, Any], x: Array, y: Array) -> Array:
    x, y = (np.swapaxes(x, -1, -2) if a.get("transA") else x), (np.swapaxes(y, -1, -2) if a.get("transB") else y)
    return np.asarray((x @ y) * np.float32(a.get("alpha", 1.0)))


def erf(x: Array) -> Array:
    """The error function of each element, in the type of `x`."""
    return np.vectorize(math.erf, otypes=[x.dtype])(x) if x.size else x


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)), x.dtype)


def gelu(x: Array, approximate: str = "none") -> Array:
    """x * Phi(x), or its tanh form."""
    if approximate == "tanh":
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
        return np.asarray(np.float32(0.5) * x * (1 + np.tanh(inner)), x.dtype)
    return np.asarray(np.float32(0.5) * x * (1 + erf(x * np.float32(math.sqrt(0.5)))), x.dtype)


def _softmax(a: dict[str, Any], x: Array) -> Array:
    axis = int(a.get("axis", -1))
    y = np.exp(x - x.max(axis=axis, keepdims=True))
    return y / y.sum(axis=axis, keepdims=True)


def _norm(
    a: dict[str, Any], x: Array, gain: Array | None = None, bias: Array | None = None, centred: bool = False
) -> Array:
    axes = tuple(range(int(a.get("axis", -1)) % x.ndim, x.ndim))
    x = x - x.mean(axis=axes, keepdims=True) if centred else x
    y = x / np.sqrt(np.mean(x * x, axis=axes, keepdims=True) + np.float32(a.get("epsilon", 1e-5)))
    y = y if gain is None else y * gain
    return y if bias is None else y + bias


def _layer_norm(a: dict[str, Any], x: Array, gain: Array | None = None, bias: Array | None = None) -> Array:
    return _norm(a, x, gain, bias, centred=True)


def _skip_norm(
    a: dict[str, Any],
    x: Array,
    skip: Array,
    gain: Array,
    bias: Array | None = None,
    *,
    centred: bool,
    more: Array | None = None,
) -> list[Any]:
    total = x + skip if more is None else x + skip + more
    y = _norm({"epsilon": a.get("epsilon", 1e-5)}, total, gain, bias, centred)
    return [y, None, None, total]


def _skip_rms(a: dict[str, Any], x: Array, skip: Array, gain: Array, more: Array | None = None) -> list[Any]:
    return _skip_norm(a, x, skip, gain, centred=False, more=more)


def _skip_layer(
    a: dict[str, Any], x: Array, skip: Array, gain: Array, beta: Array | None = None, more: Array | None = None
) -> list[Any]:
    return _skip_norm(a, x, skip, gain, beta, centred=True, more=more)


def _scatter_nd(a: dict[str, Any], x: Array, index: Array, updates: Array) -> Array:
    if a.get("reduction", "none") != "none":
        raise NotEvaluated("ScatterND with a reduction")
    made = x.copy()
    made[tuple(np.moveaxis(index, -1, 0))] = updates
    return made


def _concat(a: dict[str, Any], *xs: Array) -> Array:
    return np.concatenate(xs, axis=int(a["axis"]))


def _quantize(a: dict[str, Any], x: Array, scale: Array, zero: Array | None = None) -> Array:
    if a.get("block_size"):
        raise NotEvaluated("QuantizeLinear in blocks")
    kind = np.dtype(np.uint8) if zero is None else np.asarray(zero).dtype
    low, high = _range_of(kind)
    shape = [-1 if n == int(a.get("axis", 1)) % x.ndim else 1 for n in range(x.ndim)] if scale.size > 1 else ()
    points = (
        np.float32(0) if zero is None else np.asarray(zero).astype(np.float32).reshape(shape if scale.size > 1 else ())
    )
    return np.asarray(np.clip(np.rint(x / scale.reshape(shape)) + points, low, high)).astype(kind)


def _range_of(kind: np.dtype[Any]) -> tuple[int, int]:
    name = kind.name
    bits = int("".join(c for c in name if c.isdigit()))
    return (0, (1 << bits) - 1) if name.startswith("u") else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _quant(a: dict[str, Any], x: Array, scale: Array, zero: Array, width: Array) -> Array:
    """QONNX's Quant."""
    if a.get("rounding_mode", "ROUND") not in ("ROUND", "HALF_EVEN"):
        raise NotEvaluated(f"Quant that rounds by {a['rounding_mode']}")
    bits, signed = float(np.asarray(width).reshape(-1)[0]), bool(a.get("signed", 1))
    low = -(2 ** (bits - 1)) + bool(a.get("narrow", 0)) if signed else 0.0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - bool(a.get("narrow", 0))
    return np.asarray((np.clip(np.rint(x / scale + zero), low, high) - zero) * scale, np.float32)


def _clip(a: dict[str, Any], x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    low, high = (a.get("min") if low is None else low), (a.get("max") if high is None else high)
    return np.clip(x, low, high) if low is not None or high is not None else x


def _fold(how: Callable[[Any, Any], Any]) -> Callable[..., Array]:
    def rule(a: dict[str, Any], first: Array, *rest: Array) -> Array:
        for value in rest:
            first = how(first, value)
        return np.asarray(first)

    return rule


def _two(how: Callable[[Any, Any], Any]) -> Callable[..., Array]:
    return lambda a, x, y: np.asarray(how(x, y))


def _one(how: Callable[[Any], Any]) -> Callable[..., Array]:
    return lambda a, x, *more: np.asarray(how(x))


def _shrink(a: dict[str, Any], x: NDArray[Any]) -> NDArray[Any]:
    limit, bias = np.asarray(a.get("lambd", 0.5), x.dtype), np.asarray(a.get("bias", 0.0), x.dtype)
    return np.where(x < -limit, x + bias, np.where(x > limit, x - bias, np.zeros_like(x)))


_RULES: dict[str, Callable[..., Any]] = {
    "Add": _two(np.add),
    "And": _two(np.logical_and),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Cos": _one(np.cos),
    "CumSum": lambda a, x, axis: (
        np.cumsum(x, axis=int(axis)) if not (a.get("reverse") or a.get("exclusive")) else _unknown()
    ),
    "DequantizeLinear": lambda a, *xs: rows_dequantized(*xs, **a),
    "Div": _divide,
    "Dropout": lambda a, x, *more: [x, np.ones(x.shape, bool)],
    "Equal": _two(np.equal),
    "Erf": _one(erf),
    "Exp": _one(np.exp),
    "Expand": _expand,
    "Flatten": lambda a, x: x.reshape(math.prod(x.shape[: a.get("axis", 1)]), -1),
    "Floor": _one(np.floor),
    "FusedMatMul": _fused_matmul,
    "Gather": _gather,
    "GatherBlockQuantized": lambda a, *xs: table_rows(*xs, **a),
    "GatherElements": lambda a, x, index: np.take_along_axis(x, index, axis=int(a.get("axis", 0))),
    "GatherND": _gather_nd,
    "Gelu": lambda a, x: gelu(x, str(a.get("approximate", "none"))),
    "Gemm": _gemm,
    "Greater": _two(np.greater),
    "GreaterOrEqual": _two(np.greater_equal),
    "Identity": lambda a, x: x,
    "IsNaN": _one(np.isnan),
    "LayerNormalization": _layer_norm,
    "Less": _two(np.less),
    "LessOrEqual": _two(np.less_equal),
    "Log": _one(np.log),
    "MatMul": lambda a, x, y: x @ y,
    "MatMulNBits": lambda a, *xs: matmul_nbits(*xs, **a),
    "Max": _fold(np.maximum),
    "Min": _fold(np.minimum),
    "Mod": lambda a, x, y: np.fmod(x, y) if a.get("fmod") else np.mod(x, y),
    "Mul": _two(np.multiply),
    "Neg": _one(np.negative),
    "Shrink": _shrink,
    "Not": _one(np.logical_not),
    "Or": _two(np.logical_or),
    "Pow": lambda a, x, y: np.asarray(np.power(x, y), np.asarray(x).dtype),
    "QuantizeLinear": _quantize,
    "Quant": _quant,
    "QuickGelu": lambda a, x: x * _sigmoid(np.float32(a.get("alpha", 1.702)) * x),
    "RMSNormalization": _norm,
    "Range": _range,
    "Reciprocal": _one(lambda x: np.float32(1) / x),
    "ReduceMax": lambda a, x, axes=None: _reduce(a, x, axes, np.max),
    "ReduceMean": lambda a, x, axes=None: _reduce(a, x, axes, np.mean),
    "ReduceSum": lambda a, x, axes=None: _reduce(a, x, axes, np.sum),
    "Relu": _one(lambda x: np.maximum(x, 0)),
    "Reshape": lambda a, x, shape: x.reshape(reshaped(x.shape, shape, a.get("allowzero", 0))),
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Sigmoid": _one(_sigmoid),
    "SimplifiedLayerNormalization": _norm,
    "Sin": _one(np.sin),
    "SkipLayerNormalization": _skip_layer,
    "SkipSimplifiedLayerNormalization": _skip_rms,
    "Slice": lambda a, x, starts, ends, axes=None, steps=None: x[sliced(x.ndim, x.shape, starts, ends, axes, steps)],
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _one(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _two(np.subtract),
    "Sum": _fold(np.add),
    "Swish": lambda a, x: x * _sigmoid(np.float32(a.get("alpha", 1.0)) * x),
    "Tanh": _one(np.tanh),
    "Tile": lambda a, x, repeats: np.tile(x, [int(n) for n in repeats]),
    "Transpose": lambda a, x: np.transpose(x, a.get("perm")),
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Where": lambda a, c, x, y: np.where(c, x, y),
    "Xor": _two(np.logical_xor),
}


_CONTRIB: dict[str, Callable[..., Any]] = {
    "GroupQueryAttention": contrib.grouped,
    "MultiHeadAttention": contrib.multi_head,
    "RotaryEmbedding": contrib.rotary,
}


def _unknown() -> Any:
    raise NotEvaluated("an attribute that is not known here")
