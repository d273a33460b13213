# SPDX-License-Identifier: Apache-2.0
"""Why a layer computes something else than it looks like, in a sentence.

Part of confirm.py, and asked only when a layer was found to differ: its parts are cut out one by one, without weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph
from meadow.compiler.sources.onnx.piece import Core, NotEvaluated, Piece, feeds
from meadow.compiler.sources.onnx.weight import OnnxGraph

TOKENS, PAST = 3, 5
TOLERANCE = 1e-3
LARGE = 12.0
OFFSET = 40.0
"""Of scores that are all as large as the largest of trained models."""
LONG = 512
"""Tokens of a prompt that is tried as one."""
MORE = 3
"""Further positions that are tried in each layer, at random."""
Floats = NDArray[np.float32]


def cause_of(g: OnnxGraph, graph: Graph, core: Core, context: int) -> str:
    """The first part of the layer that differs, with what can be said of it; empty when no part alone does."""
    random = np.random.default_rng(1)
    for cause in (_norms, _activation, _attention):
        try:
            found = cause(g, graph, core, context, random)
        except NotEvaluated as problem:
            return f"it differs, and its parts could not be checked: {problem}"
        if found:
            return found
    if core.moved:
        return f"its values are changed on the way from one part to the next, by {', '.join(core.moved)}"
    return ""


def _differs(found: NDArray[np.float64], expected: NDArray[np.floating[Any]]) -> bool:
    if found.size != expected.size:
        return True
    worst = np.abs(found.reshape(-1) - expected.reshape(-1)).max()
    return not worst <= TOLERANCE * max(1e-6, float(np.abs(expected).max()))


def _norms(g: OnnxGraph, graph: Graph, core: Core, context: int, random: np.random.Generator) -> str:
    for source, output, gain, eps in core.norms:
        x = random.normal(0, 1, (1, TOKENS, gain.size)).astype(np.float32)
        expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=-1, keepdims=True) + eps) * gain
        if _differs(Piece(g, [output], {source}).run({source: x})[0], expected):
            return f"the norm {output!r} is no RMS norm with this gain"
    return ""


def _activation(g: OnnxGraph, graph: Graph, core: Core, context: int, random: np.random.Generator) -> str:
    gate, up = (random.normal(0, 2, (1, TOKENS, graph.model.ffn)).astype(np.float32) for _ in range(2))
    expected = gate / (1 + np.exp(-gate.astype(np.float64))) * up
    if _differs(Piece(g, [core.gated], {core.gate, core.up}).run({core.gate: gate, core.up: up})[0], expected):
        return f"{core.gated!r} is not silu(gate) * up"
    return ""


def _attention(g: OnnxGraph, graph: Graph, core: Core, context: int, random: np.random.Generator) -> str:
    attention = Attention(g, graph, core, random)
    last = max(context - 1, 0)
    if attention.differs(0, min(TOKENS, context)):
        return "attention is not the causal softmax(q k.T / sqrt(head_dim)) v with rotary positions"
    if last and attention.differs(last, 1, q=0.0):
        first = _last_where(lambda past: not attention.differs(past, 1, q=0.0), last) + 1
        width = attention.seen(last)
        if width:
            return (
                f"a token sees the last {width} tokens only, not all before it (a sliding window, or attention in chunks), "
                f"from position {first} on"
            )
        return f"not all earlier tokens weigh alike before their scores, from position {first} on (a mask or a bias by distance, sinks, heads apart)"
    if last and attention.differs(last, 1):
        first = _last_where(lambda past: not attention.differs(past, 1), last) + 1
        return f"the rotary positions or the scale of the scores are others from position {first} on (factors that change with the length)"
    if attention.differs(0, min(LONG, context)):
        return f"attention over a prompt of {min(LONG, context)} tokens is another than token by token (a mask by the length of the prompt)"
    for past in attention.random.integers(1, max(last, 2), MORE):
        if attention.differs(int(past), 1):
            return f"attention is another at position {past} (a mask, a scale or rotary factors for some positions)"
    large = attention.differs(min(PAST, last), min(TOKENS, context), score=LARGE)
    if large or (last and attention.differs(min(PAST, last), 1, offset=OFFSET)):
        return "large scores are bent before the softmax (a softcap)"
    return ""


def cache_roles(layer: int) -> dict[str, str]:
    """The caches of a layer by what they are."""
    return {f"past_key_values.{layer}.{kind}": kind for kind in ("key", "value")}


def _last_where(holds: Callable[[int], bool], last: int) -> int:
    """The largest position at which `holds` is true, where it is true at 0, false at `last`, and turns once."""
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


class Attention:
    """What lies between the projections of one layer and its output projection."""

    def __init__(self, g: OnnxGraph, graph: Graph, core: Core, random: np.random.Generator):
        self.g, self.graph, self.core, self.random = g, graph, core, random
        given = set(feeds(g, graph, np.zeros(1, np.int64), 1)) | {core.q, core.k, core.v}
        self.piece = Piece(g, [core.attended], given)
        q_rope, k_rope, attend = (graph.node(role, core.layer) for role in ("q_rope", "k_rope", "attend"))
        self.nodes = [
            replace(q_rope, inputs=("q",)),
            replace(k_rope, inputs=("k",)),
            replace(attend, inputs=(q_rope.name, k_rope.name, "v")),
        ]

    def _run(
        self, past: int, tokens: int, q: Floats, k: Floats, v: Floats, keys: Floats, values: Floats
    ) -> NDArray[np.float64]:
        ids = np.zeros(tokens, np.int64)
        given = feeds(self.g, self.graph, ids, past, keys, values)
        given |= {self.core.q: q[None], self.core.k: k[None], self.core.v: v[None]}
        return self.piece.run(given)[0]

    def form(self) -> str:
        """What is computed, here and there: layers of one form have one attention."""
        core = self.core
        roles = {core.q: "q", core.k: "k", core.v: "v", **cache_roles(core.layer)}
        return self.piece.form(roles) + repr([node.op for node in self.nodes])

    def differs(self, past: int, tokens: int, q: float = 1.0, score: float = 1.0, offset: float = 0.0) -> bool:
        """Whether the graph's attention of `tokens` after `past` is another.

        q      standard deviation of the queries: with 0 every visible key weighs the same
        score  by what keys are larger than those whose scores have standard deviation 1
        offset  of all scores against the cache, for one token: what the softmax alone does not see
        """
        model, normal = self.graph.model, self.random.standard_normal
        width, kv_width = model.heads * model.head_dim, model.kv_heads * model.head_dim
        queries = normal((tokens, width), np.float32) * np.float32(q)
        k, v = normal((tokens, kv_width), np.float32) * np.float32(score), normal((tokens, kv_width), np.float32)
        keys = normal((past, model.kv_heads, model.head_dim), np.float32) * np.float32(score)
        values = normal((past, model.kv_heads, model.head_dim), np.float32) * np.float32(max(past, 1) ** 0.5)
        if offset:
            queries = np.tile(normal((1, model.head_dim), np.float32), (1, model.heads))
            turned = Evaluator(self.graph, quantized=False).follow(
                self.nodes[:1], {"q": queries}, np.zeros(1, np.int64), State(position=past)
            )
            way = turned[0, : model.head_dim]
            keys += way * np.float32(offset * model.head_dim**0.5 / max(float(way @ way), 1e-6))
        state = State({self.core.layer: keys}, {self.core.layer: values}, past) if past else State()
        ids = np.zeros(tokens, np.int64)
        expected = Evaluator(self.graph, quantized=False).follow(self.nodes, {"q": queries, "k": k, "v": v}, ids, state)
        return _differs(self._run(past, tokens, queries, k, v, keys, values), expected)

    def seen(self, past: int) -> int:
        """How many tokens the one at position `past` sees, where these are the last ones for every head; else 0.

        With equal weights the mean of the positions of what is seen is past - (seen - 1) / 2; other values confirm it.
        """
        model = self.graph.model
        none, kv = np.zeros((1, model.heads * model.head_dim), np.float32), (past, model.kv_heads, model.head_dim)
        k, zeros = np.zeros((1, model.kv_heads * model.head_dim), np.float32), np.zeros(kv, np.float32)
        places = np.ascontiguousarray(np.broadcast_to(np.arange(past, dtype=np.float32)[:, None, None], kv))
        found = self._run(past, 1, none, k, np.full_like(k, past), zeros, places)
        width = round(2 * (past - float(found.mean())) + 1)
        if not 0 < width <= past:
            return 0
        values = self.random.standard_normal(kv, np.float32)
        own = self.random.standard_normal(k.shape, np.float32)
        mean = np.concatenate([values, own.reshape(1, *kv[1:])])[-width:].mean(axis=0, dtype=np.float64)
        wanted = np.repeat(mean, model.heads // model.kv_heads, axis=0)
        return width if not _differs(self._run(past, 1, none, k, own, zeros, values), wanted) else 0
