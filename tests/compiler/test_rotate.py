# SPDX-License-Identifier: Apache-2.0
"""Rotated weights: the same function, flatter channels, and the graphs that cannot be turned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.ops import Norm
from meadow.compiler.models import quantize
from meadow.compiler.quantize.rotate import obstacles, orthogonal, rotate
from meadow.compiler.sources.onnx.read import read
from meadow.machine.errors import UsageError
from meadow.machine.types import F32, Weight

IDS = np.array([5, 300, 17, 801, 64, 3, 999, 120, 44])


@pytest.mark.parametrize("n", [1, 2, 31, 128])
def test_a_turn_keeps_lengths(n: int) -> None:
    turn = orthogonal(n, np.random.default_rng(n))
    assert np.abs(turn @ turn.T - np.eye(n)).max() < 1e-12


@pytest.mark.parametrize("seed", [0, 1])
def test_a_rotated_graph_is_the_same_function(seed: int, tiny: Path) -> None:
    graph = read(tiny)
    turned = rotate(graph, seed)
    assert turned.nodes[0].weight != turned.nodes[-1].weight, "a tied head has weights of its own"
    wanted, found = (Evaluator(g, quantized=False).run(IDS, State()) for g in (graph, turned))
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_a_channel_that_is_much_larger_than_the_others_is_spread(tiny: Path) -> None:
    graph = read(tiny)
    name = graph.nodes[0].weight or ""
    table = graph.weights[name].dequantize()
    table[:, 7] += 40
    graph = graph.replace(weights={**graph.weights, name: Weight(name, F32, table)})
    peaks = []
    for g in (graph, rotate(graph, 0)):
        seen: list[Any] = []
        Evaluator(g, quantized=False).run(IDS, State(), lambda node, x, seen=seen: seen.append(x))  # type: ignore[misc]
        first = seen[0]
        peaks.append(float(np.abs(first).max() / np.abs(first).mean()))
    assert peaks[1] < 0.5 * peaks[0]


def test_a_rotated_model_is_written_and_says_so(tiny: Path, tmp_path: Path) -> None:
    quantize(tiny, tmp_path / "q", weights="int4", turned=True)
    graph = read(tmp_path / "q")
    assert graph.metadata["meadow.weights"] == "int4 in groups of 32, rotated"
    wanted, found = (Evaluator(g, quantized=q).run(IDS, State()) for g, q in ((read(tiny), False), (graph, True)))
    assert np.linalg.norm(found - wanted) < 0.5 * np.linalg.norm(wanted)


def test_what_cannot_be_turned_is_said(tiny: Path, tmp_path: Path) -> None:
    graph = read(tiny)
    nodes = tuple(
        replace(n, op=replace(n.op, kind="layer")) if isinstance(n.op, Norm) and n.layer == 1 else n
        for n in graph.nodes
    )
    wrong = graph.replace(nodes=nodes)
    assert not obstacles(graph) and all("no RMS norm" in reason for reason in obstacles(wrong))
    with pytest.raises(UsageError, match="--rotate: %l1.*is no RMS norm"):
        rotate(wrong, 0)


def test_a_seed_is_of_use_where_weights_are_turned(tiny: Path, tmp_path: Path, meadowc: Any) -> None:
    how = ("--weights", "int4", "--rotate")
    for seed in ("0", "1"):
        assert meadowc("quantize", tiny, "-o", tmp_path / seed, *how, "--seed", seed).code == 0
    first, second = ((tmp_path / seed / "model.onnx.data").read_bytes() for seed in ("0", "1"))
    assert first != second
