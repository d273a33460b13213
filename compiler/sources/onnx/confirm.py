# SPDX-License-Identifier: Apache-2.0
"""confirm: what was matched by structure is checked by numbers: the embedding, every whole layer with its weights, and the head.

A pattern can fit a graph that means something else: a window in the mask, a cap on the scores, features moved between two
operators.  So the graph is cut at the residual stream, each piece is run on random inputs by onnx's own reference evaluator
(onnx_piece.py), and compared with what the Graph means (evaluate.py).  confirm_cause.py finds out why a layer differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.sources.onnx.cause import LONG, MORE, OFFSET, Attention, cache_roles, cause_of
from meadow.compiler.sources.onnx.piece import Core, NotEvaluated, Piece, Values, feeds, read_values
from meadow.compiler.sources.onnx.weight import OnnxGraph

HEAD_ROWS = 1 << 12
LATE = 2
"""Place of the trial at the last position among `trials`."""
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
    shared = _Shared(g, graph, stream)

    def trial(number: int) -> _Trial:
        return _Trial(shared, np.random.default_rng([number, 1]), Evaluator(graph, quantized=False))

    found = _attempt("the embedding", trial(0).embedding)
    caches = [_cache(graph, each, random) for each in trials(context)]
    for core in cores:
        found += _confirm_layer(trial(2 + core.layer), core, caches, context)
    found += _attempt("the head", trial(1).head)
    return found


def _attempt(what: str, check: Callable[[], None]) -> list[tuple[str, str]]:
    """What `check` finds wrong with a piece."""
    try:
        check()
    except NotEvaluated as problem:
        return [(f"{what} could not be checked: {problem}", "unchecked")]
    except Difference as difference:
        return [(f"{what} computes something else than it looks like ({difference})", "meaning")]
    return []


def _confirm_layer(
    trial: _Trial, core: Core, caches: list[tuple[Floats, Floats]], context: int
) -> list[tuple[str, str]]:
    """What is wrong with a layer, and why."""
    try:
        trial.layer(core, caches, context)
        trial.attention(core, context)
    except NotEvaluated as problem:
        return [(f"layer {core.layer} could not be checked: {problem}", "unchecked")]
    except Difference as difference:
        shared, cause = trial.shared, str(difference)
        if "depends on" not in cause:
            cause = cause_of(shared.g, shared.graph, core, context) or cause
        return [(f"layer {core.layer}: {cause.removeprefix(f'layer {core.layer} ')}", "meaning")]
    return []


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


def _wiring(graph: Graph, nodes: list[Node]) -> str:
    """What a layer computes but for the values of its tensors: kinds, attributes, and what reads what."""
    places = {node.name: str(n) for n, node in enumerate(nodes)}
    shown = []
    for node in nodes:
        named = {f: "" for f in (*node.op.names, *node.op.vectors) if getattr(node.op, f) is not None}
        elem = graph.weight_of(node).elem if node.weight is not None else ""
        shown.append((replace(node.op, **named), elem, [places.get(i, "x") for i in node.inputs]))
    return repr(shown)


@dataclass
class _Shared:
    """What all trials of a file have in common.

    forms     of the pieces that were tried, so that one form is tried once where weights do not decide
    embedded  the last axes of the embedding's value: one of grouped codes comes as [groups, group]
    """

    g: OnnxGraph
    graph: Graph
    stream: Stream
    forms: set[str] = field(default_factory=set)
    embedded: tuple[int, ...] = ()

    def seen(self, form: str) -> bool:
        """Whether a piece of this form was tried before; from now on it was."""
        seen = form in self.forms
        self.forms.add(form)
        return seen


class _Trial:
    """The three kinds of pieces on random inputs.  Each raises Difference or NotEvaluated."""

    def __init__(self, shared: _Shared, random: np.random.Generator, evaluator: Evaluator):
        self.shared, self.random, self.evaluator = shared, random, evaluator
        self.g, self.graph, self.stream = shared.g, shared.graph, shared.stream

    def normal(self, tokens: int) -> Floats:
        """A residual stream [tokens, dim]."""
        return self.random.standard_normal((tokens, self.graph.model.dim), np.float32)

    def streams(self, x: Floats) -> Values:
        """`x` for every value of the residual stream, since shapes are computed from any of them."""
        found: Values = dict.fromkeys(self.stream.values, x[None])
        if self.shared.embedded:
            found[self.stream.values[0]] = x.reshape(1, len(x), *self.shared.embedded)
        return found

    def embedding(self) -> None:
        """Some rows of the table, and the last one."""
        vocab = self.graph.model.vocab
        ids = np.unique(np.concatenate([[0, vocab - 1], self.random.integers(0, vocab, EMPTY)]))
        given = feeds(self.g, self.graph, ids, 0)
        (found,) = Piece(self.g, [self.stream.values[0]], set(given)).run(given)
        self.shared.embedded = found.shape[2:]
        _compare(found, self.graph.weight_of(self.graph.nodes[0]).take(ids), TOLERANCE, "its row")

    def head(self) -> None:
        """Final norm and logits."""
        x, ids = self.normal(SHORT), np.zeros(SHORT, np.int64)
        last = self.graph.layer(self.graph.model.layers - 1)[-1].name
        nodes = list(self.graph.nodes[[n.name for n in self.graph.nodes].index(last) + 1 :])
        expected = self._logits(self.evaluator.follow(nodes[:-1], {last: x}, ids, State()))
        given = feeds(self.g, self.graph, ids, 0) | self.streams(x)
        self._only("the head", [self.stream.logits], set(given), {self.stream.values[-1]})
        _compare(Piece(self.g, [self.stream.logits], set(given)).run(given)[0], expected, TOLERANCE, "its logits")

    def _logits(self, x: Floats) -> Floats:
        """The head's logits of its input `x`, a few rows of the largest matrix of all at a time."""
        node, found = self.graph.nodes[-1], []
        weight = self.graph.weight_of(node)
        for first in range(0, weight.rows, HEAD_ROWS):
            rows = np.arange(first, min(first + HEAD_ROWS, weight.rows))
            found.append(x @ weight.take(rows).T)
        return self.evaluator.finish(node, np.concatenate(found, axis=1))

    def _only(self, what: str, outputs: list[str], given: set[str], may: set[str]) -> None:
        """Raise Difference when a piece is computed from values that are not its own: they are alike in the trials."""
        foreign = sorted(read_values(self.g, outputs, given) - may - {"attention_mask", "position_ids"})
        if foreign:
            raise Difference(
                f"{what} depends on the values of {', '.join(repr(n) for n in foreign[:3])}, which are not its own"
            )

    def layer(self, core: Core, caches: list[tuple[Floats, Floats]], context: int) -> None:
        """One layer, residual in to residual out, in each of `trials`; the last, which its weights do not decide, once per form."""
        layer = core.layer
        first, nodes = self.graph.entry(layer).name, list(self.graph.layer(layer))
        kept = {
            kind: next(
                o.name for o in self.g.graph.output if re.match(rf"present(_key_values)?\.{layer}\.{kind}$", o.name)
            )
            for kind in ("key", "value")
        }
        outputs = [self.stream.values[layer + 1], kept["key"], kept["value"]]
        piece, tried = None, False
        for number, (trial, (keys, values)) in enumerate(zip(trials(context), caches, strict=True)):
            if tried and number == LATE:
                break
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
                roles = {self.stream.values[layer]: "x", **cache_roles(layer)}
                tried = self.shared.seen(piece.form(roles, core.tensors) + _wiring(self.graph, nodes))
            where = f"{trial.tokens} tokens after {trial.past}"
            found, *cache = piece.run(given)
            # What the layer adds is compared, which the residual itself would hide.
            _compare(found.reshape(-1) - x.reshape(-1), expected - x, trial.tolerance, where)
            for name, left, wanted in zip(kept.values(), cache, (state.keys[layer], state.values[layer]), strict=True):
                _compare(left, np.ascontiguousarray(wanted.swapaxes(0, 1)), trial.tolerance, f"{where}, {name!r}")

    def attention(self, core: Core, context: int) -> None:
        """The layer's attention without weights: a long prompt as one, and some positions in between."""
        attention = Attention(self.g, self.graph, core, self.random)
        if self.shared.seen(attention.form()):
            return
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
