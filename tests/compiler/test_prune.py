# SPDX-License-Identifier: Apache-2.0
"""Pruned models: what is cut is what would be zero, layers with any number of heads run on every rung, and scores mean what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import numpy as np
import onnx
import pytest

from meadow import boards
from meadow.compiler.graph.evaluate import Evaluator, State, evaluate
from meadow.compiler.graph.graph import Graph, Model, Node
from meadow.compiler.graph.ops import KINDS, Activation, Add, Attention, Embedding, Head, Linear, Norm, Op, Rotary
from meadow.compiler.graph.pruning import records_of, sentence
from meadow.compiler.graph.thresholds import with_thresholds
from meadow.compiler.models import quantize
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.program.parts import Heads, alike_heads
from meadow.compiler.prune.cut import attention_blocks, columns, without_channels, without_heads
from meadow.compiler.prune.gradient import gradients
from meadow.compiler.prune.masks import RULES
from meadow.compiler.prune.repair import repair
from meadow.compiler.prune.scores import (
    SCORES,
    channel_scores,
    head_scores,
    lowest_channels,
    lowest_heads,
    lowest_kv_groups,
)
from meadow.compiler.pruning import Wish, prune, prune_graph
from meadow.compiler.quantize.calibrate import Calibration
from meadow.compiler.quantize.rotate import obstacles
from meadow.compiler.sources.onnx.read import read
from meadow.compiler.sources.source import find_source, read_source
from meadow.evidence.bench.traffic import measure as traffic
from meadow.evidence.ladder.reference import OnnxModel
from meadow.evidence.ladder.rewritten import surprise
from meadow.machine.errors import UsageError
from meadow.machine.package.read import load
from meadow.machine.types import F32, Weight, grouped
from meadow.runtime.session import Session

IDS = np.array([5, 300, 17, 801, 64, 3, 999, 120, 44, 7, 7, 250])
GONE = {0: [1], 2: [0, 1], 3: [2]}
"""Of the tiny model's 4 query heads over 2 KV heads: an uneven layer, one without its first KV head, an uneven one the other way round."""


def ignore(done: int, count: int) -> None:
    """Progress that nobody reads."""


def zeroed(graph: Graph, gone: dict[int, list[int]]) -> Graph:
    """The graph with the columns of some heads' results at zero, which nothing was cut from."""
    weights = dict(graph.weights)
    for layer, block in attention_blocks(graph).items():
        w, size = weights[block.o.weight or ""].dequantize(), block.op.head_dim
        for head in gone.get(layer, ()):
            w[:, head * size : (head + 1) * size] = 0
        weights[block.o.weight or ""] = Weight(block.o.weight or "", F32, w)
    return graph.replace(weights=weights)


# -- what is cut -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [GONE, {0: [3]}, {1: [0, 1, 2]}, {n: [n] for n in range(4)}], ids=str)
def test_a_model_without_heads_is_the_model_with_their_results_at_zero(gone: dict[int, list[int]], tiny: Path) -> None:
    graph = read(tiny)
    cut = without_heads(graph, gone)
    wanted, found = evaluate(zeroed(graph, gone), IDS, False), evaluate(cut, IDS, False)
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    left = sum(block.op.heads for block in attention_blocks(cut).values())
    assert left == 16 - sum(len(some) for some in gone.values())


def test_a_kv_head_goes_with_its_last_query_head_and_those_alike_stand_together(tiny: Path) -> None:
    blocks = attention_blocks(without_heads(read(tiny), GONE))
    assert [(b.op.heads, b.op.kv_heads, b.op.groups) for b in blocks.values()] == [
        (3, 2, (2, 1)),
        (4, 2, ()),
        (2, 1, ()),
        (3, 2, (2, 1)),
    ]


def test_a_model_without_channels_is_the_model_with_their_columns_at_zero(tiny: Path) -> None:
    graph = read(tiny)
    gone = {0: list(range(0, 200, 3)), 3: [340]}
    weights = dict(graph.weights)
    for layer, some in gone.items():
        w = weights[f"blk.{layer}.ffn_down.weight"].dequantize()
        w[:, some] = 0
        weights[f"blk.{layer}.ffn_down.weight"] = Weight(f"blk.{layer}.ffn_down.weight", F32, w)
    cut = without_channels(graph, gone)
    wanted, found = evaluate(graph.replace(weights=weights), IDS, False), evaluate(cut, IDS, False)
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert cut.weights["blk.0.ffn_gate.weight"].rows == 341 - 67


