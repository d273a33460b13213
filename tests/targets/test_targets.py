# SPDX-License-Identifier: Apache-2.0
"""Targets: rows that depend on their own text alone, exits, and a draft's tokens that keep the target's distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph
from meadow.compiler.sources.source import find_source, read_source
from meadow.machine.errors import UsageError
from meadow.runtime.session import Session
from meadow.runtime.text.sampler import Sampling, probabilities
from meadow.speculate import chance
from meadow.targets.exits import TAU, fit, load_exits, normed, save_exits, states_of, usual_layers
from meadow.targets.graph import GraphTarget, tokenizer_of
from meadow.targets.package import PackageTarget
from meadow.targets.target import Ask, Kept, open_target, split


@pytest.fixture(scope="module")
def graph(tiny: Path) -> Graph:
    return read_source(find_source(tiny))


@pytest.fixture(scope="module")
def target(graph: Graph, tiny: Path) -> GraphTarget:
    return GraphTarget(graph, "tiny", tokenizer_of(find_source(tiny)))


TEXT = st.lists(st.integers(0, 1000), min_size=1, max_size=24)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(TEXT, st.lists(st.integers(0, 1000), max_size=6), st.integers(0, 20)), min_size=1, max_size=5)
)
def test_a_row_is_the_same_bits_alone_together_and_computed_again(
    target: GraphTarget, boards: list[tuple[list[int], list[int], int]]
) -> None:
    asks = []
    for text, drafts, before in boards:
        kept = Kept()
        if 0 < before < len(text):  # something of it is kept already, and behind that something wrong
            target.verify([Ask(kept, tuple(text[:before]), (999, 998))])
        asks.append(Ask(kept, tuple(text), tuple(drafts)))
    together = target.verify(asks)
    for (text, drafts, _), rows in zip(boards, together, strict=True):
        kept, alone = Kept(), []
        for n in range(len(drafts) + 1):
            alone.append(target.verify([Ask(kept, (*text, *drafts[:n]), ())])[0][0])
        assert np.array_equal(rows, np.stack(alone))


def test_rows_are_those_of_the_graph(target: GraphTarget, graph: Graph) -> None:
    text = [1, 17, 300, 5, 9, 8]
    rows = target.verify([Ask(Kept(), tuple(text[:3]), tuple(text[3:]))])[0]
    wanted = Evaluator(graph, quantized=False).run(np.array(text), State())[2:]
    assert np.abs(rows - wanted).max() < 1e-4


def test_a_package_gives_the_bits_of_its_own_session_for_any_board(tiny_package: Path) -> None:
    package = PackageTarget(tiny_package)
    with Session(tiny_package, "emulator") as session:
        a, b = Kept(), Kept()
        for text, drafts, kept in (
            ([1, 2, 3], [4, 5], a),
            ([9, 8], [], b),
            ([1, 2, 3, 4, 7], [6], a),
            ([9], [8, 7], b),
        ):
            rows = package.verify([Ask(kept, tuple(text), tuple(drafts))])[0]
            session.reset()
            every = session.prefill([*text, *drafts], "all")
            assert np.array_equal(rows, every[len(text) - 1 :])
    package.close()


# -- exits --------------------------------------------------------------------------------------------------------------


def test_a_map_is_the_least_squares_one_and_the_last_state_maps_to_itself(graph: Graph) -> None:
    random = np.random.default_rng(0)
    windows = [random.integers(0, 1000, 96) for _ in range(6)]
    layers = usual_layers(graph.model.layers)
    found = fit(graph, windows[1:], windows[:1], layers)
    assert found.layers == layers and [r["layer"] for r in found.rows] == list(layers)
    evaluator = Evaluator(graph, quantized=False)
    z, y = [], []
    for window in windows[1:]:
        states, _ = states_of(evaluator, window, (layers[-1], graph.model.layers))
        z.append(normed(states[layers[-1]]))
        y.append(normed(states[graph.model.layers]))
    a, b = np.concatenate(z).astype(np.float64), np.concatenate(y).astype(np.float64)

    def cost(m: Any) -> float:  # what ridge regression makes least
        ridge = 1e-2 * np.trace(a.T @ a) / a.shape[1]
        return float(((a @ m - b) ** 2).sum() + ridge * (m**2).sum())

    best = cost(found.maps[layers[-1]].astype(np.float64))
    for _ in range(20):
        m = found.maps[layers[-1]] + 0.01 * random.standard_normal(found.maps[layers[-1]].shape)
        assert cost(m) > best


def test_exits_tell_in_order_and_change_nothing(graph: Graph, target: GraphTarget) -> None:
    windows = [np.random.default_rng(n).integers(0, 1000, 64) for n in range(3)]
    layers = (1, graph.model.layers - 1)
    early = GraphTarget(graph, "tiny", None, exits=fit(graph, windows, [], layers))
    told: list[tuple[int, int, tuple[int, ...]]] = []
    asks = [Ask(Kept(), (1, 2, 3), (4,)), Ask(Kept(), (9,), ())]
    rows = early.verify(asks, lambda number, layer, x: told.append((number, layer, x.shape)))
    assert told == [(n, layer, (r, 1024)) for layer in layers for n, r in ((0, 2), (1, 1))]
    plain = target.verify([Ask(Kept(), (1, 2, 3), (4,)), Ask(Kept(), (9,), ())])
    assert all(np.array_equal(a, b) for a, b in zip(rows, plain, strict=True))


def test_files_of_maps_are_checked(graph: Graph, tiny_int8: Path, tmp_path: Path) -> None:
    windows = [np.random.default_rng(n).integers(0, 1000, 64) for n in range(3)]
    made, path = fit(graph, windows, windows[:1], (1, 2)), tmp_path / "exits.safetensors"
    save_exits(made, graph, path)
    again = load_exits(path, graph)
    assert again.layers == (1, 2) and np.array_equal(again.maps[1], made.maps[1]) and again.tau == TAU
    assert list(again.rows) == list(made.rows)
    with pytest.raises(UsageError, match="no map was fitted after layer 3; 1, 2 were"):
        again.only((1, 3))
    with pytest.raises(UsageError, match="was fitted for another model"):
        load_exits(path, read_source(find_source(tiny_int8)))
    whole = path.read_bytes()
    for bad, words in ((whole[:200], "no file of meadowc exits fit"), (b"", "no file"), (b"\xff" * 64, "no file")):
        path.write_bytes(bad)
        with pytest.raises(UsageError, match=words):
            load_exits(path, graph)
    with pytest.raises(UsageError, match="an exit after layer 99"):
        fit(graph, windows, windows, (99,))


def test_exits_fit_writes_a_file_or_says_why_not(tiny: Path, meadowc: Any, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The hatter looked at the clock and said nothing. " * 60)
    path = tmp_path / "e.safetensors"
    told = meadowc("exits", "fit", tiny, "--calibrate", text, "--tokens", "512", "--layers", "2", "-o", path, "--json")
    assert told.code == 0, told.err
    assert path.is_file() and told.json["rows"][0]["layer"] == 2 and 0 <= told.json["rows"][0]["agreement"] <= 1
    for options, words in (
        (("--layers", "1,x"), "no number of a layer"),
        (("--layers", "77", "--calibrate", text, "--tokens", "512"), "an exit after layer 77"),
        (("--calibrate", tmp_path / "none.txt"), "none.txt"),
        (("-o", tmp_path / "nowhere" / "x"), "make the folder"),
    ):
        wrong = meadowc("exits", "fit", tiny, *options)
        assert wrong.code == 2 and words in wrong.err, wrong.err


def test_a_target_is_named_by_kind_and_path(tiny: Path) -> None:
    assert split("hf:a/b:c") == ("hf", Path("a/b:c"))
    for spec in ("x", "onnx:", "what:x", ""):
        with pytest.raises(UsageError, match="a kind and a path"):
            split(spec)
    made = open_target(f"onnx:{tiny}", context=50)
    assert made.context == 50 and made.vocab == 1024 and made.tokenizer is not None and made.kept_bytes > 0


# -- chance -------------------------------------------------------------------------------------------------------------


def test_twenty_thousand_draws_follow_the_target(target: GraphTarget, tiny_package: Path) -> None:
    """Chi-square: real logits of the INT8 package that drafts and of the float target, at temperature 1."""
    text, sampling = [1, 17, 300, 5], Sampling(temperature=1.0)
    rows = target.verify([Ask(Kept(), tuple(text), (7,))])[0]
    q = probabilities(rows[0], sampling)
    with Session(tiny_package, "emulator") as session:
        p = probabilities(session.prefill(text)[-1] * np.float32(0.6), sampling)  # a draft that is less sure
    choice, after = chance.choice_of(p), probabilities(rows[1], sampling)
    counts = np.zeros(q.size)
    for seed in range(20_000):
        x = chance.draft(choice, q.size, seed, len(text))
        many, token = chance.sampled([q, after], [x], [choice], frozenset(), seed, len(text))
        counts[x if many else token] += 1
    likely = q * 20_000 >= 5
    found, wanted = np.append(counts[likely], counts[~likely].sum()), np.append(q[likely], q[~likely].sum()) * 20_000
    freedom = len(found) - 1
    statistic = float(((found - wanted) ** 2 / wanted).sum())
    assert freedom > 10 and statistic < freedom + 4 * (2 * freedom) ** 0.5, f"{statistic:.0f} at {freedom}"
