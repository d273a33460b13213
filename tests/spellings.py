# SPDX-License-Identifier: Apache-2.0
"""One export in the spellings of many exporters, and with the features of many families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

EXPORTS = Path(__file__).parent / "fixtures" / "exports"


class Spelling:
    """An export whose operators are written otherwise."""

    def __init__(self, name: str = "dynamo-eager-20"):
        self.model = onnx.load(EXPORTS / f"{name}.onnx")
        self.nodes = self.model.graph.node
        self.values = {t.name: t for t in self.model.graph.initializer}

    def array(self, name: str) -> NDArray[Any]:
        made = {n.output[0]: n for n in self.nodes}
        if name in made and made[name].op_type == "Transpose":
            return self.array(made[name].input[0]).T
        return np.asarray(numpy_helper.to_array(self.values[name]))

    def const(self, name: str, value: object) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def linears(self) -> list[onnx.NodeProto]:
        """q, k, v, o, gate, up, down of each layer, and the head."""
        made = {n.output[0]: n for n in self.nodes}
        constants = set(self.values) | {
            o for o, n in made.items() if n.op_type == "Transpose" and n.input[0] in self.values
        }
        return [n for n in self.nodes if n.op_type == "MatMul" and n.input[1] in constants]

    def put(self, old: list[onnx.NodeProto], new: list[onnx.NodeProto]) -> None:
        """`new` in the place of the first of `old`."""
        place = list(self.nodes).index(old[0])
        for node in old:
            self.nodes.remove(node)
        for offset, node in enumerate(new):
            self.nodes.insert(place + offset, node)

    def save(self, folder: Path) -> Path:
        onnx.save(self.model, folder / "model.onnx")
        return folder / "model.onnx"


def fused(s: Spelling) -> None:
    """Q, K and V of one matrix, and gate and up of another (Phi 3)."""
    linears = s.linears()
    for first in (0, 7):
        for places in ((0, 1, 2), (4, 5)):
            parts = [linears[first + n] for n in places]
            matrices = [s.array(n.input[1]) for n in parts]
            tag = f"fused.{first}.{places[0]}"
            weight = s.const(tag, np.concatenate(matrices, axis=1))
            sizes = s.const(f"{tag}.sizes", np.array([m.shape[1] for m in matrices], np.int64))
            product = helper.make_node("MatMul", [parts[0].input[0], weight], [f"{tag}.product"])
            outputs = [n.output[0] for n in parts]
            s.put(parts, [product, helper.make_node("Split", [f"{tag}.product", sizes], outputs, axis=-1)])


def biases(s: Spelling) -> None:
    """A bias on every linear, by Add on either side or by Gemm's (OPT, Qwen 2)."""
    random = np.random.default_rng(1)
    for number, node in enumerate(s.linears()[:-1]):
        bias = s.const(f"bias.{number}", random.normal(0, 0.5, s.array(node.input[1]).shape[1]).astype(np.float32))
        out = node.output[0]
        node.output[0] = f"{out}.product"
        sides = [bias, f"{out}.product"] if number % 2 else [f"{out}.product", bias]
        s.nodes.insert(list(s.nodes).index(node) + 1, helper.make_node("Add", sides, [out]))


def gated_by(kind: str) -> Callable[[Spelling], None]:
    """Another activation, spelled out of elementary operators."""

    def change(s: Spelling) -> None:
        for node in [n for n in s.nodes if n.op_type == "Sigmoid"]:
            product = next(n for n in s.nodes if node.output[0] in n.input and n.op_type == "Mul")
            x, y = node.input[0], product.output[0]
            tag = y + "."
            c = {
                name: s.const(tag + name, np.float32(value))
                for name, value in {
                    "half": 0.5,
                    "one": 1,
                    "root": 2**0.5,
                    "three": 3,
                    "cube": 0.044715,
                    "steep": (2 / np.pi) ** 0.5,
                }.items()
            }
            steps = {
                "relu": [("Relu", [x], y)],
                "relu2": [("Relu", [x], tag + "r"), ("Mul", [tag + "r", tag + "r"], y)],
                "gelu": [
                    ("Div", [x, c["root"]], tag + "a"),
                    ("Erf", [tag + "a"], tag + "b"),
                    ("Add", [tag + "b", c["one"]], tag + "c"),
                    ("Mul", [x, tag + "c"], tag + "d"),
                    ("Mul", [tag + "d", c["half"]], y),
                ],
                "gelu_tanh": [
                    ("Pow", [x, c["three"]], tag + "a"),
                    ("Mul", [c["cube"], tag + "a"], tag + "b"),
                    ("Add", [x, tag + "b"], tag + "c"),
                    ("Mul", [tag + "c", c["steep"]], tag + "d"),
                    ("Tanh", [tag + "d"], tag + "e"),
                    ("Add", [c["one"], tag + "e"], tag + "f"),
                    ("Mul", [c["half"], x], tag + "g"),
                    ("Mul", [tag + "g", tag + "f"], y),
                ],
            }[kind]
            s.put([node, product], [helper.make_node(op, inputs, [out]) for op, inputs, out in steps])

    return change