def test_columns_of_groups_stay_codes_where_groups_stay_whole() -> None:
    random = np.random.default_rng(0)
    weight = Weight(
        "w",
        grouped(4, 32),
        random.integers(0, 16, (8, 128)).astype(np.uint8),
        random.random((8, 4)).astype(np.float32),
        random.random((8, 4)).astype(np.float32),
    )
    whole, cut = np.r_[32:64, 96:128], np.r_[0:31, 64:97]
    assert columns(weight, whole).elem == weight.elem and columns(weight, cut).elem == F32
    for kept in (whole, cut):
        assert (columns(weight, kept).dequantize() == weight.dequantize()[:, kept]).all()


def test_what_cannot_be_cut_is_refused_by_name(tiny: Path) -> None:
    graph = read(tiny)
    with pytest.raises(UsageError, match="layer 1 would have no head left"):
        without_heads(graph, {1: [0, 1, 2, 3]})
    with pytest.raises(UsageError, match="layer 1 would have no channel left"):
        without_channels(graph, {1: list(range(341))})
    twice = [replace(n, op=replace(n.op, weight="blk.0.attn_q.weight")) if n.name == "l1.q" else n for n in graph.nodes]  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="blk.0.attn_q.weight serves 2 nodes"):
        without_heads(graph.replace(nodes=tuple(twice)), GONE)
    sharing = [
        replace(n, op=replace(n.op, keys_from=0), inputs=n.inputs[:1])  # type: ignore[call-arg]
        if n.name == "l1.attend"
        else n
        for n in graph.nodes
    ]
    with pytest.raises(UsageError, match="shares a cache with another layer"):
        without_heads(graph.replace(nodes=tuple(sharing)), GONE)


def test_heads_and_channels_go_from_a_model_with_thresholds(tiny: Path) -> None:
    graph = read(tiny)
    cutting = {n.name: 0.01 for n in graph.nodes if n.role in ("attend", "glu", "attn_norm")}
    sparse = with_thresholds(without_channels(without_heads(graph, GONE), {1: [5, 6]}), cutting)
    found = without_channels(without_heads(with_thresholds(graph, cutting), GONE), {1: [5, 6]})
    assert np.abs(evaluate(found, IDS, False) - evaluate(sparse, IDS, False)).max() < 1e-4


# -- layers with any number of heads ---------------------------------------------------------------------------------


def test_heads_go_in_pieces_that_are_alike() -> None:
    op = Attention(11, 5, 16, 0.25, groups=(3, 3, 2, 2, 1))
    assert op.kv_of_heads == (0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4)
    assert alike_heads(op) == [Heads(0, 6, 0, 2), Heads(6, 4, 2, 2), Heads(10, 1, 4, 1)]
    assert alike_heads(Attention(6, 2, 16, 0.25)) == [Heads(0, 6, 0, 2)]


