# SPDX-License-Identifier: Apache-2.0
"""A model that is not served is refused with the true cause, and all problems at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from reading import same_as_onnxruntime

from meadow.compiler.graph.evaluate import evaluate
from meadow.compiler.graph.ops import Head
from meadow.compiler.sources.onnx.read import read
from meadow.machine.errors import UnsupportedModel

EXPORTS = Path(__file__).parents[1] / "fixtures" / "exports"
IDS = [1, 50, 93, 7, 7, 20, 3]


def export(name: str = "dynamo-eager-20") -> onnx.ModelProto:
    return onnx.load(EXPORTS / f"{name}.onnx")


def constant(model: onnx.ModelProto, name: str, value: object) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def behind(model: onnx.ModelProto, value: str, *nodes: onnx.NodeProto) -> None:
    """Everything that reads `value` reads the last of `nodes`, which come after the node that makes it."""
    graph = model.graph
    place = next(i for i, n in enumerate(graph.node) if value in n.output) + 1
    for node in graph.node:
        node.input[:] = [nodes[-1].output[0] if i == value else i for i in node.input]
    for offset, node in enumerate(nodes):
        graph.node.insert(place + offset, node)


def linears(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The products with constant matrices, in order: q, k, v, o, gate, up, down of each layer, and the head."""
    constants = {t.name for t in model.graph.initializer}
    turned = {n.output[0] for n in model.graph.node if n.op_type == "Transpose" and n.input[0] in constants}
    return [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in constants | turned]


def refusal(model: onnx.ModelProto, folder: Path) -> str:
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(UnsupportedModel) as caught:
        read(folder / "model.onnx")
    return str(caught.value)


@pytest.mark.parametrize("capped", [False, True])
def test_logits_that_are_capped_or_multiplied_are_read(capped: bool, tmp_path: Path) -> None:
    model = export()
    head = next(n for n in model.graph.node if n.output[0] == "logits")
    head.output[0] = "logits.before"
    factor, cap = constant(model, "factor", np.float32(0.125)), constant(model, "cap", np.float32(3))
    nodes = [helper.make_node("Mul", ["logits.before", factor], ["scaled" if capped else "logits"])]
    if capped:
        nodes.append(helper.make_node("Tanh", ["scaled"], ["bent"]))
        nodes.append(helper.make_node("Mul", ["bent", cap], ["logits"]))
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "model.onnx")
    op = same_as_onnxruntime(tmp_path / "model.onnx").nodes[-1].op
    assert isinstance(op, Head) and (op.factor, op.softcap) == ((0.375, 3.0) if capped else (0.125, 0.0))


def test_codes_that_are_computed_are_called_so(tmp_path: Path) -> None:
    model = export()
    source = linears(model)[0].input[0]
    scale = constant(model, "s", np.float32(0.1))
    behind(
        model,
        source,
        helper.make_node("Cast", [source], ["q8"], to=onnx.TensorProto.INT8),
        helper.make_node("DequantizeLinear", ["q8", scale], ["dq8"]),
    )
    text = refusal(model, tmp_path)
    assert "cast to INT8" in text


def test_a_layer_that_the_logits_do_not_read_is_named(tmp_path: Path) -> None:
    """As a builder wrote Gemma, Qwen 3 and Granite: the head reads the norm of the first layer."""
    model = export()
    linears(model)[-1].input[0] = linears(model)[4].input[0]
    text = refusal(model, tmp_path)
    assert "the logits do not depend on the layer of the cache" in text and "the export is broken" in text


def test_logits_of_another_name_are_read(tmp_path: Path) -> None:
    model = export()
    for node in model.graph.node:
        node.output[:] = ["logits_Q4" if o == "logits" else o for o in node.output]
    next(o for o in model.graph.output if o.name == "logits").name = "logits_Q4"
    onnx.save(model, tmp_path / "model.onnx")
    same_as_onnxruntime(tmp_path / "model.onnx")


def test_a_recurrent_model_is_not_told_to_export_a_cache(tmp_path: Path) -> None:
    model = export()
    for kept in (model.graph.input, model.graph.output):
        for value in [v for v in kept if "key" in v.name or "value" in v.name]:
            kept.remove(value)
    model.graph.input.append(helper.make_tensor_value_info("past_ssm_states.0", 1, [1, 8, 16]))
    model.graph.node.insert(0, helper.make_node("Identity", ["past_ssm_states.0"], ["used"]))
    del model.graph.node[1:]
    model.graph.node.append(helper.make_node("Identity", ["used"], ["logits"]))
    text = refusal(model, tmp_path)
    assert "recurrent models (Mamba) are not served" in text and "optimum-cli" not in text


def test_every_feature_that_is_not_served_is_named_at_once(tmp_path: Path) -> None:
    model = export()
    for node in model.graph.node:
        if node.op_type == "Softmax":
            node.domain = "com.example"
        elif node.op_type == "Sigmoid":
            node.op_type = "Tanh"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    text = refusal(model, tmp_path)
    assert "and 1 more: the operator com.example.Softmax" in text
    assert "and 1 more: a gate whose function is no known activation" in text and len(text.splitlines()) == 3


def test_heads_that_the_cache_does_not_state_are_those_of_what_is_appended(tmp_path: Path) -> None:
    model = export()
    for value in (*model.graph.input, *model.graph.output):
        if "key" in value.name or "value" in value.name:
            value.type.tensor_type.shape.dim[1].dim_param = "heads"
            value.type.tensor_type.shape.dim[3].dim_param = "kv_cache_dim"
    onnx.save(model, tmp_path / "model.onnx")
    assert str(read(tmp_path / "model.onnx")) == str(read(EXPORTS / "dynamo-eager-20.onnx"))


def test_codes_with_a_zero_point_of_128_are_int8(tmp_path: Path) -> None:
    model = export()
    node = linears(model)[0]
    w = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == node.input[1]))
    scale = np.float32(np.abs(w).max() / 127)
    codes = (np.rint(w / scale) + 128).astype(np.uint8)
    inputs = [constant(model, "codes", codes), constant(model, "scale", scale), constant(model, "zero", np.uint8(128))]
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, ["dequantized"]))
    node.input[1] = "dequantized"
    onnx.save(model, tmp_path / "model.onnx")
    graph = read(tmp_path / "model.onnx")
    found = next(weight for weight in graph.weights.values() if weight.elem.name == "i8")
    assert found.codes.dtype == np.int8 and (codes.astype(np.int16) - 128 == found.codes.T).all()
    full = evaluate(read(EXPORTS / "dynamo-eager-20.onnx"), np.array(IDS), quantized=False)
    assert np.std(evaluate(graph, np.array(IDS), quantized=False) - full) < 0.05 * np.std(full)