def normed_heads(s: Spelling) -> None:
    """Q and K are normed head by head (Qwen 3)."""
    s.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    gain = s.const("head.gain", np.linspace(0.5, 2, 16).astype(np.float32))
    for node in [s.linears()[n] for n in (0, 1, 7, 8)]:
        out = node.output[0]
        reshape = next(n for n in s.nodes if out in n.input and n.op_type == "Reshape")
        split = reshape.output[0]
        reshape.output[0] = split + ".raw"
        made = helper.make_node("SimplifiedLayerNormalization", [split + ".raw", gain], [split], axis=-1, epsilon=1e-6)
        s.nodes.insert(list(s.nodes).index(reshape) + 1, made)


def layer_norms(s: Spelling) -> None:
    """LayerNorm with a bias in the place of every RMS norm, written out of elementary operators (OPT, GPT 2)."""
    two, eps = s.const("two", np.float32(2)), s.const("epsilon", np.float32(1e-5))
    axes = s.const("last", np.array([-1], np.int64))
    for number, pow_ in enumerate([n for n in s.nodes if n.op_type == "Pow"]):
        chain = [pow_]
        while len(chain) < 7:
            chain += [n for n in s.nodes if chain[-1].output[0] in n.input][:1]
            if chain[-1].op_type == "Mul" and any(i in s.values for i in chain[-1].input):
                break
        last = chain[-1]
        gain = next(i for i in last.input if i in s.values)
        bias = s.const(f"norm.bias.{number}", np.linspace(-1, 1, 64).astype(np.float32))
        tag, x = f"layer_norm.{number}.", pow_.input[0]
        steps = [
            ("ReduceMean", [x, axes], "mean"),
            ("Sub", [x, tag + "mean"], "centred"),
            ("Pow", [tag + "centred", two], "square"),
            ("ReduceMean", [tag + "square", axes], "variance"),
            ("Add", [tag + "variance", eps], "shifted"),
            ("Sqrt", [tag + "shifted"], "root"),
            ("Div", [tag + "centred", tag + "root"], "unit"),
            ("Mul", [tag + "unit", gain], "scaled"),
        ]
        made = [helper.make_node(op, inputs, [tag + out]) for op, inputs, out in steps]
        s.put(chain, [*made, helper.make_node("Add", [tag + "scaled", bias], [last.output[0]])])


def post_norms(s: Spelling) -> None:
    """A norm between each linear and the sum that it goes into (Gemma 2, OLMo 2)."""
    s.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    gain = s.const("post.gain", np.linspace(0.5, 1.5, 64).astype(np.float32))
    for node in [s.linears()[n] for n in (3, 6, 10, 13)]:
        out = node.output[0]
        node.output[0] = out + ".raw"
        made = helper.make_node("SimplifiedLayerNormalization", [out + ".raw", gain], [out], axis=-1, epsilon=1e-6)
        s.nodes.insert(list(s.nodes).index(node) + 1, made)


def norms_of_sums(s: Spelling) -> None:
    """Every sum is normed, and what comes of it is the residual from there on (OPT 350M)."""
    s.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    gain = s.const("sum.gain", np.linspace(0.5, 1.5, 64).astype(np.float32))
    for node in [s.linears()[n] for n in (3, 6, 10, 13)]:
        add = next(n for n in s.nodes if node.output[0] in n.input and n.op_type == "Add")
        out = add.output[0]
        add.output[0] = out + ".raw"
        made = helper.make_node("SimplifiedLayerNormalization", [out + ".raw", gain], [out], axis=-1, epsilon=1e-6)
        s.nodes.insert(list(s.nodes).index(add) + 1, made)


