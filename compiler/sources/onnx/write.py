# SPDX-License-Identifier: Apache-2.0
"""Write a LLaMA-family model as ONNX: standard operators, a KV cache, weights as they are stored.

Only writes.  The shapes follow what Hugging Face exporters produce, so that any ONNX tool can run the file:
input_ids, attention_mask, position_ids, past_key_values.N.key/value -> logits, present.N.key/value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from meadow.compiler.graph.graph import Model

OPSET = 21
IR_VERSION = 10
CONSTANT_GROUP_ZERO = np.float32(-(2.0**64))
"""The zero point of a 4-bit group whose scale is 0: w = (code + 2^64) * (minimum * 2^-64), which is exactly the
minimum whatever the code.  No quotient of two FP16 numbers reaches 2^64, so it cannot be mistaken for another group."""


@dataclass
class Builder:
    """The nodes and initializers of a graph under construction.  Methods return the name of their output."""

    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def const(self, name: str, value: NDArray[np.generic]) -> str:
        if name not in self.names:
            self.names.add(name)
            self.tensors.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def ints(self, *values: int) -> str:
        name = "ints_" + "_".join(str(v).replace("-", "m") for v in values)
        return self.const(name, np.array(values, np.int64))

    def node(self, op: str, *inputs: str, name: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, domain=domain, **attributes))
        return name


Linear = Callable[[Builder, str, str, str], str]
"""linear(builder, x, weight name, output name) -> output name"""
Embed = Callable[[Builder, str, str], str]
"""embed(builder, ids, output name) -> output name"""


def packed_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [..., n] of 2, 4 or 8 bits, as many as fit in a byte, the first in its lowest bits (MatMulNBits' order)."""
    each = 8 // bits
    out = np.zeros((*codes.shape[:-1], codes.shape[-1] // each), np.uint8)
    for n in range(each):
        out |= codes[..., n::each] << np.uint8(bits * n)
    return out


def unpacked_codes(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of `packed_codes`."""
    each = 8 // bits
    out = np.empty((*packed.shape[:-1], packed.shape[-1] * each), np.uint8)
    for n in range(each):
        out[..., n::each] = packed >> np.uint8(bits * n) & np.uint8((1 << bits) - 1)
    return out


def float_zero_point(scale: NDArray[np.float32], minimum: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """(scale, zero point) of MatMulNBits for w = code * scale + minimum, from which both come back bit for bit."""
    constant = scale == 0
    safe = np.where(constant, np.float32(1), scale)
    zero = np.where(constant, CONSTANT_GROUP_ZERO, -minimum / safe).astype(np.float32)
    return np.where(constant, minimum * np.float32(2.0**-64), scale).astype(np.float32), zero


def scale_and_minimum(scale: NDArray[np.float32], zero: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """The inverse of `float_zero_point`: the FP16 minimum of which it made this zero point, else their product in FP32."""
    constant = zero == CONSTANT_GROUP_ZERO
    product = -zero.astype(np.float64) * np.where(constant, scale, scale.astype(np.float64))
    with np.errstate(over="ignore"):
        half = product.astype(np.float16).astype(np.float32)
    safe = np.where(constant | (scale == 0), np.float32(1), scale)
    made = np.where(constant, CONSTANT_GROUP_ZERO, -half / safe).astype(np.float32)
    minimum = np.where(np.isfinite(half) & (made == zero), half, product.astype(np.float32)).astype(np.float32)
    return np.where(constant, np.float32(0), scale).astype(np.float32), minimum


def build(model: Model, gains: Callable[[str], NDArray[np.float32]], linear: Linear, embed: Embed, head: str,
          metadata: dict[str, str]) -> ModelProto:  # fmt: skip
    """The whole decoder.  `gains(name)` gives a norm's gain; `linear` and `embed` write weights in their own dialect.

    head  name of the head's weight, given to `linear` (the embedding's when they are tied)
    """
    b = Builder()
    half = model.head_dim // 2
    b.const("inv_freq", np.array(model.inv_freq, np.float32).reshape(1, half))
    x = embed(b, "input_ids", "embed")
    mask = _causal_mask(b)
    cos, sin = _rotary(b)
    presents: list[str] = []
    for layer in range(model.layers):
        presents += _layer(b, model, layer, f"blk.{layer}", x if layer == 0 else f"blk.{layer - 1}.out", mask,
                           cos, sin, gains, linear)  # fmt: skip
    x = _norm(b, f"blk.{model.layers - 1}.out", "output_norm", gains("output_norm.weight"), model.eps)
    linear(b, x, head, "logits")
    graph = helper.make_graph(b.nodes, model.name, _inputs(model), _outputs(model, presents), b.tensors)
    opsets = [helper.make_opsetid("", OPSET)]
    if any(n.domain == "com.microsoft" for n in b.nodes):
        opsets.append(helper.make_opsetid("com.microsoft", 1))
    proto = helper.make_model(graph, producer_name="meadow", ir_version=IR_VERSION, opset_imports=opsets)
    helper.set_model_props(proto, dict(sorted(metadata.items())))
    return proto


def _value(name: str, kind: int, *shape: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def _inputs(model: Model) -> list[ValueInfoProto]:
    values = [
        _value("input_ids", TensorProto.INT64, 1, "sequence"),
        _value("attention_mask", TensorProto.INT64, 1, "total"),
        _value("position_ids", TensorProto.INT64, 1, "sequence"),
    ]
    for layer in range(model.layers):
        for kind in ("key", "value"):
            name = f"past_key_values.{layer}.{kind}"
            values.append(_value(name, TensorProto.FLOAT, 1, model.kv_heads, "past", model.head_dim))
    return values


def _outputs(model: Model, presents: list[str]) -> list[ValueInfoProto]:
    shape = (1, model.kv_heads, "total", model.head_dim)
    return [_value("logits", TensorProto.FLOAT, 1, "sequence", model.vocab)] + [
        _value(name, TensorProto.FLOAT, *shape) for name in presents
    ]


def _causal_mask(b: Builder) -> str:
    """Additive mask [1, 1, S, total]: 0 where a token may look, -1e9 where it is in the future or padded."""
    b.node("Shape", "attention_mask", name="mask_shape")
    total = b.node("Gather", "mask_shape", b.const("one_index", np.array(1, np.int64)), name="total_length")
    keys = b.node("Range", b.const("zero", np.array(0, np.int64)), total, b.const("one", np.array(1, np.int64)),
                  name="key_positions")  # fmt: skip
    keys = b.node("Unsqueeze", keys, b.ints(0, 1, 2), name="key_row")
    queries = b.node("Unsqueeze", "position_ids", b.ints(1, 3), name="query_column")
    seen = b.node("LessOrEqual", keys, queries, name="causal")
    real = b.node("Cast", "attention_mask", name="real_tokens", to=TensorProto.BOOL)
    real = b.node("Unsqueeze", real, b.ints(1, 2), name="real_row")
    allowed = b.node("And", seen, real, name="allowed")
    return b.node("Where", allowed, b.const("zero_float", np.array(0, np.float32)),
                  b.const("minus_billion", np.array(-1e9, np.float32)), name="mask")  # fmt: skip


def _rotary(b: Builder) -> tuple[str, str]:
    position = b.node("Cast", "position_ids", name="positions", to=TensorProto.FLOAT)
    position = b.node("Unsqueeze", position, b.ints(2), name="position_column")
    angle = b.node("MatMul", position, "inv_freq", name="angle")
    angle = b.node("Concat", angle, angle, name="angles", axis=-1)
    angle = b.node("Unsqueeze", angle, b.ints(1), name="head_angles")
    return b.node("Cos", angle, name="cos"), b.node("Sin", angle, name="sin")


def _norm(b: Builder, x: str, name: str, gain: NDArray[np.float32], eps: float) -> str:
    square = b.node("Pow", x, b.const("two", np.array(2, np.float32)), name=f"{name}.square")
    mean = b.node("ReduceMean", square, b.ints(-1), name=f"{name}.mean", keepdims=1)
    shifted = b.node("Add", mean, b.const("eps", np.array(eps, np.float32)), name=f"{name}.shifted")
    root = b.node("Sqrt", shifted, name=f"{name}.root")
    unit = b.node("Div", x, root, name=f"{name}.unit")
    return b.node("Mul", b.const(f"{name}.weight", gain), unit, name=name)


def _heads(b: Builder, x: str, heads: int, head_dim: int, name: str) -> str:
    x = b.node("Reshape", x, b.ints(0, 0, heads, head_dim), name=f"{name}.split")
    return b.node("Transpose", x, name=f"{name}.heads", perm=[0, 2, 1, 3])


def _rope(b: Builder, x: str, half: int, cos: str, sin: str, name: str) -> str:
    low = b.node("Slice", x, b.ints(0), b.ints(half), b.ints(-1), name=f"{name}.low")
    high = b.node("Slice", x, b.ints(half), b.ints(2 * half), b.ints(-1), name=f"{name}.high")
    turned = b.node("Concat", b.node("Neg", high, name=f"{name}.minus"), low, name=f"{name}.turned", axis=-1)
    return b.node("Add", b.node("Mul", x, cos, name=f"{name}.cos"), b.node("Mul", turned, sin, name=f"{name}.sin"),
                  name=f"{name}.rope")  # fmt: skip


def _repeat(b: Builder, x: str, model: Model, name: str) -> str:
    """[1, kv_heads, P, D] -> [1, heads, P, D], each KV head serving heads / kv_heads query heads."""
    group = model.heads // model.kv_heads
    if group == 1:
        return x
    x = b.node("Unsqueeze", x, b.ints(2), name=f"{name}.five")
    x = b.node("Expand", x, b.ints(1, 1, group, 1, 1), name=f"{name}.expand")
    return b.node("Reshape", x, b.ints(1, model.heads, -1, model.head_dim), name=f"{name}.repeat")


def _layer(b: Builder, model: Model, layer: int, p: str, x: str, mask: str, cos: str, sin: str,
           gains: Callable[[str], NDArray[np.float32]], linear: Linear) -> list[str]:  # fmt: skip
    d, half = model.head_dim, model.head_dim // 2
    n = _norm(b, x, f"{p}.attn_norm", gains(f"{p}.attn_norm.weight"), model.eps)
    q = _heads(b, linear(b, n, f"{p}.attn_q.weight", f"{p}.q"), model.heads, d, f"{p}.q")
    k = _heads(b, linear(b, n, f"{p}.attn_k.weight", f"{p}.k"), model.kv_heads, d, f"{p}.k")
    v = _heads(b, linear(b, n, f"{p}.attn_v.weight", f"{p}.v"), model.kv_heads, d, f"{p}.v")
    q = _rope(b, q, half, cos, sin, f"{p}.q")
    k = _rope(b, k, half, cos, sin, f"{p}.k")
    k = b.node("Concat", f"past_key_values.{layer}.key", k, name=f"present.{layer}.key", axis=2)
    v = b.node("Concat", f"past_key_values.{layer}.value", v, name=f"present.{layer}.value", axis=2)
    keys = b.node("Transpose", _repeat(b, k, model, f"{p}.k"), name=f"{p}.keys", perm=[0, 1, 3, 2])
    score = b.node("MatMul", q, keys, name=f"{p}.dot")
    score = b.node("Mul", score, b.const("score_scale", np.array(d**-0.5, np.float32)), name=f"{p}.scaled")
    score = b.node("Add", score, mask, name=f"{p}.masked")
    weight = b.node("Softmax", score, name=f"{p}.softmax", axis=-1)
    a = b.node("MatMul", weight, _repeat(b, v, model, f"{p}.v"), name=f"{p}.context")
    a = b.node("Transpose", a, name=f"{p}.merge", perm=[0, 2, 1, 3])
    a = b.node("Reshape", a, b.ints(0, 0, model.heads * d), name=f"{p}.merged")
    o = linear(b, a, f"{p}.attn_output.weight", f"{p}.attn_out")
    x = b.node("Add", x, o, name=f"{p}.attn_residual")
    n = _norm(b, x, f"{p}.ffn_norm", gains(f"{p}.ffn_norm.weight"), model.eps)
    gate = linear(b, n, f"{p}.ffn_gate.weight", f"{p}.gate")
    up = linear(b, n, f"{p}.ffn_up.weight", f"{p}.up")
    act = b.node("Mul", gate, b.node("Sigmoid", gate, name=f"{p}.sigmoid"), name=f"{p}.silu")
    h = b.node("Mul", act, up, name=f"{p}.glu")
    down = linear(b, h, f"{p}.ffn_down.weight", f"{p}.down")
    b.node("Add", x, down, name=f"{p}.out")
    return [f"present.{layer}.key", f"present.{layer}.value"]
