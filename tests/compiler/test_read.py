# SPDX-License-Identifier: Apache-2.0
"""Five exporters, one Graph; and a file that is no LLaMA-family decoder is refused with all its problems at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from reading import same_as_onnxruntime

from meadow.compiler.graph.evaluate import Evaluator, State, evaluate
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Attention, Linear, Norm, Rotary
from meadow.compiler.graph.rewrite import rewrite
from meadow.compiler.sources.onnx.read import read
from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.errors import UnsupportedModel, UsageError
from meadow.machine.types import Weight

EXPORTS = Path(__file__).parents[1] / "fixtures" / "exports"
NAMES = sorted(p.stem for p in EXPORTS.glob("*.onnx"))
IDS = [1, 50, 93, 7, 7, 20]


@pytest.mark.parametrize("name", NAMES)
def test_an_export_means_what_onnxruntime_computes(name: str) -> None:
    path = EXPORTS / f"{name}.onnx"
    graph = read(path)
    reference = OnnxModel(path)
    first = reference.step(IDS[:4]) if name == "optimum-18" else reference.step(IDS[:1])
    rest = IDS[4:] if name == "optimum-18" else IDS[1:]
    logits = np.concatenate([first, *[reference.step([t]) for t in rest]])
    assert np.abs(evaluate(graph, np.array(IDS), quantized=False) - logits).max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_every_export_gives_the_same_graph(name: str) -> None:
    first, graph = read(EXPORTS / f"{NAMES[0]}.onnx"), read(EXPORTS / f"{name}.onnx")
    assert [type(n.op) for n in graph.nodes] == [type(n.op) for n in first.nodes]
    ids = np.array(IDS)
    assert np.abs(evaluate(graph, ids, False) - evaluate(first, ids, False)).max() < 1e-5
    for mine, other in zip(graph.nodes, first.nodes, strict=True):
        if isinstance(mine.op, Rotary) and isinstance(other.op, Rotary):
            assert mine.op.frequencies == pytest.approx(other.op.frequencies)
        if isinstance(mine.op, Norm) and isinstance(other.op, Norm):
            assert mine.op.eps == other.op.eps == pytest.approx(1e-5)


def test_the_graph_of_the_tiny_model_reads_like_this(tiny_int8: Path, golden: Any) -> None:
    golden.check(str(read(tiny_int8)))


def test_the_rewritten_graph_reads_like_this_and_means_the_same(tiny_int8: Path, golden: Any) -> None:
    graph = read(tiny_int8)
    fused = rewrite(graph)
    golden.check(str(fused))
    for layer in range(graph.model.layers):
        gate, up = (by_name(graph, f"l{layer}.{part}").dequantize() for part in ("gate", "up"))
        both = by_name(fused, f"l{layer}.gate_up").dequantize()
        assert (both[0::2] == gate).all() and (both[1::2] == up).all()
    # FP32 sums of one row differ in their last bit with the number of rows beside it, on some BLAS kernels.
    a, b = evaluate(graph, np.array([4, 900, 33])), evaluate(fused, np.array([4, 900, 33]))
    assert np.abs(a - b).max() < 1e-5 * np.abs(a).max()


def by_name(graph: Graph, name: str) -> Weight:
    return graph.weight_of(next(n for n in graph.nodes if n.name == name))


def test_tied_weights_are_one(tiny_int8: Path) -> None:
    graph = read(tiny_int8)
    assert graph.nodes[0].weight == graph.nodes[-1].weight
    assert sum(isinstance(n.op, Linear) for n in graph.nodes) == 29


def test_a_step_at_a_time_means_the_same_as_a_prompt(tiny_int8: Path) -> None:
    evaluator, state = Evaluator(read(tiny_int8), quantized=False), State()
    ids = np.array([4, 900, 33, 12])
    steps = np.concatenate([evaluator.run(ids[i : i + 1], state) for i in range(4)])
    assert np.abs(steps - evaluator.run(ids, State())).max() < 1e-4


def small(inputs: list[str], outputs: list[str], nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in inputs]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    weights = [numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")]
    graph = helper.make_graph(nodes, "g", values, results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_a_vision_model_gets_all_its_problems(tmp_path: Path, golden: Any) -> None:
    nodes = [
        helper.make_node("Conv", ["pixel_values", "w"], ["c"], name="conv0"),
        helper.make_node("GlobalAveragePool", ["c"], ["out"], name="pool"),
    ]
    onnx.save(small(["pixel_values"], ["out"], nodes), tmp_path / "vision.onnx")
    with pytest.raises(UnsupportedModel) as caught:
        read(tmp_path / "vision.onnx")
    golden.check(str(caught.value).replace(str(tmp_path), "TMP") + "\n")


def test_an_encoder_gets_all_its_problems(tmp_path: Path, golden: Any) -> None:
    nodes = [helper.make_node("LayerNormalization", ["input_ids", "w"], ["last_hidden_state"], name="ln")]
    onnx.save(small(["input_ids"], ["last_hidden_state"], nodes), tmp_path / "bert.onnx")
    with pytest.raises(UnsupportedModel) as caught:
        read(tmp_path / "bert.onnx")
    golden.check(str(caught.value).replace(str(tmp_path), "TMP") + "\n")


def test_another_activation_is_found_out(tmp_path: Path) -> None:
    model = onnx.load(EXPORTS / "dynamo-eager-20.onnx")
    for node in model.graph.node:
        if node.op_type == "Sigmoid":
            node.op_type = "Tanh"
    onnx.save(model, tmp_path / "tanh.onnx")
    with pytest.raises(UnsupportedModel, match="a gate whose function is no known activation"):
        read(tmp_path / "tanh.onnx")


def test_another_score_scale_is_read_as_it_is(tmp_path: Path) -> None:
    model = onnx.load(EXPORTS / "dynamo-eager-20.onnx")
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32 and value.size == 1 and np.isclose(value, 0.25).all():
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value * 2, np.float32), tensor.name))
    onnx.save(model, tmp_path / "scale.onnx")
    graph = read(tmp_path / "scale.onnx")
    assert all(n.op.scale == pytest.approx(0.5) for n in graph.nodes if isinstance(n.op, Attention))
    reference = OnnxModel(tmp_path / "scale.onnx").prefill(IDS)
    assert np.abs(evaluate(graph, np.array(IDS), False) - reference).max() < 1e-4


@pytest.mark.parametrize("keep", [1, 100, 5000, 200_000])
def test_a_truncated_file_is_refused_in_a_sentence(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes((EXPORTS / "dynamo-eager-20.onnx").read_bytes()[:keep])
    with pytest.raises((UsageError, UnsupportedModel)):
        read(path)


def mutate(path: Path, change: Any) -> Path:
    model = onnx.load(EXPORTS / "dynamo-eager-20.onnx")
    change({n.output[0]: n for n in model.graph.node}, model)
    onnx.save(model, path)
    return path


def first(nodes: dict[str, onnx.NodeProto], kind: str) -> onnx.NodeProto:
    return next(n for n in nodes.values() if n.op_type == kind)


def constant(model: onnx.ModelProto, name: str, value: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def softmax_axis(nodes: dict[str, onnx.NodeProto], model: onnx.ModelProto) -> None:
    next(a for a in first(nodes, "Softmax").attribute if a.name == "axis").i = 1


def no_mask(nodes: dict[str, onnx.NodeProto], model: onnx.ModelProto) -> None:
    first(nodes, "Where").input[1] = first(nodes, "Where").input[2]


def swapped_halves(nodes: dict[str, onnx.NodeProto], model: onnx.ModelProto) -> None:
    neg = first(nodes, "Neg")
    concat = next(n for n in nodes.values() if n.op_type == "Concat" and n.input[0] == neg.output[0])
    neg.input[0], concat.input[1] = concat.input[1], neg.input[0]


def cosine_twice(nodes: dict[str, onnx.NodeProto], model: onnx.ModelProto) -> None:
    first(nodes, "Sin").op_type = "Cos"


def cubes(nodes: dict[str, onnx.NodeProto], model: onnx.ModelProto) -> None:
    first(nodes, "Pow").input[1] = constant(model, "three", np.float32(3))


def scaled_embedding(nodes: dict[str, onnx.NodeProto], model: onnx.ModelProto) -> None:
    gather = next(n for n in nodes.values() if n.op_type == "Gather")
    for node in model.graph.node:
        node.input[:] = ["scaled" if i == gather.output[0] else i for i in node.input]
    place = next(i for i, node in enumerate(model.graph.node) if node.output[0] == gather.output[0])
    eight = constant(model, "eight", np.float32(8))
    model.graph.node.insert(place + 1, helper.make_node("Mul", [gather.output[0], eight], ["scaled"]))


def values_from_the_residual(nodes: dict[str, onnx.NodeProto], model: onnx.ModelProto) -> None:
    nodes["linear_2"].input[0] = next(n for n in nodes.values() if n.op_type == "Gather").output[0]


@pytest.mark.parametrize("change", [softmax_axis, no_mask, swapped_halves, cosine_twice, cubes])
def test_a_graph_that_only_looks_like_llama_is_found_out(change: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel):
        read(mutate(tmp_path / "m.onnx", change))


@pytest.mark.parametrize("change", [scaled_embedding, values_from_the_residual])
def test_a_graph_that_is_wired_otherwise_is_read_as_it_is(change: Any, tmp_path: Path) -> None:
    same_as_onnxruntime(mutate(tmp_path / "m.onnx", change))


def test_an_unchanged_copy_is_read(tmp_path: Path) -> None:
    assert read(mutate(tmp_path / "m.onnx", lambda nodes, model: None)).model.layers == 2


def damaged_tensor(
    nodes: dict[str, onnx.NodeProto], model: onnx.ModelProto, dims: list[int], raw: bytes | None
) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "val_74")
    del tensor.dims[:]
    tensor.dims.extend(dims)
    if raw is not None:
        tensor.raw_data = raw


@pytest.mark.parametrize(("dims", "raw"), [([1 << 40, 64], None), ([-5, 64], None), ([64, 64], b"xx"), ([], None)])
def test_a_damaged_tensor_is_named(dims: list[int], raw: bytes | None, tmp_path: Path) -> None:
    path = mutate(tmp_path / "m.onnx", lambda nodes, model: damaged_tensor(nodes, model, dims, raw))
    with pytest.raises(UsageError, match="the tensor 'val_74'"):
        read(path)


def test_a_graph_with_a_cycle_is_refused(tmp_path: Path) -> None:
    def cycle(nodes: dict[str, onnx.NodeProto], model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Identity", ["b"], ["a"]))
        model.graph.node.append(helper.make_node("Identity", ["a"], ["b"]))

    with pytest.raises(UsageError, match="before it is computed"):
        read(mutate(tmp_path / "m.onnx", cycle))
