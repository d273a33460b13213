# SPDX-License-Identifier: Apache-2.0
"""Sparse models: thresholds in the file are thresholds on every rung, and a threshold of 0 changes no bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from meadow import boards
from meadow.compiler.graph.evaluate import evaluate
from meadow.compiler.graph.ops import Threshold
from meadow.compiler.models import quantize, save_folder
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.require import require_engines
from meadow.compiler.sources.onnx.read import read
from meadow.compiler.sources.source import companions_of, find_source
from meadow.compiler.sparsify.thresholds import thresholds_of, with_thresholds
from meadow.evidence.bench.traffic import measure as traffic
from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.errors import UnsupportedModel
from meadow.machine.package.read import load
from meadow.runtime.session import Session

IDS = np.array([5, 300, 17, 801, 64, 3, 999, 120, 44, 7, 7, 250])
VALUES = {"attn_norm": 0.5, "attend": 0.05, "ffn_norm": 0.4, "glu": 0.02}


def wanted(graph: Any, factor: float = 1.0) -> dict[str, float]:
    """A threshold for every value of the tiny model that linears read, but for the last norm's."""
    return {n.name: factor * VALUES[n.role] for n in graph.nodes if n.role in VALUES}


@pytest.fixture(scope="module")
def sparse(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with thresholds, written as ONNX."""
    folder, graph = tmp_path_factory.mktemp("sparse") / "model", read(tiny)
    save_folder(with_thresholds(graph, wanted(graph)), folder, find_source(tiny), companions_of(find_source(tiny)), {})
    return folder


def test_thresholds_are_read_back_under_their_roles(sparse: Path) -> None:
    graph = read(sparse)
    found = [n for n in graph.nodes if isinstance(n.op, Threshold)]
    assert [n.name for n in found[:4]] == ["l0.qkv_live", "l0.o_live", "l0.ffn_live", "l0.down_live"]
    assert len(found) == 16
    assert thresholds_of(graph) == pytest.approx(wanted(graph))
    assert {n.role for n in graph.nodes if n.layer == 1} >= {"q", "k", "v", "o", "gate", "up", "down", "attn_norm"}


def test_onnxruntime_cuts_what_the_graph_cuts(sparse: Path, tiny: Path) -> None:
    found, graph = OnnxModel(sparse / "model.onnx").prefill(IDS.tolist()), read(sparse)
    mine, dense = evaluate(graph, IDS, False), evaluate(read(tiny), IDS, False)
    assert np.abs(found - mine).max() < 1e-3 * np.abs(mine).max() < 0.1 * np.abs(mine - dense).max()


@pytest.mark.parametrize(
    ("change", "said"), [({"bias": 0.1}, "a soft threshold"), ({"lambd": -1.0}, "a threshold of -1")]
)
def test_a_shrink_that_is_no_threshold_is_refused(
    change: dict[str, float], said: str, sparse: Path, tmp_path: Path
) -> None:
    model = onnx.load(str(sparse / "model.onnx"))
    node = next(n for n in model.graph.node if n.op_type == "Shrink")
    for attribute in node.attribute:
        attribute.f = change.get(attribute.name, attribute.f)
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(UnsupportedModel, match=said):
        read(tmp_path / "model.onnx")


def test_thresholds_elsewhere_are_refused_by_name(tiny_int8: Path) -> None:
    graph = read(tiny_int8)
    nodes = []
    for node in graph.nodes:
        nodes.append(node)
        if node.name == "l0.q":
            nodes.append(replace(node, name="cut", op=Threshold(0.5), inputs=("l0.q",), role="live"))
        if node.name == "l0.q_rope":
            nodes[-1] = replace(node, inputs=("cut",))
    with pytest.raises(UnsupportedModel, match="%cut: cuts what %l0.q gives"):
        require_engines(graph.replace(nodes=tuple(nodes)))


def compiled(model: Path, folder: Path, dataflow: str) -> Path:
    options = Options(dataflow=dataflow, settings=(("block", 16), ("context", 64)), name="sparse")
    compile_model(model, boards.load("zcu102"), folder, options)
    return folder


def logits(package: Path, device: str) -> list[np.ndarray[Any, Any]]:
    with Session(package, device) as session:
        return [np.asarray(x) for x in (session.prefill(IDS.tolist()), session.step(9), session.step(31))]


@pytest.mark.parametrize("dataflow", ["tphs", "gemm"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_thresholds_are_the_same_bits_on_every_rung(weights: str, dataflow: str, sparse: Path, tmp_path: Path) -> None:
    quantize(sparse, tmp_path / "q", weights=weights)
    package = compiled(tmp_path / "q", tmp_path / "p", dataflow)
    mine, theirs = logits(package, "emulator"), logits(package, "csim")
    assert all((a == b).all() for a, b in zip(mine, theirs, strict=True))
    assert np.corrcoef(mine[0][-1], evaluate(read(tmp_path / "q"), IDS)[-1])[0, 1] > 0.999
    assert all(row["equal"] and row["cycles_equal"] for row in traffic(load(package), dataflow, [1, 20]))


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_threshold_of_zero_changes_no_bit(weights: str, tiny: Path, tmp_path: Path) -> None:
    graph = read(tiny)
    file = find_source(tiny)
    save_folder(with_thresholds(graph, wanted(graph, 0.0)), tmp_path / "zero", file, companions_of(file), {})
    found = []
    for name, source in (("dense", tiny), ("zero", tmp_path / "zero")):
        quantize(source, tmp_path / f"{name}-q", weights=weights, smoothing=0 if weights == "int8" else None)
        found.append(logits(compiled(tmp_path / f"{name}-q", tmp_path / f"{name}-p", "auto"), "emulator"))
    assert all((a == b).all() for a, b in zip(*found, strict=True))
