# SPDX-License-Identifier: Apache-2.0
"""Files whose activations are rounded to integers: read as the model behind the roundings, with a note that says what they cost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.sources.onnx.read import read
from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.errors import UnsupportedModel

EXPORTS = Path(__file__).parents[1] / "fixtures" / "exports"
IDS = np.random.default_rng(3).integers(0, 96, 24)
KINDS = ("dynamo-sdpa-20", "optimum-18")


class Feeds(CalibrationDataReader):  # type: ignore[misc]
    """Random tokens with a cache, as an export takes them."""

    def __init__(self, path: Path):
        random = np.random.default_rng(1)
        model = OnnxModel(path)
        self.left = []
        for _ in range(4):
            feeds: dict[str, Any] = {}
            for name, value in model.inputs.items():
                if len(value.shape) == 4:
                    feeds[name] = random.normal(size=(1, *(2, 8, 16))).astype(np.float32)
                elif name == "input_ids":
                    feeds[name] = random.integers(0, 96, (1, 8))
                else:
                    feeds[name] = np.ones((1, 16), np.int64) if "mask" in name else np.arange(8, 16)[None]
            self.left.append(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return self.left.pop() if self.left else None


def copied(kind: str, target: Path) -> Path:
    """The export, where onnxruntime may write its own files beside it."""
    return Path(shutil.copy(EXPORTS / f"{kind}.onnx", target.with_name("source.onnx")))


def dynamic(kind: str, target: Path, **options: Any) -> Path:
    quantize_dynamic(str(copied(kind, target)), str(target), **options)
    return target


def linears(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The MatMuls with a matrix of weights: not those of rotary angles and of attention."""
    made = {n.output[0]: n for n in model.graph.node}
    known = {t.name: len(t.dims) for t in model.graph.initializer}

    def is_matrix(name: str) -> bool:
        turned = made[name].input[0] if name in made and made[name].op_type == "Transpose" else name
        return known.get(turned) == 2

    return [n for n in model.graph.node if n.op_type == "MatMul" and is_matrix(n.input[1])]


def static(kind: str, target: Path) -> Path:
    """The linears alone, symmetric and per channel."""
    source = copied(kind, target)
    quantize_static(
        str(source),
        str(target),
        Feeds(source),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_quantize=[n.name for n in linears(onnx.load(source))],
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )
    return target


MADE: dict[str, Callable[[str, Path], Path]] = {
    "dynamic": dynamic,
    "dynamic per channel": lambda k, p: dynamic(k, p, per_channel=True),
    "dynamic, unsigned weights": lambda k, p: dynamic(k, p, weight_type=QuantType.QUInt8),
    "static": static,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", MADE)
def test_the_model_behind_the_roundings_is_read(how: str, kind: str, tmp_path: Path) -> None:
    """The file itself differs from it by its roundings alone; the weights are the file's own codes."""
    path = MADE[how](kind, tmp_path / "m.onnx")
    graph = read(path)
    assert graph.model.activations == "int8" and "activations are rounded by" in graph.notes[-1]
    assert all(w.elem.bits == 8 for n, w in graph.weights.items() if n == graph.nodes[-1].weight)
    wanted = OnnxModel(path).prefill([int(i) for i in IDS])
    found = Evaluator(graph, quantized=False).run(IDS, State())
    assert np.std(found - wanted) < (0.3 if how == "static" else 0.1) * np.std(wanted)
    top = np.sort(wanted, axis=1)
    sure = top[:, -1] - top[:, -2] > 0.5 * wanted.std(axis=1)
    assert sure.any() and (found.argmax(axis=1) == wanted.argmax(axis=1))[sure].all()


def with_scale(scale: float, target: Path, kind: int = TensorProto.INT8, place: int | None = 0) -> Path:
    """One pair of QuantizeLinear and DequantizeLinear after the linear number `place`; -1 is the head, None the MatMul of the rotary angles."""
    model = onnx.load(EXPORTS / "dynamo-sdpa-20.onnx")
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(scale).reshape(()), "own_scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, dtype), "own_zero"))
    nodes = []
    angles = next(n for n in model.graph.node if n.op_type == "MatMul" and n not in linears(model))
    chosen = (angles if place is None else linears(model)[place]).output[0]
    for node in model.graph.node:
        nodes.append(node)
        if node.output[0] == chosen:
            name = node.output[0]
            node.output[0] = f"{name}.plain"
            own = ["own_scale", "own_zero"]
            nodes.append(helper.make_node("QuantizeLinear", [f"{name}.plain", *own], [f"{name}.codes"], name="round"))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}.codes", *own], [name]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if kind == TensorProto.INT16:
        model.opset_import[0].version = 21
    onnx.save(model, target)
    return target


def test_a_fine_rounding_costs_little_and_says_so(tmp_path: Path) -> None:
    graph = read(with_scale(0.05, tmp_path / "m.onnx"))
    assert "1 QuantizeLinear" in graph.notes[-1] and "0.0" in graph.notes[-1].split("logits by ")[1]


def test_sixteen_bits_are_not_taken_for_a_wish_for_eight(tmp_path: Path) -> None:
    graph = read(with_scale(0.001, tmp_path / "m.onnx", TensorProto.INT16))
    assert graph.model.activations == "float" and graph.notes


@pytest.mark.parametrize("scale", [1.3e36, float("inf")])
def test_a_scale_that_comes_of_a_mask_is_named(scale: float, tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedModel, match=r"round: rounds activations by a scale of .*quantize MatMul and Gemm alone"
    ):
        read(with_scale(scale, tmp_path / "m.onnx"))


def test_roundings_that_make_another_function_are_refused_with_a_number(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"change the logits by [0-9.]+ standard deviations"):
        read(with_scale(1e-6, tmp_path / "m.onnx", place=-1))


def test_angles_that_are_rounded_are_named(tmp_path: Path) -> None:
    """As where every MatMul is quantized, that of the rotary angles too: positions beyond those of the calibration are lost."""
    with pytest.raises(
        UnsupportedModel, match=r"round: rounds positions or a mask .*which change the logits by .*nodes_to_exclude"
    ):
        read(with_scale(0.002, tmp_path / "m.onnx", place=None))
