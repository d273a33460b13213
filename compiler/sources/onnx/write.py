# SPDX-License-Identifier: Apache-2.0
"""Write a Graph as ONNX, node by node: standard operators, a KV cache, weights as they are stored.

Only writes.  The interface is what Hugging Face exporters produce, so that any ONNX tool can run the file:
input_ids, attention_mask, position_ids, past_key_values.N.key/value -> logits, present.N.key/value.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Activation, Add, Attention, Embedding, Head, Linear, Norm, Rotary, Threshold
from meadow.compiler.sources.onnx.builder import Builder
from meadow.compiler.sources.onnx.write_weight import write_embedding, write_linear

OPSET = 21
IR_VERSION = 10

RESERVED = {
    *("input_ids", "attention_mask", "position_ids", "positions", "position_column", "meadow"),
    *("mask_shape", "total_length", "key_positions", "key_row", "query_column", "real_tokens", "real_row"),
    *("causal", "allowed", "every_query", "no_queries"),
}
"""Values that every written graph has: no tensor of the model may be called so."""


def write(graph: Graph, metadata: dict[str, str]) -> ModelProto:
    """`graph` as an ONNX model with `metadata`.  Raises ValueError for a node that has no form in ONNX here."""
    b = Builder({node.name for node in graph.nodes} | RESERVED)
    writer = _Writer(graph, b)
    for node in graph.nodes:
        writer.node(node)
    proto = helper.make_graph(b.nodes, graph.model.name, _inputs(graph), _outputs(graph), b.tensors)
    opsets = [helper.make_opsetid("", OPSET)]
    if any(n.domain == "com.microsoft" for n in b.nodes):
        opsets.append(helper.make_opsetid("com.microsoft", 1))
    model = helper.make_model(proto, producer_name="meadow", ir_version=IR_VERSION, opset_imports=opsets)
    helper.set_model_props(model, dict(sorted(metadata.items())))
    return model


class _Writer:
    """The values of a graph's nodes in ONNX, by node name: [1, S, width], or by heads [1, heads, S, head_dim]."""

    def __init__(self, graph: Graph, b: Builder):
        self.graph, self.b = graph, b
        self.by_heads: dict[str, str] = {}
        self.tables: dict[tuple[Any, ...], int] = {}

    def node(self, node: Node) -> None:
        b, name = self.b, node.name
        inputs = list(node.inputs)
        match node.op:
            case Embedding() as op:
                self._embedding(op, name)
            case Norm() as op:
                self._norm(op, inputs[0], name)
            case Head() as op:
                self._head(op, inputs[0], name)
            case Linear() as op:
                self._linear(op, inputs[0], name, name)
            case Rotary() as op:
                self._rotary(op, inputs[0], name)
            case Attention() as op:
                self._attention(op, node, inputs)
            case Activation() as op:
                self._activation(op, inputs, name)
            case Add():
                b.node("Add", *inputs, name=name)
            case Threshold() as op:
                b.node("Shrink", *inputs, name=name, lambd=op.value, bias=0.0)
            case _:
                raise ValueError(f"%{name}: {node.op.title} has no form in ONNX here")

    def _vector(self, name: str) -> str:
        return self.b.const(name, self.graph.vectors[name])

    def _embedding(self, op: Embedding, name: str) -> None:
        b = self.b
        last = name if op.factor == 1 and op.positions is None else f"{name}.rows"
        x = write_embedding(b, "input_ids", self.graph.weights[op.weight], last)
        if op.factor != 1:
            x = b.node("Mul", x, b.scalar(op.factor), name=name if op.positions is None else f"{name}.scaled")
        if op.positions is not None:
            at = "position_ids"
            if op.shift:
                at = b.node("Add", at, b.const("shift", np.array(op.shift, np.int64)), name=f"{name}.places")
            table = write_embedding(b, at, self.graph.weights[op.positions], f"{name}.positions")
            b.node("Add", x, table, name=name)

    def _norm(self, op: Norm, x: str, name: str) -> None:
        b = self.b
        if op.heads > 1:
            parts = b.node("Reshape", x, b.ints(0, 0, op.heads, -1), name=f"{name}.parts")
            self._norm(replace(op, heads=1), parts, f"{name}.by_head")
            b.node("Reshape", f"{name}.by_head", b.ints(0, 0, -1), name=name)
            return
        if op.kind == "layer":
            mean = b.node("ReduceMean", x, b.ints(-1), name=f"{name}.middle", keepdims=1)
            x = b.node("Sub", x, mean, name=f"{name}.centred")
        square = b.node("Pow", x, b.scalar(2), name=f"{name}.square")
        mean = b.node("ReduceMean", square, b.ints(-1), name=f"{name}.mean", keepdims=1)
        shifted = b.node("Add", mean, b.const(f"eps_{op.eps!r}", np.array(op.eps, np.float32)), name=f"{name}.shifted")
        root = b.node("Sqrt", shifted, name=f"{name}.root")
        last = name if op.bias is None else f"{name}.scaled"
        unit = b.node("Div", x, root, name=f"{name}.unit" if op.gain is not None else last)
        if op.gain is not None:
            gain = self._vector(op.gain)
            if op.offset:
                gain = b.node("Add", gain, b.scalar(op.offset), name=f"{name}.gain")
            unit = b.node("Mul", gain, unit, name=last)
        if op.bias is not None:
            b.node("Add", unit, self._vector(op.bias), name=name)

    def _linear(self, op: Linear, x: str, source: str, name: str) -> str:
        """The value `name` from the value `x` of the node `source`."""
        steps = ["product"] + ["factor"] * (op.factor != 1) + ["bias"] * (op.bias is not None)
        names = [name if step == steps[-1] else f"{name}.{step}" for step in steps]
        y = write_linear(self.b, x, self.graph.weights[op.weight], names[0])
        if op.factor != 1:
            y = self.b.node("Mul", y, self.b.scalar(op.factor), name=names[1])
        return y if op.bias is None else self.b.node("Add", y, self._vector(op.bias), name=name)

    def _head(self, op: Head, x: str, name: str) -> None:
        y = self._linear(op, x, name, f"{name}.raw" if op.softcap else name)
        if op.softcap:
            self._capped(y, op.softcap, name)

    def _capped(self, x: str, cap: float, name: str) -> str:
        b = self.b
        x = b.node("Div", x, b.scalar(cap), name=f"{name}.over")
        return b.node("Mul", b.node("Tanh", x, name=f"{name}.tanh"), b.scalar(cap), name=name)

    # -- attention -------------------------------------------------------------------------------------------------

    def _heads(self, name: str, heads: int, head_dim: int) -> str:
        """[1, S, heads * head_dim] -> [1, heads, S, head_dim]"""
        b = self.b
        x = b.node("Reshape", name, b.ints(0, 0, heads, head_dim), name=f"{name}.split")
        return b.node("Transpose", x, name=f"{name}.heads", perm=[0, 2, 1, 3])

    def _angles(self, op: Rotary) -> tuple[str, str]:
        """cos and sin [1, 1, S, turned], or [1, 1, S, turned / 2] of interleaved pairs; one of each per table."""
        b = self.b
        key = str(self.tables.setdefault((op.frequencies, op.interleaved, op.factor), len(self.tables)))
        position = b.once("Cast", "position_ids", name="positions", to=TensorProto.FLOAT)
        position = b.once("Unsqueeze", position, b.ints(2), name="position_column")
        values = np.array(op.frequencies, np.float32).reshape(1, -1)
        angle = b.once("MatMul", position, b.const(f"inv_freq_{key}", values), name=f"angle_{key}")
        if not op.interleaved:
            angle = b.once("Concat", angle, angle, name=f"angles_{key}", axis=-1)
        angle = b.once("Unsqueeze", angle, b.ints(1), name=f"head_angles_{key}")
        made = []
        for kind in ("Cos", "Sin"):
            name = f"{kind.lower()}_{key}"
            value = b.once(kind, angle, name=name if op.factor == 1 else f"{name}.plain")
            made.append(value if op.factor == 1 else b.once("Mul", value, b.scalar(op.factor), name=name))
        return made[0], made[1]

    def _rotary(self, op: Rotary, source: str, name: str) -> None:
        b, half = self.b, len(op.frequencies)
        cos, sin = self._angles(op)
        x = self._heads(source, op.heads, op.head_dim)
        rest = ""
        if 2 * half < op.head_dim:
            rest = b.node("Slice", x, b.ints(2 * half), b.ints(op.head_dim), b.ints(-1), name=f"{name}.rest")
            x = b.node("Slice", x, b.ints(0), b.ints(2 * half), b.ints(-1), name=f"{name}.turning")
        last = f"{name}.turned" if rest else name
        if op.interleaved:
            pairs = [
                b.node("Slice", x, b.ints(n), b.ints(2 * half), b.ints(-1), b.ints(2), name=f"{name}.{part}")
                for n, part in enumerate(("low", "high"))
            ]

            def product(x: str, y: str, what: str) -> str:
                return b.node("Mul", x, y, name=f"{name}.{what}")

            low = b.node("Sub", product(pairs[0], cos, "lc"), product(pairs[1], sin, "hs"), name=f"{name}.new_low")
            high = b.node("Add", product(pairs[1], cos, "hc"), product(pairs[0], sin, "ls"), name=f"{name}.new_high")
            both = [b.node("Unsqueeze", part, b.ints(-1), name=f"{part}.column") for part in (low, high)]
            both_name = b.node("Concat", *both, name=f"{name}.pairs", axis=-1)
            x = b.node("Reshape", both_name, b.ints(1, op.heads, -1, 2 * half), name=last)
        else:
            low = b.node("Slice", x, b.ints(0), b.ints(half), b.ints(-1), name=f"{name}.low")
            high = b.node("Slice", x, b.ints(half), b.ints(2 * half), b.ints(-1), name=f"{name}.high")
            swapped = b.node("Concat", b.node("Neg", high, name=f"{name}.minus"), low, name=f"{name}.swapped", axis=-1)
            x = b.node(
                "Add",
                b.node("Mul", x, cos, name=f"{name}.cos"),
                b.node("Mul", swapped, sin, name=f"{name}.sin"),
                name=last,
            )
        self.by_heads[name] = b.node("Concat", x, rest, name=name, axis=-1) if rest else x

    def _mask(self, op: Attention) -> str:
        """Additive mask [1, 1, S, total]: 0 where a token may look, -1e9 where it may not, or where there is no token."""
        b = self.b
        name = "mask" + ("" if op.causal else "_all") + (f"_{op.window}" if op.window else "")
        b.once("Shape", "attention_mask", name="mask_shape")
        total = b.once("Gather", "mask_shape", b.const("int_1", np.array(1, np.int64)), name="total_length")
        keys = b.once(
            "Range",
            b.const("int_0", np.array(0, np.int64)),
            total,
            b.const("int_1", np.array(1, np.int64)),
            name="key_positions",
        )
        keys = b.once("Unsqueeze", keys, b.ints(0, 1, 2), name="key_row")
        queries = b.once("Unsqueeze", "position_ids", b.ints(1, 3), name="query_column")
        real = b.once("Cast", "attention_mask", name="real_tokens", to=TensorProto.BOOL)
        allowed = b.once("Unsqueeze", real, b.ints(1, 2), name="real_row")
        if op.causal:
            seen = b.once("LessOrEqual", keys, queries, name="causal")
            allowed = b.once("And", seen, allowed, name="allowed")
        if op.window:
            window = b.const(f"window_{op.window}", np.array(op.window, np.int64))
            first = b.once("Sub", queries, window, name=f"before_{op.window}")
            near = b.once("Greater", keys, first, name=f"near_{op.window}")
            allowed = b.once("And", allowed, near, name=f"{name}_allowed")
        if not op.causal:  # the same for every query: as wide as the causal mask all the same
            zero = b.once("Sub", queries, queries, name="no_queries")
            none = b.once("Equal", zero, b.const("int_0", np.array(0, np.int64)), name="every_query")
            allowed = b.once("And", none, allowed, name=f"{name}_wide")
        return b.once("Where", allowed, b.scalar(0), b.const("minus_billion", np.array(-1e9, np.float32)), name=name)

    def _repeat(self, x: str, op: Attention, name: str) -> str:
        """[1, kv_heads, P, D] -> [1, heads, P, D]: each KV head as often as it has query heads."""
        b, group = self.b, op.heads // op.kv_heads
        if op.groups:
            order = np.array(op.kv_of_heads, np.int64)
            return b.node(
                "Gather",
                x,
                b.const("kv_of_heads_" + "_".join(map(str, op.groups)), order),
                name=f"{name}.repeat",
                axis=1,
            )
        if group == 1:
            return x
        x = b.node("Unsqueeze", x, b.ints(2), name=f"{name}.five")
        x = b.node("Expand", x, b.ints(1, 1, group, 1, 1), name=f"{name}.expand")
        return b.node("Reshape", x, b.ints(1, op.heads, -1, op.head_dim), name=f"{name}.repeat")

    def _attention(self, op: Attention, node: Node, inputs: list[str]) -> None:
        b, name, layer = self.b, node.name, node.layer
        if op.keys_from is not None:
            layer = op.keys_from
        q, *new = (
            self.by_heads.get(i) or self._heads(i, count, op.head_dim)
            for i, count in zip(inputs, (op.heads, op.kv_heads, op.kv_heads), strict=False)
        )
        for kind, value in zip(("key", "value"), new, strict=False):
            b.node("Concat", f"past_key_values.{layer}.{kind}", value, name=f"present.{layer}.{kind}", axis=2)
        keys = self._repeat(f"present.{layer}.key", op, f"{name}.k")
        keys = b.node("Transpose", keys, name=f"{name}.keys", perm=[0, 1, 3, 2])
        score = b.node("MatMul", q, keys, name=f"{name}.dot")
        score = b.node("Mul", score, b.scalar(op.scale), name=f"{name}.scaled")
        score = self._capped(score, op.softcap, f"{name}.capped") if op.softcap else score
        score = b.node("Add", score, self._mask(op), name=f"{name}.masked")
        if op.sinks is None:
            weight = b.node("Softmax", score, name=f"{name}.softmax", axis=-1)
        else:
            weight = self._sunk(op, score, name)
        a = b.node("MatMul", weight, self._repeat(f"present.{layer}.value", op, f"{name}.v"), name=f"{name}.context")
        a = b.node("Transpose", a, name=f"{name}.merge", perm=[0, 2, 1, 3])
        b.node("Reshape", a, b.ints(0, 0, op.heads * op.head_dim), name=name)

    def _sunk(self, op: Attention, score: str, name: str) -> str:
        """Softmax over the scores and one more, the head's sink, which is then left out."""
        b = self.b
        assert op.sinks is not None
        sink = b.node("Reshape", self._vector(op.sinks), b.ints(1, -1, 1, 1), name=f"{name}.sink")
        first = b.node("Slice", score, b.ints(0), b.ints(1), b.ints(-1), name=f"{name}.first")
        column = b.node("Add", b.node("Mul", first, b.scalar(0), name=f"{name}.nothing"), sink, name=f"{name}.column")
        whole = b.node("Concat", score, column, name=f"{name}.sunk", axis=-1)
        whole = b.node("Softmax", whole, name=f"{name}.softmax", axis=-1)
        return b.node("Slice", whole, b.ints(0), b.ints(-1), b.ints(-1), name=f"{name}.weights")

    def _activation(self, op: Activation, inputs: list[str], name: str) -> None:
        b, gate = self.b, inputs[0]
        if op.alternating:
            last = b.ints(np.iinfo(np.int64).max)
            gate, up = (
                b.node("Slice", inputs[0], b.ints(n), last, b.ints(-1), b.ints(2), name=f"{name}.{part}")
                for n, part in enumerate(("gate", "up"))
            )
            inputs = [gate, up]
        last_name = f"{name}.{op.kind}" if len(inputs) == 2 else name
        if op.kind == "quick_gelu":
            steep = b.node("Mul", gate, b.scalar(1.702), name=f"{name}.steep")
            act = b.node("Mul", gate, b.node("Sigmoid", steep, name=f"{name}.sigmoid"), name=last_name)
        elif op.kind == "silu":
            act = b.node("Mul", gate, b.node("Sigmoid", gate, name=f"{name}.sigmoid"), name=last_name)
        elif op.kind in ("gelu", "gelu_tanh"):
            act = b.node("Gelu", gate, name=last_name, approximate="tanh" if op.kind == "gelu_tanh" else "none")
        elif op.kind == "relu2":
            act = b.node("Relu", gate, name=f"{name}.relu")
            act = b.node("Mul", act, act, name=last_name)
        else:
            act = b.node("Relu", gate, name=last_name)
        if len(inputs) == 2:
            b.node("Mul", act, inputs[1], name=name)


