# SPDX-License-Identifier: Apache-2.0
"""Masks: each rule takes the share it is asked for, and what DuoGPT claims of activations and weights that go together holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from meadow.compiler.graph.evaluate import Evaluator, State, evaluate
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Linear
from meadow.compiler.prune.masks import RULES, MaskGrid, masked
from meadow.compiler.quantize.solver import factor, sweep
from meadow.compiler.quantize.walk import gram_of
from meadow.compiler.sources.onnx.read import read
from meadow.compiler.sparsify.shape import cut, magnitudes, shares_of, uniform
from meadow.evidence.ladder.rewritten import surprise
from meadow.machine.errors import UsageError

Windows = list[np.ndarray[Any, Any]]


def ignore(*progress: object) -> None:
    """Progress that nobody reads."""


def said_by(graph: Graph, count: int, length: int, seed: int) -> Windows:
    """Text that the model itself says: drawn from its distribution token by token, so that no text is nearer to it."""
    evaluator, random, found = Evaluator(graph, quantized=False), np.random.default_rng(seed), []
    for _ in range(count):
        state, tokens = State(), [2]
        logits = evaluator.run(np.array(tokens), state)[-1]
        while len(tokens) < length:
            p = np.exp((logits - logits.max()).astype(np.float64))
            tokens.append(int(random.choice(len(p), p=p / p.sum())))
            logits = evaluator.run(np.array(tokens[-1:]), state)[-1]
        found.append(np.array(tokens))
    return found


@pytest.fixture(scope="module")
def own_text(tiny: Path) -> Windows:
    return said_by(read(tiny), 112, 128, 0)


def matrices(graph: Graph) -> dict[str, np.ndarray[Any, Any]]:
    return {
        n.weight or "": graph.weight_of(n).dequantize()
        for n in graph.nodes
        if type(n.op) is Linear and n.layer is not None
    }


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_takes_its_share_of_the_layers_weights_and_no_other(rule: str, tiny: Path, own_text: Windows) -> None:
    graph = read(tiny)
    made = masked(graph, 0.4, rule, own_text[:8])
    for name, w in matrices(made).items():
        assert abs(float((w == 0).mean()) - 0.4) < 0.01, name
    assert made.weights["token_embd.weight"] is graph.weights["token_embd.weight"]
    if rule in ("magnitude", "wanda"):
        before = matrices(graph)
        assert all((w[w != 0] == before[name][w != 0]).all() for name, w in matrices(made).items())


def test_the_smallest_go_and_of_each_row_the_least_heard(tiny: Path, own_text: Windows) -> None:
    graph = read(tiny)
    name = "blk.0.attn_q.weight"
    w, by_size = graph.weights[name].dequantize(), matrices(masked(graph, 0.5, "magnitude", []))[name]
    assert np.abs(w[by_size == 0]).max() <= np.abs(w[by_size != 0]).min()
    seen: list[Any] = []
    Evaluator(graph, quantized=False).run(
        own_text[0], State(), lambda node, x: seen.append(x) if node.name == "l0.q" else None
    )
    score = np.abs(w) * np.linalg.norm(seen[0], axis=0)
    heard = matrices(masked(graph, 0.5, "wanda", own_text[:1]))[name]
    for row, kept in zip(score, heard != 0, strict=True):
        assert row[~kept].max() <= row[kept].min() * (1 + 1e-5)


def test_the_error_of_what_goes_is_made_good_by_what_stays() -> None:
    random = np.random.default_rng(0)
    x = (random.normal(size=(800, 60)) @ random.normal(size=(60, 200))).astype(np.float32)  # inputs that go together
    w = random.normal(size=(200, 32))
    gram = gram_of(x, x)
    found = factor(gram, 1e-4)
    grid = MaskGrid(32, 200, 0.5, found.upper)
    made = sweep(w.copy(), grid, found.upper)
    kept = made != 0
    assert (
        abs(kept.mean() - 0.5) < 0.01
        and (made.astype(np.float32) == grid.weight("w", slice(None)).dequantize().T).all()
    )
    assert np.linalg.norm(x @ (made - w)) < 0.8 * np.linalg.norm(x @ (kept * w - w))


def bits_per_byte(graph: Graph, windows: Windows, tokenizer: Tokenizer) -> float:
    size = sum(len(tokenizer.decode(w[1:].tolist()).encode()) for w in windows)
    return float(sum(surprise(evaluate(graph, w, False), w.tolist()) for w in windows) / np.log(2) / size)


def test_weights_that_go_for_activations_that_are_cut_beat_those_that_go_for_whole_ones(
    tiny: Path, own_text: Windows
) -> None:
    """DuoGPT's claim at half of the weights and half of the activations: at least 0.01 bits per byte over SparseGPT."""
    graph, some, held = read(tiny), own_text[:64], own_text[64:]
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    sparse = cut(graph, magnitudes(graph, some, ignore), shares_of(graph, uniform(graph, 0.5)))
    found = {rule: bits_per_byte(masked(sparse, 0.5, rule, some), held, tokenizer) for rule in ("sparsegpt", "duogpt")}
    assert found["duogpt"] < found["sparsegpt"] - 0.01, found


def test_what_cannot_be_masked_is_refused(tiny: Path) -> None:
    graph = read(tiny)
    with pytest.raises(UsageError, match="the rule 'best' is not known"):
        masked(graph, 0.5, "best", [])
    with pytest.raises(UsageError, match="not finite"):
        name = "blk.0.attn_norm.weight"
        broken = graph.replace(vectors={**graph.vectors, name: graph.vectors[name] * np.float32(np.inf)})
        masked(broken, 0.5, "wanda", [np.array([1, 2, 3])])


def test_a_matrix_that_serves_two_layers_is_not_masked(tiny: Path) -> None:
    graph = read(tiny)
    nodes = tuple(
        replace(n, op=replace(n.op, weight="blk.0.ffn_up.weight")) if n.name == "l1.up" else n  # type: ignore[call-arg]
        for n in graph.nodes
    )
    with pytest.raises(UsageError, match=r"blk\.0\.ffn_up\.weight serves 2 nodes"):
        masked(graph.replace(nodes=nodes), 0.5, "wanda", [np.array([1, 2, 3])])


def test_masked_folders_say_so(tiny: Path, tmp_path: Path, meadowc: Any) -> None:
    made = meadowc("prune", tiny, "-o", tmp_path / "m", "--weights", 0.5, "--rule", "magnitude", "--json")
    assert made.code == 0 and made.json["zeros"] == pytest.approx(0.5, abs=0.01) and made.json["rule"] == "magnitude"
    assert "pruned: 50% of the weights by magnitude" in meadowc("inspect", tmp_path / "m").out
    (tmp_path / "text.txt").write_text(
        "Alice knelt so close to herself, and Sylvie looked at the Dodo with a cake. " * 30
    )
    options = ("--calibrate", tmp_path / "text.txt", "--tokens", 384)
    both = meadowc("prune", tiny, "-o", tmp_path / "b", "--heads", 0.1, "--weights", 0.3, *options)
    assert both.code == 0 and "30.0% of the weights of the layers are 0, by sparsegpt" in both.out
    for wrong, said in (
        (("--rule", "wanda", "--heads", 0.1), "--rule wanda"),
        (("--weights", 0.5, "--repair"), "--repair"),
    ):
        assert f"{said}: of no use without" in meadowc("prune", tiny, "-o", tmp_path / "w", *wrong, *options).err
