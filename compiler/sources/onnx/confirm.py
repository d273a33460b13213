# SPDX-License-Identifier: Apache-2.0
"""confirm: what was matched by structure is checked by numbers: the embedding, every whole layer with its weights, and the head.

A pattern can fit a graph that means something else: a window in the mask, a cap on the scores, features moved between two
operators.  So the graph is cut at the residual stream, each piece is run on random inputs by onnx's own reference evaluator
(onnx_piece.py), and compared with what the Graph means (evaluate.py).  confirm_cause.py finds out why a layer differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.sources.onnx.cause import LONG, MORE, OFFSET, Attention, cause_of
from meadow.compiler.sources.onnx.piece import Core, NotEvaluated, Piece, Values, feeds, read_values
from meadow.compiler.sources.onnx.weight import OnnxGraph

EMPTY = 8
"""Tokens of the trial from an empty cache."""
SHORT_PAST, SHORT = 5, 3
"""Cached and new tokens of the trial with scores as large as trained models have them."""
TRAINED_SCORE = 12.0
"""Standard deviation of the scores of that trial: a cap or another function of the scores shows at such sizes."""
CONTEXT = 2048
"""Positions that are tried where a file does not say its context."""
MOST_CONTEXT = 8192
"""Most positions that `read` tries; compile tries as many as its design has (docs/decisions/0018-confirm-whole-layers.md)."""
TOLERANCE = 1e-4
"""Of the largest magnitude that is expected.  FP32 sums of some thousand elements differ by 1e-5 at most."""
LATE_TOLERANCE = 1e-3
"""At the last position, where exporters that round their angles elsewhere differ by position * 2^-24."""
Floats = NDArray[np.float32]


class Difference(Exception):
    """A piece of the graph computes something else than was matched."""


@dataclass(frozen=True)
class Stream:
    """The residual stream by its names in the ONNX graph: what layer n reads and writes is values[n] and values[n + 1]."""

    values: tuple[str, ...]
    logits: str


@dataclass(frozen=True)
class Trial:
    """Cached and new tokens, the standard deviation of the scores against the cache, and the tolerance."""

    past: int
    tokens: int
    score: float
    tolerance: float


def trials(context: int) -> tuple[Trial, ...]:
    """From empty, with scores of trained size, and at the last position of `context`."""
    return (
        Trial(0, min(EMPTY, context), 1.0, TOLERANCE),
        Trial(min(SHORT_PAST, max(context - SHORT, 0)), min(SHORT, context), TRAINED_SCORE, TOLERANCE),
        Trial(context - 1, 1, 1.0, max(LATE_TOLERANCE, context * 2.0**-23)),
    )


def confirm(g: OnnxGraph, graph: Graph, stream: Stream, cores: list[Core], context: int) -> list[tuple[str, str]]:
    """(what is wrong, what kind of problem it is) for each piece that is not what it was matched as, or could not be checked.

    cores    the parts inside of each layer, for telling why it differs
    context  positions to try: the last one is context - 1
    """
    random = np.random.default_rng(0)
    evaluator = Evaluator(graph, quantized=False)
    found: list[tuple[str, str]] = []

    def attempt(what: str, check: Callable[[], None]) -> None:
        try:
            check()
        except NotEvaluated as problem:
            found.append((f"{what} could not be checked: {problem}", "unchecked"))
        except Difference as difference:
            found.append((f"{what} computes something else than it looks like ({difference})", "meaning"))

    trial = _Trial(g, graph, evaluator, stream, random)
    attempt("the embedding", trial.embedding)
    caches = [_cache(graph, each, random) for each in trials(context)]
    for core in cores:
        try:
            trial.layer(core.layer, caches, context)
            trial.attention(core, context)
        except NotEvaluated as problem:
            found.append((f"layer {core.layer} could not be checked: {problem}", "unchecked"))
        except Difference as difference:
            cause = (
                str(difference)
                if "depends on" in str(difference)
                else cause_of(g, graph, core, context) or str(difference)
            )
            found.append((f"layer {core.layer}: {cause.removeprefix(f'layer {core.layer} ')}", "meaning"))
        evaluator.weights.clear()
    attempt("the head", trial.head)
    return found


def _compare(found: NDArray[np.float64], expected: Floats, tolerance: float, what: str) -> None:
    if found.size != expected.size:
        raise Difference(f"{what} has {found.size} elements, {expected.size} were expected")
    if not np.isfinite(expected).all():
        raise NotEvaluated(
            f"{what} overflows FP32 (a gain or a scale is too large: quantize or export the model again)"
        )
    largest = float(np.abs(expected).max())
    worst = float(np.abs(found.reshape(-1) - expected.reshape(-1)).max())
    if not worst <= tolerance * max(largest, 1e-6):
        raise Difference(f"{what} differs by {worst:.2g} where the largest value is {largest:.2g}")


def _cache(graph: Graph, trial: Trial, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Keys and values [past, kv_heads, head_dim] of a trial.

    Values are so large that a single key that is left out or taken in shows in their weighted mean.
    """
    shape = (trial.past, graph.model.kv_heads, graph.model.head_dim)
    keys, values = (random.standard_normal(shape, np.float32) for _ in range(2))
    return keys * np.float32(trial.score), values * np.float32(max(1.0, trial.past) ** 0.5)