# -- the interface -----------------------------------------------------------------------------------------------------


def _value(name: str, kind: int, *shape: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def _caches(graph: Graph) -> list[tuple[int, Attention]]:
    """(layer, attention) of each attention that has a cache of its own."""
    return [
        (node.layer or 0, node.op)
        for node in graph.nodes
        if isinstance(node.op, Attention) and node.op.keys_from is None
    ]


def _inputs(graph: Graph) -> list[ValueInfoProto]:
    values = [
        _value("input_ids", TensorProto.INT64, 1, "sequence"),
        _value("attention_mask", TensorProto.INT64, 1, "total"),
        _value("position_ids", TensorProto.INT64, 1, "sequence"),
    ]
    for layer, op in _caches(graph):
        for kind in ("key", "value"):
            name = f"past_key_values.{layer}.{kind}"
            values.append(_value(name, TensorProto.FLOAT, 1, op.kv_heads, "past", op.head_dim))
    return values


def _outputs(graph: Graph) -> list[ValueInfoProto]:
    found = [_value(graph.nodes[-1].name, TensorProto.FLOAT, 1, "sequence", graph.model.vocab)]
    for layer, op in _caches(graph):
        for kind in ("key", "value"):
            found.append(_value(f"present.{layer}.{kind}", TensorProto.FLOAT, 1, op.kv_heads, "total", op.head_dim))
    return found
