# SPDX-License-Identifier: Apache-2.0
"""Every attribute of every kind of node: what the graph says it means is what onnxruntime computes of the written file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meadow.compiler.graph.evaluate import Evaluator, State, evaluate
from meadow.compiler.graph.graph import Graph, Model, Node, name_of
from meadow.compiler.graph.ops import KINDS, Activation, Attention, Embedding, Head, Linear, Norm, Op, Rotary
from meadow.compiler.graph.passes.fuse_glu import fuse_glu
from meadow.compiler.require import lacks
from meadow.compiler.sources.families.family import Family, Nodes, Shape
from meadow.compiler.sources.onnx.file import save_model
from meadow.compiler.sources.onnx.read import read
from meadow.compiler.sources.onnx.write import write
from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.types import F32, Weight

DIM, FFN, VOCAB, LAYERS, HEAD_DIM = 32, 48, 40, 2, 16
PROMPT, LATER = [3, 9, 27, 1, 30, 8, 8], [2, 5]
RANDOM = np.random.default_rng(0)


def plain(family: Family | None = None, heads: int = 4, kv_heads: int = 2) -> Graph:
    """A decoder of random floats."""
    family = family or Family("plain")
    sizes = {
        "q": (heads * HEAD_DIM, DIM),
        "k": (kv_heads * HEAD_DIM, DIM),
        "v": (kv_heads * HEAD_DIM, DIM),
        "o": (DIM, heads * HEAD_DIM),
        "gate": (FFN, DIM),
        "up": (FFN, DIM),
        "down": (DIM, FFN),
    }
    weights, vectors = {}, {"norm": vector(DIM)}
    nodes = Nodes()

    def matrix(name: str, rows: int, cols: int) -> str:
        weights[name] = Weight(name, F32, RANDOM.normal(0, cols**-0.5, (rows, cols)).astype(np.float32))
        return name

    frequencies = tuple(float(f) for f in 100.0 ** -(np.arange(HEAD_DIM // 2) / (HEAD_DIM // 2)))
    x = nodes.begin(matrix("vocabulary", VOCAB, DIM))
    for nodes.layer in range(LAYERS):
        names = {}
        for role in family.roles():
            kind, _, bias = role.partition(".")
            names[role] = f"w{nodes.layer}.{role}"
            shape = sizes.get(kind, (DIM,))
            if bias or len(shape) == 1:
                vectors[names[role]] = vector(shape[0])
            else:
                matrix(names[role], *shape)
        x = family.block(nodes, Shape(heads, kv_heads, HEAD_DIM, (1e-5, 1e-6), frequencies), names, x)
    nodes.layer = None
    nodes.end(x, Head("vocabulary"), Norm("norm", 1e-5, family.norm))
    model = Model("plain", LAYERS, DIM, heads, kv_heads, HEAD_DIM, FFN, VOCAB)
    graph = Graph(model, tuple(nodes.made), weights, vectors)
    graph.check()
    return graph


def vector(length: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return RANDOM.normal(1, 0.2, length).astype(np.float32)


def changed(kind: type[Op], change: Callable[[Any, Node], Op], graph: Graph | None = None) -> Graph:
    graph = graph or plain()
    nodes = tuple(replace(n, op=change(n.op, n)) if type(n.op) is kind else n for n in graph.nodes)
    return graph.replace(nodes=nodes)


def setting(of: type[Op], **values: Any) -> Callable[[], Graph]:
    return lambda: changed(of, lambda op, _: replace(op, **values))


def with_sinks() -> Graph:
    graph = plain()
    graph = graph.replace(vectors={**graph.vectors, "sinks": vector(4)})
    return changed(Attention, lambda op, _: replace(op, sinks="sinks"), graph)


def with_positions() -> Graph:
    graph = plain()
    table = Weight("places", F32, RANDOM.normal(0, 1, (64, DIM)).astype(np.float32))
    graph = graph.replace(weights={**graph.weights, "places": table})
    return changed(Embedding, lambda op, _: replace(op, positions="places", shift=2, factor=3.0), graph)


def with_shared_keys() -> Graph:
    """The second layer reads the first one's cache, and has no keys and values of its own."""
    graph = plain()
    dropped = {"l1.k", "l1.v", "l1.k_rope"}
    nodes = []
    for n in graph.nodes:
        if n.name == "l1.attend" and isinstance(n.op, Attention):
            n = replace(n, op=replace(n.op, keys_from=0), inputs=n.inputs[:1])
        if n.name not in dropped:
            nodes.append(n)
    return graph.replace(nodes=tuple(nodes)).used()


def with_tables() -> Graph:
    """Each layer turns at its own speed."""

    def faster(op: Any, node: Node) -> Any:
        return replace(op, frequencies=tuple(f * (1 + (node.layer or 0)) for f in op.frequencies))

    return changed(Rotary, faster)


def interleaved() -> Graph:
    return plain(Family("neighbours", interleaved=True))