@dataclass
class _Trial:
    """The three kinds of pieces on random inputs.  Each raises Difference or NotEvaluated."""

    g: OnnxGraph
    graph: Graph
    evaluator: Evaluator
    stream: Stream
    random: np.random.Generator
    embedded: tuple[int, ...] = ()
    """The last axes of the embedding's value: one of grouped codes comes as [groups, group]."""

    def normal(self, tokens: int) -> Floats:
        """A residual stream [tokens, dim]."""
        return self.random.standard_normal((tokens, self.graph.model.dim), np.float32)

    def streams(self, x: Floats) -> Values:
        """`x` for every value of the residual stream, since shapes are computed from any of them."""
        found: Values = dict.fromkeys(self.stream.values, x[None])
        if self.embedded:
            found[self.stream.values[0]] = x.reshape(1, len(x), *self.embedded)
        return found

    def embedding(self) -> None:
        """Some rows of the table, and the last one."""
        vocab = self.graph.model.vocab
        ids = np.unique(np.concatenate([[0, vocab - 1], self.random.integers(0, vocab, EMPTY)]))
        given = feeds(self.g, self.graph, ids, 0)
        (found,) = Piece(self.g, [self.stream.values[0]], set(given)).run(given)
        self.embedded = found.shape[2:]
        _compare(found, self.graph.weight_of(self.graph.nodes[0]).take(ids), TOLERANCE, "its row")

    def head(self) -> None:
        """Final norm and logits."""
        x, ids = self.normal(SHORT), np.zeros(SHORT, np.int64)
        last = self.graph.layer(self.graph.model.layers - 1)[-1].name
        nodes = list(self.graph.nodes[[n.name for n in self.graph.nodes].index(last) + 1 :])
        expected = self.evaluator.follow(nodes, {last: x}, ids, State())
        self.evaluator.weights.clear()  # the largest matrix of all is about to be there once more
        given = feeds(self.g, self.graph, ids, 0) | self.streams(x)
        self._only("the head", [self.stream.logits], set(given), {self.stream.values[-1]})
        _compare(Piece(self.g, [self.stream.logits], set(given)).run(given)[0], expected, TOLERANCE, "its logits")

    def _only(self, what: str, outputs: list[str], given: set[str], may: set[str]) -> None:
        """Raise Difference when a piece is computed from values that are not its own: they are alike in the trials."""
        foreign = sorted(read_values(self.g, outputs, given) - may - {"attention_mask", "position_ids"})
        if foreign:
            raise Difference(
                f"{what} depends on the values of {', '.join(repr(n) for n in foreign[:3])}, which are not its own"
            )

    def layer(self, layer: int, caches: list[tuple[Floats, Floats]], context: int) -> None:
        """One layer, residual in to residual out, in each of `trials`."""
        first, nodes = self.graph.entry(layer).name, list(self.graph.layer(layer))
        kept = {kind: next(o.name for o in self.g.graph.output if re.match(rf"present(_key_values)?\.{layer}\.{kind}$", o.name))
                for kind in ("key", "value")}  # fmt: skip
        outputs = [self.stream.values[layer + 1], kept["key"], kept["value"]]
        piece = None
        for trial, (keys, values) in zip(trials(context), caches, strict=True):
            x, ids = self.normal(trial.tokens), np.zeros(trial.tokens, np.int64)
            keys = keys * self._unit_score(nodes, first, x)
            state = State({layer: keys}, {layer: values}, trial.past) if trial.past else State()
            expected = self.evaluator.follow(nodes, {first: x}, ids, state)
            given = feeds(self.g, self.graph, ids, trial.past, keys, values) | self.streams(x)
            if piece is None:
                cut = set(given) - {outputs[0]}
                mine = {self.stream.values[layer], *(f"past_key_values.{layer}.{kind}" for kind in kept)}
                self._only(f"layer {layer}", outputs, cut, mine)
                piece = Piece(self.g, outputs, cut)
            where = f"{trial.tokens} tokens after {trial.past}"
            found, *cache = piece.run(given)
            # What the layer adds is compared, which the residual itself would hide.
            _compare(found.reshape(-1) - x.reshape(-1), expected - x, trial.tolerance, where)
            for name, left, wanted in zip(kept.values(), cache, (state.keys[layer], state.values[layer]), strict=True):
                _compare(left, np.ascontiguousarray(wanted.swapaxes(0, 1)), trial.tolerance, f"{where}, {name!r}")

    def attention(self, core: Core, context: int) -> None:
        """The layer's attention without weights: a long prompt as one, and some positions in between."""
        attention = Attention(self.g, self.graph, core, self.random)
        if attention.differs(0, min(LONG, context)):
            raise Difference(f"a prompt of {min(LONG, context)} tokens")
        if context > 1 and attention.differs(min(SHORT_PAST, context - 1), 1, offset=OFFSET):
            raise Difference(f"scores near {OFFSET:g}")
        for past in self.random.integers(1, max(context - 1, 2), MORE):
            if attention.differs(int(past), 1):
                raise Difference(f"attention at position {past}")

    def _unit_score(self, nodes: list[Node], first: str, x: Floats) -> np.float32:
        """By what keys of standard deviation 1 are multiplied so that the layer's scores have standard deviation 1."""
        q = next(n for n in nodes if n.role == "q")
        queries = self.evaluator.follow(nodes[: nodes.index(q) + 1], {first: x}, np.zeros(len(x), np.int64), State())
        return np.float32(1.0 / max(float(np.sqrt(np.mean(queries.astype(np.float64) ** 2))), 1e-12))