def parallel(s: Spelling) -> None:
    """Attention and MLP read one residual, and their sum is added to it (GPT-NeoX, GPT-J)."""
    made = {n.output[0]: n for n in s.nodes}
    for first in (0, 7):
        linears = s.linears()
        q, o, gate, down = (linears[first + n] for n in (0, 3, 4, 6))
        after, last = (next(n for n in s.nodes if x.output[0] in n.input and n.op_type == "Add") for x in (o, down))
        residual = next(i for i in after.input if i != o.output[0])
        for node in list(s.nodes):  # the MLP's norm reads what the attention's read
            if after.output[0] in node.input and node is not last:
                node.input[:] = [residual if i == after.output[0] else i for i in node.input]
        total = f"parallel.{first}"
        last.input[:] = [total, residual]
        s.nodes.remove(after)
        s.nodes.insert(list(s.nodes).index(last), helper.make_node("Add", [o.output[0], down.output[0]], [total]))
        assert made and q and gate


def parallel_from_behind(s: Spelling) -> None:
    """The same, and the MLP's result is the first of the sum (GPT-NeoX)."""
    parallel(s)
    for node in s.nodes:
        if node.output[0].startswith("parallel."):
            node.input[:] = reversed(node.input)


def centred_rms(s: Spelling) -> None:
    """A layer norm without a bias as the RMS norm of what is centred (Command R, as torch's exporter fuses it)."""
    layer_norms(s)
    s.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for scaled in [n for n in s.nodes if n.op_type == "Mul" and n.output[0].startswith("layer_norm.")]:
        tag = scaled.output[0].removesuffix("scaled")
        bias = next(n for n in s.nodes if tag + "scaled" in n.input)
        out = bias.output[0]
        old = [n for n in s.nodes if n.output[0].startswith(tag) and n.output[0] not in (tag + "mean", tag + "centred")]
        whole = helper.make_node(
            "SimplifiedLayerNormalization", [tag + "centred", scaled.input[1]], [out], axis=-1, epsilon=1e-5
        )
        s.put([*old, bias], [whole])


def gain_first(s: Spelling) -> None:
    """RMS norms as (gain * x) * (1 / root): the gain before the division."""
    for pow_ in [n for n in s.nodes if n.op_type == "Pow"]:
        chain = [pow_]
        while not (chain[-1].op_type == "Mul" and any(i in s.values for i in chain[-1].input)):
            chain += [n for n in s.nodes if chain[-1].output[0] in n.input][:1]
        scaled, unit = chain[-1], chain[-2]
        gain = next(i for i in scaled.input if i in s.values)
        x = pow_.input[0]
        unit.input[:] = [f"{scaled.output[0]}.first" if i == x else i for i in unit.input]
        unit.output[0] = scaled.output[0]
        s.nodes.insert(list(s.nodes).index(unit), helper.make_node("Mul", [gain, x], [f"{scaled.output[0]}.first"]))
        s.nodes.remove(scaled)


def gemms_behind_positions(s: Spelling) -> None:
    """Learned positions, one matrix for Q, K and V, and every bias Gemm's own (GPT-2 by torch's exporter)."""
    fused(s)
    positions(s)
    s.values = {t.name: t for t in s.model.graph.initializer}
    for number, node in enumerate([n for n in s.linears() if n.output[0] != "logits"]):
        rows, cols = s.array(node.input[1]).shape
        bias = s.const(f"gemm.bias.{number}", np.linspace(-0.5, 0.5, cols).astype(np.float32))
        flat, wide = (
            s.const(f"gemm.{number}.flat", np.array([-1, rows])),
            s.const(f"gemm.{number}.wide", np.array([1, -1, cols])),
        )
        tag, (x, weight), out = f"gemm.{number}", node.input, node.output[0]
        steps = [
            helper.make_node("Reshape", [x, flat], [f"{tag}.rows"]),
            helper.make_node("Gemm", [f"{tag}.rows", weight, bias], [f"{tag}.product"]),
            helper.make_node("Reshape", [f"{tag}.product", wide], [out]),
        ]
        s.put([node], steps)


def factors(s: Spelling) -> None:
    """Factors on the embedding, on what is added to the residual, and on the logits (Granite)."""
    embed = next(n for n in s.nodes if n.op_type == "Gather" and n.input[1] == "input_ids")
    linears = s.linears()
    for node, value in ((embed, 12.0), (linears[3], 0.22), (linears[6], 0.22), (linears[-1], 0.125)):
        out = node.output[0]
        node.output[0] = out + ".before"
        factor = s.const(out + ".factor", np.float32(value))
        s.nodes.insert(list(s.nodes).index(node) + 1, helper.make_node("Mul", [out + ".before", factor], [out]))