def with_head_norms() -> Graph:
    """Queries and keys are normed head by head before they turn (Qwen3, Gemma 3)."""
    graph, nodes = plain(), []
    vectors = dict(graph.vectors)
    for node in graph.nodes:
        if isinstance(node.op, Rotary):
            role, heads = f"{node.role[0]}_norm", node.op.heads
            name = name_of(node.layer, role)
            vectors[name] = np.random.default_rng(len(vectors)).uniform(0.5, 2, node.op.head_dim).astype(np.float32)
            nodes.append(Node(name, Norm(name, 1e-6, heads=heads), node.inputs, node.layer, role))
            node = replace(node, inputs=(name,))
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes), vectors=vectors)


VARIANTS: dict[str, Callable[[], Graph]] = {
    "plain": plain,
    "one head per KV head": lambda: plain(heads=4, kv_heads=4),
    "fused gate": lambda: fuse_glu(plain()),
    "layer norms with biases": lambda: plain(Family("layered", norm="layer")),
    "biases of all linears": lambda: plain(
        Family("biased", biases=frozenset(["q", "k", "v", "o", "gate", "up", "down"]))
    ),
    "an offset on the gains": setting(Norm, offset=1.0),
    "norms on heads": with_head_norms,
    "a factor on linears": setting(Linear, factor=0.22),
    "no gain": setting(Norm, gain=None),
    "rotary pairs that are neighbours": interleaved,
    "part of a head turned": setting(Rotary, frequencies=(0.5, 0.1, 0.02)),
    "part of a head turned, neighbours": lambda: changed(
        Rotary, lambda op, _: replace(op, frequencies=(0.5, 0.1, 0.02)), interleaved()
    ),
    "a factor on the rotation": setting(Rotary, factor=1.25),
    "another table in each layer": with_tables,
    "a scale": setting(Attention, scale=0.7),
    "a window": setting(Attention, window=3),
    "a window in one layer": lambda: changed(Attention, lambda op, n: replace(op, window=3 * (n.layer or 0))),
    "a softcap on the scores": setting(Attention, softcap=2.0),
    "sinks": with_sinks,
    "attention to all": setting(Attention, causal=False),
    "keys of another layer": with_shared_keys,
    "a factor and learned positions": with_positions,
    "a factor on the embedding": setting(Embedding, factor=5.5),
    "a factor and a softcap on the logits": setting(Head, factor=0.25, softcap=3.0),
    "a factor on the logits": setting(Head, factor=0.25),
    **{f"{kind} with a gate": setting(Activation, kind=kind) for kind in KINDS},
    **{f"{kind} without a gate": partial(plain, Family("plain", activation=kind, gated=False)) for kind in KINDS},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_written_file_means_what_the_graph_says(name: str, tmp_path: Path) -> None:
    graph = VARIANTS[name]()
    graph.check()
    reference = OnnxModel(save_model(write(graph, {}), tmp_path))
    evaluator, state = Evaluator(graph, quantized=False), State()
    for tokens in (PROMPT, LATER):
        if name == "attention to all" and tokens is LATER:
            break  # what came before would have to see what comes now
        found, expected = evaluator.run(np.array(tokens), state), reference.step(tokens)
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


UNREAD = {"fused gate", "sinks", "attention to all", "keys of another layer"}
"""Variants that are written, and not read."""


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - UNREAD))
def test_what_is_written_is_read_as_the_same_graph(name: str, tmp_path: Path) -> None:
    graph = VARIANTS[name]()
    back = read(save_model(write(graph, {}), tmp_path), 48)
    for tokens in (PROMPT, LATER):
        expected = evaluate(graph, np.array(tokens), False)
        assert np.abs(evaluate(back, np.array(tokens), False) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    "name", ["sinks", "attention to all", "keys of another layer", "no gain", "a factor on the rotation"]
)
def test_a_refusal_names_the_node_and_what_the_engine_lacks(name: str) -> None:
    graph = VARIANTS[name]()
    problems = [p for node in graph.nodes for p in lacks(node)]
    assert problems and all(where.startswith("%") and what.startswith("has ") for where, what, _ in problems)


def test_every_variant_is_another_function() -> None:
    """Else an attribute could be ignored by both."""
    graph = plain()
    for name in (
        "a window",
        "a softcap on the scores",
        "sinks",
        "attention to all",
        "an offset on the gains",
        "a scale",
    ):
        other = VARIANTS[name]().replace(weights=graph.weights)
        shared = {**other.vectors, **{k: v for k, v in graph.vectors.items() if k in other.vectors}}
        other = other.replace(vectors=shared)
        a, b = (Evaluator(g, False).run(np.array(PROMPT), State()) for g in (graph, other))
        assert np.abs(a - b).max() > 1e-3, name


def test_an_absent_bias_is_no_operation(tmp_path: Path) -> None:
    assert not any("bias" in t.name for t in write(plain(), {}).graph.initializer)
    assert Linear("w").bias is None
