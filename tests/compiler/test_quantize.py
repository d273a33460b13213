# SPDX-License-Identifier: Apache-2.0
"""INT8 weights: rounded to nearest, smoothed without changing the function, written so that onnxruntime runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meadow.compiler.graph.evaluate import Evaluator, State, evaluate
from meadow.compiler.models import quantize
from meadow.compiler.quantize.calibrate import calibrate
from meadow.compiler.quantize.nearest import round_to_nearest
from meadow.compiler.quantize.smooth import smooth
from meadow.compiler.sources.onnx.read import read
from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.errors import UnsupportedModel, UsageError
from meadow.machine.types import I8

EXPORTS = Path(__file__).parents[1] / "fixtures" / "exports"
IDS = [5, 300, 17, 801, 64, 3, 999, 120, 44]


@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 1000), st.sampled_from(["tensor", "channel"]))
def test_rounding_is_to_the_nearest_of_symmetric_levels(rows: int, cols: int, seed: int, granularity: str) -> None:
    w = np.random.default_rng(seed).normal(0, 1, (rows, cols)).astype(np.float32)
    codes, scale = round_to_nearest(w, granularity)
    assert codes.dtype == np.int8 and codes.min() >= -127 and scale.shape == (rows,)
    assert np.abs(codes * scale[:, None] - w).max() <= 0.5001 * scale.max()
    if granularity == "tensor":
        assert len(set(scale.tolist())) == 1
    else:
        assert (np.abs(codes).max(axis=1) == 127).all()


def test_a_row_of_zeros_has_a_harmless_scale() -> None:
    codes, scale = round_to_nearest(np.zeros((3, 8), np.float32), "channel")
    assert not codes.any() and (scale == 1).all()


def test_a_range_is_clipped_only_where_no_activation_meets_the_outlier() -> None:
    random = np.random.default_rng(0)
    w = random.normal(0, 0.01, (64, 64)).astype(np.float32)
    w[3, 5] = 10
    quiet, loud = np.ones(64, np.float32), np.ones(64, np.float32)
    quiet[5] = 0
    loud[5] = 1e4
    assert round_to_nearest(w, "tensor", quiet)[1][0] < round_to_nearest(w, "tensor", loud)[1][0]


def test_smoothing_changes_nothing_in_exact_arithmetic(tiny: Path) -> None:
    graph = read(tiny)
    statistics = calibrate(graph, (tiny / "tokenizer.json").read_bytes())
    assert statistics is not None
    smoothed = smooth(graph, statistics, 1.0)
    assert any((graph.weights[name].dequantize() != w.codes).any() for name, w in smoothed.weights.items())
    reference, found = (Evaluator(g, quantized=False).run(np.array(IDS), State()) for g in (graph, smoothed))
    assert np.abs(found - reference).max() < 1e-3


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_written_file_runs_in_onnxruntime_and_reads_back(granularity: str, tiny: Path, tmp_path: Path) -> None:
    report = quantize(tiny, tmp_path / "q", granularity)
    assert report["matrices"] == report["matrices_total"] == 29 and not report["absurd_scales"]
    assert report["bytes_after"] < 0.6 * report["bytes_before"]
    graph = read(tmp_path / "q")
    assert all(w.elem == I8 for w in graph.weights.values()) and graph.model.activations == "int8"
    reference = OnnxModel(tmp_path / "q" / "model.onnx").prefill(IDS)
    assert np.abs(evaluate(graph, np.array(IDS), quantized=False) - reference).max() < 1e-3
    model = onnx.load(tmp_path / "q" / "model.onnx", load_external_data=False)
    assert {n.domain for n in model.graph.node} == {""}
    assert sum(n.op_type == "DequantizeLinear" for n in model.graph.node) == 29
    assert (tmp_path / "q" / "tokenizer.json").is_file()


def test_gemm_and_untied_exports_are_quantized_whole(tmp_path: Path) -> None:
    model = onnx.load(EXPORTS / "dynamo-eager-20.onnx")
    node = next(n for n in model.graph.node if n.output[0] == "logits")
    node.op_type = "Gemm"  # what onnxruntime's own optimiser makes of linears; rank aside, the weights must be found
    onnx.save(model, tmp_path / "gemm.onnx")
    report = quantize(tmp_path / "gemm.onnx", tmp_path / "q")
    assert report["matrices"] == 16 and "not calibrated" in report["notes"][0]
    graph = read(tmp_path / "q")
    assert graph.nodes[0].weight != graph.nodes[-1].weight
    reference = evaluate(read(EXPORTS / "dynamo-eager-20.onnx"), np.array([1, 2, 3]), False)
    found = evaluate(graph, np.array([1, 2, 3]), False)
    assert np.std(found - reference) < 0.03 * np.std(reference)


def test_quantizing_twice_gives_the_same_bytes(tiny: Path, tiny_int8: Path, tmp_path: Path) -> None:
    again = tiny.parent / "again"
    quantize(tiny, again)
    for path in tiny_int8.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_weights_that_are_not_numbers_are_named(tmp_path: Path) -> None:
    model = onnx.load(EXPORTS / "dynamo-eager-20.onnx")
    weight = next(t for t in model.graph.initializer if t.name == "val_74")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[2, 2] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "val_74"))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(UnsupportedModel, match=r"val_74: its codes hold NaN or infinity"):
        quantize(tmp_path / "nan.onnx", tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_options_out_of_range_are_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="smoothing is 2"):
        quantize(tiny, tmp_path / "q", smoothing=2)
    with pytest.raises(UsageError, match="granularity 'row'"):
        quantize(tiny, tmp_path / "q", granularity="row")