def positions(s: Spelling) -> None:
    """Learned positions, from the third row of a table on (OPT)."""
    embed = next(n for n in s.nodes if n.op_type == "Gather" and n.input[1] == "input_ids")
    out = embed.output[0]
    embed.output[0] = out + ".tokens"
    table = s.const("positions", np.random.default_rng(5).normal(0, 1, (130, 64)).astype(np.float32))
    two = s.const("two_places", np.int64(2))
    place = list(s.nodes).index(embed) + 1
    for node in (
        helper.make_node("Add", ["position_ids", two], ["places"]),
        helper.make_node("Gather", [table, "places"], ["position_rows"]),
        helper.make_node("Add", [out + ".tokens", "position_rows"], [out]),
    ):
        s.nodes.insert(place, node)
        place += 1


def windowed(s: Spelling) -> None:
    """A sliding window of 9 tokens in the first layer (Mistral, Gemma)."""
    softmax = next(n for n in s.nodes if n.op_type == "Softmax")
    scores = softmax.input[0]
    place = next(i for i, n in enumerate(s.nodes) if scores in n.output) + 1
    made = [
        helper.make_node("Shape", [scores], ["window.shape"], start=-1),
        helper.make_node("Squeeze", ["window.shape"], ["window.keys"]),
        helper.make_node(
            "Range", [s.const("w0", np.int64(0)), "window.keys", s.const("w1", np.int64(1))], ["window.at"]
        ),
        helper.make_node(
            "Unsqueeze", ["position_ids", s.const("w13", np.array([1, 3], np.int64))], ["window.positions"]
        ),
        helper.make_node("Sub", ["window.positions", "window.at"], ["window.distance"]),
        helper.make_node("GreaterOrEqual", ["window.distance", s.const("w9", np.int64(9))], ["window.far"]),
        helper.make_node(
            "Where", ["window.far", s.const("low", np.float32(-1e9)), s.const("nil", np.float32(0))], ["window.mask"]
        ),
        helper.make_node("Add", [scores, "window.mask"], ["window.scores"]),
    ]
    softmax.input[0] = "window.scores"
    for offset, node in enumerate(made):
        s.nodes.insert(place + offset, node)


def capped_scores(s: Spelling) -> None:
    """A softcap of 2 on the scores of the second layer (Gemma 2)."""
    softmax = [n for n in s.nodes if n.op_type == "Softmax"][1]
    mask = next(n for n in s.nodes if softmax.input[0] in n.output)
    before = mask.input[0]
    two = s.const("score.cap", np.float32(2))
    steps = [
        helper.make_node("Div", [before, two], ["capped.a"]),
        helper.make_node("Tanh", ["capped.a"], ["capped.b"]),
        helper.make_node("Mul", ["capped.b", two], ["capped.c"]),
    ]
    mask.input[0] = "capped.c"
    for offset, node in enumerate(steps):
        s.nodes.insert(list(s.nodes).index(mask), node)
        del offset


def last_token(s: Spelling) -> None:
    """The head computes the last position alone."""
    head = s.linears()[-1]
    index = s.const("minus_one", np.array([-1], np.int64))
    source = head.input[0]
    head.input[0] = "last_token"
    made = helper.make_node("Gather", [source, index], ["last_token"], axis=1)
    s.nodes.insert(list(s.nodes).index(head), made)


def int32_inputs(s: Spelling) -> None:
    for value in s.model.graph.input:
        if value.name in ("input_ids", "attention_mask"):
            value.type.tensor_type.elem_type = TensorProto.INT32


def renamed_cache(s: Spelling) -> None:
    """torch's own names of a DynamicCache."""
    for kept in (s.model.graph.input, s.model.graph.output):
        for value in kept:
            before = value.name
            if "key" in before or "value" in before:
                start, layer, kind = before.rsplit(".", 2)
                value.name = f"{start}_{kind}_cache_{layer}"
                for node in s.nodes:
                    node.input[:] = [value.name if i == before else i for i in node.input]
                    node.output[:] = [value.name if o == before else o for o in node.output]


