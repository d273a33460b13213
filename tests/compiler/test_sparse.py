# SPDX-License-Identifier: Apache-2.0
"""Sparse models: thresholds in the file are thresholds on every rung, and a threshold of 0 changes no bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer

from meadow import boards
from meadow.compiler.graph.evaluate import Evaluator, State, evaluate
from meadow.compiler.graph.ops import Threshold
from meadow.compiler.graph.sparsity import sentence, sparsity_of
from meadow.compiler.graph.thresholds import sparse_inputs, thresholds_of, with_thresholds
from meadow.compiler.models import quantize, save_folder
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.require import require_engines
from meadow.compiler.sources.onnx.read import read
from meadow.compiler.sources.source import companions_of, find_source
from meadow.compiler.sparsify.shape import NAMES, Cost, Group, chosen, groups_of
from meadow.evidence.bench.traffic import measure as traffic
from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.errors import UnsupportedModel
from meadow.machine.instructions.vector import need_threshold
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
    summary = json.loads((package / "report" / "summary.json").read_text())
    assert any("16 inputs of linear layers are cut at thresholds" in note for note in summary["notes"])
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


# -- the command -------------------------------------------------------------------------------------------------------

WORDS = "Alice knelt so close to herself that Sylvie looked at the Dodo, and the King began to draw a cake. "


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(WORDS * 60)
    return path


def test_the_share_that_is_asked_for_is_cut_and_the_file_says_so(
    tiny: Path, tmp_path: Path, text: Path, meadowc: Any
) -> None:
    made = meadowc(
        *("sparsify", tiny, "-o", tmp_path / "s", "--activations", 0.4, "--calibrate", text, "--tokens", 768, "--json")
    )
    assert made.code == 0, made.err
    found = made.json
    assert found["weights_cut"] == pytest.approx(0.4, abs=0.01) and found["distance"] > 0
    assert len(found["groups"]) in (4, 12) and {r["inputs"] for r in found["groups"]} == set(NAMES.values())
    assert "sparse: 40% of the layers' weights are not needed" in meadowc("inspect", tmp_path / "s").out
    graph = read(tmp_path / "s")
    assert len(thresholds_of(graph)) >= 12
    seen: list[tuple[float, int]] = []
    readers = sparse_inputs(graph)

    def observe(node: Any, x: Any) -> None:
        if any(node in some for some in readers.values()):
            seen.append((float((x == 0).mean()), graph.weight_of(node).size))

    ids = Tokenizer.from_file(str(tiny / "tokenizer.json")).encode(WORDS * 6).ids[:128]
    Evaluator(graph, quantized=False).run(np.array(ids), State(), observe)
    assert sum(share * size for share, size in seen) / sum(size for _, size in seen) == pytest.approx(0.4, abs=0.05)


def test_a_shape_costs_less_than_cutting_all_alike(tiny: Path, tmp_path: Path, text: Path, meadowc: Any) -> None:
    options = ("--activations", 0.5, "--calibrate", text, "--tokens", 768, "--json")
    auto, even = (
        meadowc("sparsify", tiny, "-o", tmp_path / s, "--shape", s, *options).json for s in ("auto", "uniform")
    )
    assert auto["distance"] + auto["rise"] <= even["distance"] + even["rise"]
    assert {row["share"] for row in even["groups"]} == {0.5}


def test_sparsifying_again_begins_with_the_whole_model(tiny: Path, tmp_path: Path, text: Path, meadowc: Any) -> None:
    options = ("--shape", "uniform", "--calibrate", text, "--tokens", 512)
    assert meadowc("sparsify", tiny, "-o", tmp_path / "a", "--activations", 0.6, *options).code == 0
    assert meadowc("sparsify", tmp_path / "a", "-o", tmp_path / "b", "--activations", 0.3, *options).code == 0
    assert meadowc("sparsify", tiny, "-o", tmp_path / "c", "--activations", 0.3, *options).code == 0
    b, c = (thresholds_of(read(tmp_path / name)) for name in "bc")
    assert b == pytest.approx(c, rel=1e-4)


@pytest.mark.parametrize(
    ("share", "said"),
    [(0, "--activations is 0"), (0.9, "up to 0.75 can be cut"), ("nan", "--activations is nan"), (-0.1, "is -0.1")],
)
def test_shares_that_make_no_sense_are_refused(share: Any, said: str, tiny: Path, tmp_path: Path, meadowc: Any) -> None:
    result = meadowc("sparsify", tiny, "-o", tmp_path / "s", "--activations", share)
    assert result.code == 2 and said in " ".join(result.err.split()) and not (tmp_path / "s").exists()


def test_a_small_share_is_a_small_share(tiny: Path, tmp_path: Path, text: Path, meadowc: Any) -> None:
    made = meadowc(
        "sparsify", tiny, "-o", tmp_path / "s", "--activations", 0.02, "--calibrate", text, "--tokens", 768, "--json"
    )
    assert made.json["weights_cut"] == pytest.approx(0.02, abs=1e-6) == made.json["share"]


def test_groups_that_cost_nothing_are_not_cut_more_than_is_asked_for(tiny: Path) -> None:
    graph = read(tiny)
    free = (Cost(1e-4, -0.1), Cost(2e-4, -0.2), Cost(3e-4, -0.3))
    for share in (0.01, 0.1, 0.5, 0.74):
        costs = {g: free if g.role in ("qkv", "o") else (Cost(0.1, 0.1),) * 3 for g in groups_of(graph, 1)}
        assert chosen(graph, costs, share, 1, 0.5).share == pytest.approx(share, abs=1e-6)


def test_thresholds_behind_thresholds_and_before_the_head(tiny: Path) -> None:
    graph = read(tiny)
    nodes = []
    for node in with_thresholds(graph, {"l1.glu": 0.1}).nodes:
        if node.name == "l1.down":
            nodes.append(replace(node, name="again", op=Threshold(0.2), role="live"))
            node = replace(node, inputs=("again",))
        if node.name == "logits":
            nodes.append(replace(node, name="last", op=Threshold(0.3), role="live"))
            node = replace(node, inputs=("last",))
        nodes.append(node)
    chained = graph.replace(nodes=tuple(nodes))
    chained.check()
    made = with_thresholds(chained, {"l1.glu": 0.5})
    assert sorted(n.op.value for n in made.nodes if isinstance(n.op, Threshold)) == [0.3, 0.5]
    assert [n.inputs for n in made.nodes if n.name in ("l1.down", "logits")] == [("l1.glu.live",), ("last",)]


def test_a_threshold_of_minus_zero_is_none(sparse: Path, tmp_path: Path) -> None:
    model = onnx.load(str(sparse / "model.onnx"))
    for attribute in next(n for n in model.graph.node if n.op_type == "Shrink").attribute:
        attribute.f = -0.0
    onnx.save(model, str(tmp_path / "model.onnx"))
    values = [n.op.value for n in read(tmp_path / "model.onnx").nodes if isinstance(n.op, Threshold)]
    assert 0.0 in values and not any(str(v).startswith("-") for v in values)
    with pytest.raises(ValueError, match="threshold is -0"):
        need_threshold({"threshold": -0.0})


def test_costs_decide_the_shares(tiny: Path) -> None:
    graph = read(tiny)
    cheap = Group("o", 1)
    little, much = (tuple(Cost(f * n, f * n) for n in (0.1, 0.4, 1.6)) for f in (1e-5, 1.0))
    costs = {g: little if g == cheap else much for g in groups_of(graph, 3)}
    shape = chosen(graph, costs, 0.2, 3, 0.5)
    assert shape.shares[cheap] > max(s for g, s in shape.shares.items() if g != cheap)
    assert shape.share == pytest.approx(0.2, abs=0.01)


def test_records_of_anybody_are_read_or_left_alone() -> None:
    record = '{"share": 0.4, "shape": "auto", "distance": 0.2}'
    found = sparsity_of({"meadow.sparse": record})
    assert found is not None and sentence(found).startswith("40% of the layers' weights")
    for wrong in (
        "",
        "{",
        "[]",
        record.replace("0.4", '"x"'),
        record.replace("auto", "best"),
        record.replace("0.2", "NaN"),
    ):
        assert sparsity_of({"meadow.sparse": wrong}) is None