@pytest.mark.parametrize(
    ("heads", "groups", "said"),
    [
        (4, (2, 2), "groups of 2 query heads each"),
        (4, (3, 2), "4 heads over 2 KV heads in groups of 3, 2"),
        (4, (4, 0), "4 heads over 2 KV heads in groups of 4, 0"),
        (5, (), "5 heads over 2 KV heads"),
    ],
)
def test_groups_that_do_not_fit_are_refused(heads: int, groups: tuple[int, ...], said: str) -> None:
    op = Attention(heads, 2, 16, 0.25, groups=groups)
    with pytest.raises(ValueError, match=said):
        op.width([heads * 16, 32, 32], None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def uneven(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without GONE, written as ONNX."""
    from meadow.compiler.models import save_folder
    from meadow.compiler.sources.source import companions_of, find_source

    folder = tmp_path_factory.mktemp("uneven") / "model"
    file = find_source(tiny)
    save_folder(without_heads(read(tiny), GONE), folder, file, companions_of(file), {})
    return folder


def test_onnxruntime_runs_what_is_written_and_it_is_read_back(uneven: Path, tiny: Path) -> None:
    wanted = evaluate(zeroed(read(tiny), GONE), IDS, False)
    found = OnnxModel(uneven / "model.onnx").prefill(IDS.tolist())
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert [b.op.groups for b in attention_blocks(read(uneven)).values()] == [(2, 1), (), (), (2, 1)]


def test_heads_that_share_in_another_order_are_refused(uneven: Path, tmp_path: Path) -> None:
    model = onnx.load(str(uneven / "model.onnx"))
    (order,) = (t for t in model.graph.initializer if t.name.startswith("kv_of_heads"))
    order.CopyFrom(onnx.numpy_helper.from_array(np.array([0, 1, 0], np.int64), order.name))
    onnx.save(model, str(tmp_path / "model.onnx"))
    from meadow.machine.errors import UnsupportedModel

    with pytest.raises(UnsupportedModel, match="query heads that share KV heads in another order"):
        read(tmp_path / "model.onnx")


@pytest.mark.parametrize("dataflow", ["tphs", "gemm"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_uneven_layers_are_the_same_bits_on_every_rung(
    dataflow: str, weights: str, uneven: Path, tmp_path: Path
) -> None:
    quantize(uneven, tmp_path / "q", weights=weights)
    options = Options(dataflow=dataflow, settings=(("block", 16), ("context", 64)), name="uneven")
    compile_model(tmp_path / "q", boards.load("zcu102"), tmp_path / "p", options)
    rows = []
    for device in ("emulator", "csim"):
        with Session(tmp_path / "p", device) as session:
            rows.append([session.prefill(IDS.tolist()), session.step(9), session.step(31)])
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(*rows, strict=True))
    graph = evaluate(read(tmp_path / "q"), IDS)
    assert np.corrcoef(rows[0][0][-1], graph[-1])[0, 1] > 0.999
    assert all(row["equal"] and row["cycles_equal"] for row in traffic(load(tmp_path / "p"), dataflow, [1, 20]))


# -- scores ------------------------------------------------------------------------------------------------------------


def chain(op: Op, width: int = 8, inputs: int = 1, tokens: int = 6) -> tuple[Graph, np.ndarray[Any, Any]]:
    """A graph that has `op` between an embedding and a head, and tokens."""
    random = np.random.default_rng(3)

    def weight(name: str, rows: int, cols: int) -> Weight:
        return Weight(name, F32, random.normal(size=(rows, cols)).astype(np.float32) / 2)

    weights = [weight("table", 12, width)]
    nodes = [Node("embed", Embedding("table"), (), None, "embed")]
    for n in range(inputs):
        weights.append(weight(f"w{n}", width, width))
        nodes.append(Node(f"x{n}", Linear(f"w{n}"), ("embed",), 0, f"x{n}"))
    nodes.append(Node("y", op, tuple(f"x{n}" for n in range(inputs)), 0, "y"))
    vectors = {
        "gain": random.normal(size=width).astype(np.float32),
        "bias": random.normal(size=width).astype(np.float32),
        "sinks": np.array([1.5, 2.0], np.float32),
    }
    graph = Graph(Model("m", 1, width, 2, 1, width // 2, 0, 12), tuple(nodes), {w.name: w for w in weights}, vectors)
    wide = graph.widths()["y"]
    weights.append(weight("head", 12, wide))
    nodes.append(Node("logits", Head("head", softcap=3.0), ("y",), None, "logits"))
    return graph.replace(nodes=tuple(nodes), weights={w.name: w for w in weights}), random.integers(0, 12, tokens)


OPS: dict[str, tuple[Op, int]] = {
    "rms": (Norm("gain", 1e-3), 1),
    "layer": (Norm("gain", 1e-3, "layer", "bias", 0.5), 1),
    "by head": (Norm(None, 1e-3, heads=2), 1),
    "linear": (Linear("w0", factor=0.7), 1),
    "rotary": (Rotary(2, 4, (1.0, 0.25)), 1),
    "interleaved": (Rotary(2, 4, (1.0,), interleaved=True, factor=1.5), 1),
    "add": (Add(), 2),
    "alternating": (Activation("silu", alternating=True), 1),
    "attention": (Attention(2, 2, 4, 0.5), 3),
    "capped": (Attention(2, 2, 4, 0.5, softcap=2.0), 3),
    "window": (Attention(2, 2, 4, 0.5, window=3), 3),
    "sinks": (Attention(2, 2, 4, 0.5, sinks="sinks"), 3),
    **{kind: (Activation(kind), 2) for kind in KINDS},
    "plain": (Activation("gelu", gated=False), 1),
}


@pytest.mark.parametrize("name", OPS)
def test_derivatives_are_those_of_small_differences(name: str) -> None:
    op, inputs = OPS[name]
    graph, tokens = chain(op, inputs=inputs)
    evaluator = Evaluator(graph, quantized=False)
    values, by = gradients(evaluator, tokens)
    rest = graph.nodes[1 + inputs :]
    random = np.random.default_rng(0)
    for n in range(inputs):
        turn = random.normal(size=values[f"x{n}"].shape)
        wide = {k: v.astype(np.float64) for k, v in values.items()}
        sides = []
        for sign in (1, -1):
            moved = {**wide, f"x{n}": wide[f"x{n}"] + sign * 1e-3 * turn}
            logits = evaluator.follow(rest, moved, tokens, State())
            sides.append(surprise(np.asarray(logits, np.float32), tokens.tolist()) / (len(tokens) - 1))
        wanted, found = (sides[0] - sides[1]) / 2e-3, float((by[f"x{n}"] * turn).sum())
        assert abs(found - wanted) < 3e-3 * max(1.0, abs(wanted)), (found, wanted)


def test_taylor_is_the_derivative_by_a_mask_on_the_head(tiny: Path) -> None:
    graph = read(tiny)
    scores = head_scores(graph, "taylor", [IDS], 0, ignore)
    sides = []
    for factor in (1.01, 0.99):
        weights = dict(graph.weights)
        w = weights["blk.2.attn_output.weight"].dequantize()
        w[:, 32:64] *= factor
        weights["blk.2.attn_output.weight"] = Weight("blk.2.attn_output.weight", F32, w)
        sides.append(surprise(evaluate(graph.replace(weights=weights), IDS, False), IDS.tolist()) / (len(IDS) - 1))
    assert scores[2][1] == pytest.approx(abs(sides[0] - sides[1]) / 0.02, rel=0.02)


def test_layer_energy_is_a_share_and_confidence_a_probability(tiny: Path) -> None:
    graph = read(tiny)
    energy, confidence = (head_scores(graph, name, [IDS], 0, ignore) for name in ("layer-energy", "confidence"))
    assert all(np.isclose(s.sum(), 1) and (s > 0).all() for s in energy.values())
    assert all((s > 1 / len(IDS)).all() and (s <= 1).all() for s in confidence.values())
    one = head_scores(graph, "confidence", [IDS[:1]], 0, ignore)
    assert all(np.allclose(s, 1) for s in one.values()), "a first token sees itself alone"


def test_a_head_that_does_nothing_goes_first_by_energy_and_by_taylor(tiny: Path) -> None:
    graph = zeroed(read(tiny), {1: [2]})
    for name in ("layer-energy", "taylor"):
        assert lowest_heads(graph, head_scores(graph, name, [IDS], 0, ignore), 1) == {1: [2]}


def test_a_seed_chooses_what_goes_by_chance(tiny: Path) -> None:
    graph = read(tiny)
    found = [lowest_heads(graph, head_scores(graph, "random", [], seed, ignore), 5) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_each_layer_keeps_a_head(tiny: Path) -> None:
    graph = read(tiny)
    scores = {layer: np.arange(4.0) + (0 if layer == 1 else 100) for layer in range(4)}
    assert lowest_heads(graph, scores, 4) == {0: [0], 1: [0, 1, 2]}
    assert sum(map(len, lowest_heads(graph, scores, 12).values())) == 12
    with pytest.raises(UsageError, match="1 more heads are to go than there are"):
        lowest_heads(graph, scores, 13)


def test_kv_groups_go_whole(tiny: Path) -> None:
    graph = read(tiny)
    scores = {layer: np.array([5 + layer, 5 + layer, 1 + layer, 2 + layer], np.float64) for layer in range(4)}
    assert lowest_kv_groups(graph, scores, 2) == {0: [2, 3], 1: [2, 3]}


def test_channels_that_stay_are_a_multiple_of_what_the_engine_takes_at_once(tiny: Path) -> None:
    scores = channel_scores(read(tiny), [IDS], ignore)
    assert all(np.isclose(s.sum(), 1) for s in scores.values())
    gone = lowest_channels(scores, 0.4, 32)
    kept = [341 - len(gone.get(layer, [])) for layer in range(4)]
    assert all(n % 32 == 0 for n in kept) and abs(sum(kept) / (4 * 341) - 0.6) < 0.05
    for layer, some in gone.items():
        assert scores[layer][some].max() <= np.delete(scores[layer], some).min()


# -- repair ------------------------------------------------------------------------------------------------------------


def test_what_another_head_does_as_well_is_made_good_whole(tiny: Path) -> None:
    graph = read(tiny)
    weights = dict(graph.weights)
    q = weights["blk.1.attn_q.weight"].dequantize()
    q[32:64] = q[:32]  # two query heads of one KV head that do the same
    weights["blk.1.attn_q.weight"] = Weight("blk.1.attn_q.weight", F32, q)
    graph = graph.replace(weights=weights)
    random = np.random.default_rng(0)
    windows = [random.integers(0, 1024, 64) for _ in range(5)]
    cut = without_heads(graph, {1: [1]})
    made, rows = repair(graph, cut, windows, 1, damp=1e-7)
    (row,) = rows
    assert row.name == "l1.o" and row.share == 1.0 and row.after < 1e-3 < 0.1 < row.before
    wanted, before, after = (evaluate(g, windows[4], False) for g in (graph, cut, made))
    assert np.abs(after - wanted).max() < 0.02 * np.abs(before - wanted).max()


def test_a_fit_that_does_no_better_on_held_out_text_is_not_taken(tiny: Path) -> None:
    graph = read(tiny)
    cut = without_heads(graph, GONE)
    random = np.random.default_rng(1)
    few, other = np.array([5, 5, 5]), random.integers(0, 1024, 128)
    made, rows = repair(graph, cut, [few, other], 1, damp=1e-6)
    assert all(row.after <= row.before for row in rows)
    spared = [row for row in rows if row.share == 0]
    for row in spared:
        name = f"blk.{row.name[1]}.attn_output.weight"
        assert (made.weights[name].codes == cut.weights[name].dequantize()).all()


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_pruned_folder_says_what_it_is(tiny: Path, tmp_path: Path, meadowc: Any) -> None:
    (tmp_path / "text.txt").write_text("A small model reads a small text about rivers, meadows and mills. " * 40)
    target = tmp_path / "small"
    made = meadowc(
        *("prune", tiny, "-o", target, "--heads", 0.25, "--channels", 0.2, "--repair", "--json"),
        *("--calibrate", tmp_path / "text.txt", "--tokens", 512),
    )
    assert made.code == 0, made.err
    found = made.json
    assert found["before"]["heads"] == 16 and found["after"]["heads"] == 12
    assert found["after"]["channels"] < 0.85 * found["before"]["channels"]
    assert sum(map(len, found["heads_gone"].values())) == 4
    assert {row["name"].split(".")[1] for row in found["repaired"]} <= {"o", "down"} and found["repaired"]
    said = meadowc("inspect", target)
    assert "pruned: 25% of the heads, 20% of the MLP channels by layer-energy, repaired" in said.out
    assert read(target).model.heads <= 4
    again = meadowc("prune", tiny, "-o", target, "--heads", 0.25, "--score", "random", "--seed", 4)
    assert again.code == 0 and "12 of 16 query heads left" in again.out and "chosen by chance" in again.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "nothing is to go"),
        (("--heads", 0.95), "--heads is 0.95; a share from 0 to 0.9 can go"),
        (("--kv-groups", "nan"), "--kv-groups is nan"),
        (("--channels", -0.1), "--channels is -0.1"),
        (("--heads", 0.01, "--score", "random"), "--heads 0.01 of 16 is none"),
        (("--kv-groups", 0.8, "--score", "random"), "2 more KV heads are to go than there are"),
        (("--channels", 0.1, "--score", "random"), "--score random: of no use without"),
        (("--heads", 0.2, "--score", "random", "--tokens", 64), "of no use here, since nothing is measured on text"),
        (("--heads", 0.2, "--tokens", 100000, "--calibrate", "README.md"), "tokens"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(
    options: tuple[Any, ...], said: str, tiny: Path, tmp_path: Path, meadowc: Any
) -> None:
    result = meadowc("prune", tiny, "-o", tmp_path / "p", *options)
    assert result.code == 2 and said in " ".join(result.err.split()) and not (tmp_path / "p").exists()


def test_scores_are_offered_under_their_names() -> None:
    from meadow.cli import prune as command

    assert (command.SCORES, command.RULES) == (SCORES, RULES)


def test_a_record_of_anybody_is_read_or_left_alone(tiny: Path, tmp_path: Path) -> None:
    prune(tiny, tmp_path / "p", Wish(heads=0.25, score="random"), Calibration(seed=3))
    prune(tmp_path / "p", tmp_path / "q", Wish(weights=0.5, rule="magnitude"))
    record = read(tmp_path / "q").metadata["meadow.pruned"]
    found = records_of({"meadow.pruned": record})
    assert sentence(found) == "25% of the heads by random, then 50% of the weights by magnitude"
    for wrong in ("", "[", "[1]", "{}", '[{"heads": 2}]'):
        assert records_of({"meadow.pruned": wrong}) == []
    for wrong in (record.replace("0.25", '"x"'), record.replace("random", "a\\nb")):
        assert sentence(records_of({"meadow.pruned": wrong})) == "50% of the weights by magnitude"


# -- models of other kinds -----------------------------------------------------------------------------------------------


def family(name: str, folder: Path) -> Path:
    return families.write_folder(name, folder / name.replace(" ", "-"))


def test_weights_are_masked_where_heads_cannot_be_cut(tmp_path: Path, meadowc: Any) -> None:
    source = family("olmo2", tmp_path)
    masked = meadowc("prune", source, "-o", tmp_path / "m", "--weights", 0.5, "--rule", "magnitude", "--json")
    assert masked.code == 0 and masked.json["zeros"] == pytest.approx(0.5, abs=0.02)
    heads = meadowc("prune", source, "-o", tmp_path / "h", "--heads", 0.5, "--score", "random")
    assert heads.code == 2 and "norms all heads together" in heads.err and not (tmp_path / "h").exists()


@pytest.mark.parametrize("name", ["phi", "gpt_neox", "cohere"])
def test_parallel_blocks_are_repaired_too(name: str, tmp_path: Path) -> None:
    graph = read_source(find_source(family(name, tmp_path)))
    random = np.random.default_rng(0)
    windows: list[Any] = [random.integers(0, graph.model.vocab, 24) for _ in range(4)]
    made = prune_graph(graph, Wish(channels=0.4, heads=0.25, score="random", repair=True), windows, 0, lambda _: None)
    assert made.repaired and all(row.after <= row.before for row in made.repaired)


def test_a_share_that_is_none_is_refused_even_beside_another(tiny: Path, tmp_path: Path, meadowc: Any) -> None:
    result = meadowc("prune", tiny, "-o", tmp_path / "p", "--kv-groups", 0.05, "--heads", 0.3, "--score", "random")
    assert result.code == 2 and "--kv-groups 0.05 of 8 is none" in result.err


def test_dead_channels_go_first_and_scores_must_be_finite(tiny: Path) -> None:
    scores = {0: np.r_[np.zeros(170), np.ones(171)], 1: np.r_[np.zeros(170), np.ones(171)]}
    gone = lowest_channels(scores, 0.3, 32)
    assert all(scores[layer][some].max() == 0 for layer, some in gone.items()) and len(gone) == 2
    with pytest.raises(UsageError, match="so few would go"):
        lowest_channels(scores, 0.01, 341)
    with pytest.raises(UsageError, match="what layer 1 computes is not finite"):
        lowest_channels(scores | {1: np.array([np.nan, 1.0])}, 0.3, 32)


def test_one_kv_head_that_is_left_is_no_stream(tmp_path: Path) -> None:
    graph = read_source(find_source(family("qwen3", tmp_path)))
    heads = {0: list(range(graph.model.heads // graph.model.kv_heads))}
    assert obstacles(without_heads(graph, heads)) == obstacles(graph)