def quantized_in_the_graph(s: Spelling) -> None:
    """Float weights that the graph rounds itself: QuantizeLinear, a Clip, DequantizeLinear (Brevitas' QCDQ)."""
    for number, node in enumerate(s.linears()[:-1]):
        w = s.array(node.input[1])
        scale = s.const(f"scale.{number}", (np.abs(w).max(axis=0) / 7).astype(np.float32))
        zero, low, high = (
            s.const(f"{n}.{number}", v)
            for n, v in (("zero", np.zeros(w.shape[1], np.int8)), ("low", np.int8(-8)), ("high", np.int8(7)))
        )
        tag = f"weight.{number}."
        steps = [
            helper.make_node("QuantizeLinear", [s.const(tag + "float", w), scale, zero], [tag + "q"], axis=1),
            helper.make_node("Clip", [tag + "q", low, high], [tag + "c"]),
            helper.make_node("DequantizeLinear", [tag + "c", scale, zero], [tag + "dq"], axis=1),
        ]
        for offset, made in enumerate(steps):
            s.nodes.insert(list(s.nodes).index(node) + offset * 0, made)
        node.input[1] = tag + "dq"


def local_functions(s: Spelling) -> None:
    """Every Sigmoid with its product is a function of the file, and that calls another (onnxscript)."""
    s.model.opset_import.append(helper.make_opsetid("local", 1))
    opset = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    inner = helper.make_function("local", "Gate", ["x"], ["y"], [helper.make_node("Sigmoid", ["x"], ["y"])], opset)
    steps = [
        helper.make_node("Gate", ["x"], ["gate"], domain="local"),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Mul", ["gate", "one"], ["same"]),
        helper.make_node("Mul", ["x", "same"], ["y"]),
    ]
    s.model.functions.extend([inner, helper.make_function("local", "Silu", ["x"], ["y"], steps, opset)])
    for node in [n for n in s.nodes if n.op_type == "Sigmoid"]:
        product = next(n for n in s.nodes if node.output[0] in n.input and n.op_type == "Mul")
        s.put([node, product], [helper.make_node("Silu", [node.input[0]], [product.output[0]], domain="local")])


def merged(s: Spelling) -> None:
    """The whole model is the branch for a cache; the other gives zeros (optimum's merged decoders)."""
    g = s.model.graph
    branch = helper.make_graph(list(g.node), "with_past", [], list(g.output), list(g.initializer)[::2])
    other = helper.make_graph(
        [helper.make_node("Expand", ["zero", f"{o.name}.shape"], [f"{o.name}.zeros"]) for o in g.output],
        "without_past",
        [],
        [helper.make_tensor_value_info(f"{o.name}.zeros", TensorProto.FLOAT, None) for o in g.output],
        [numpy_helper.from_array(np.float32(0), "zero")]
        + [
            numpy_helper.from_array(np.ones(len(o.type.tensor_type.shape.dim), np.int64), f"{o.name}.shape")
            for o in g.output
        ],
    )
    kept, outputs = list(g.initializer)[1::2], [o.name for o in g.output]
    for inner in branch.output:
        inner.name += ".past"
    for node in branch.node:
        node.input[:] = [f"{i}.past" if i in outputs else i for i in node.input]
        node.output[:] = [f"{o}.past" if o in outputs else o for o in node.output]
    del g.node[:], g.initializer[:]
    g.initializer.extend(kept)
    g.input.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))
    g.node.append(helper.make_node("If", ["use_cache_branch"], outputs, then_branch=branch, else_branch=other))


def constants(s: Spelling) -> None:
    """Every small initializer is a Constant (torch's TorchScript exporter)."""
    for tensor in [t for t in s.model.graph.initializer if np.prod(t.dims) <= 8]:
        s.model.graph.initializer.remove(tensor)
        s.nodes.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))


SPELLINGS: dict[str, Callable[[Spelling], None]] = {
    "biases": biases,
    "fused": fused,
    "last token": last_token,
    "int32 inputs": int32_inputs,
    "renamed cache": renamed_cache,
    "layer norms": layer_norms,
    "normed heads": normed_heads,
    "post norms": post_norms,
    "norms of sums": norms_of_sums,
    "parallel": parallel,
    "parallel from behind": parallel_from_behind,
    "centred RMS": centred_rms,
    "gain first": gain_first,
    "Gemms behind positions": gemms_behind_positions,
    "factors": factors,
    "window": windowed,
    "capped scores": capped_scores,
    "positions": positions,
    "local functions": local_functions,
    "merged": merged,
    "constants": constants,
    "QCDQ weights": quantized_in_the_graph,
    **{kind: gated_by(kind) for kind in ("relu", "relu2", "gelu", "gelu_tanh")},
}
