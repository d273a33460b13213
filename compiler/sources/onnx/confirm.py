# SPDX-License-Identifier: Apache-2.0
"""confirm: what was read is checked by numbers: the whole model with its weights, against the user's own graph.

The graph is run operator by operator (numeric.py) and the Graph by its meaning (evaluate.py), on random tokens and caches: a prompt from an
empty cache, a few tokens with scores as large as trained models have them, and one token at the last position.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from meadow.compiler.graph.evaluate import Evaluator, Floats, State
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Attention, Threshold
from meadow.compiler.sources.onnx.graph import OnnxGraph
from meadow.compiler.sources.onnx.interface import plain_input
from meadow.compiler.sources.onnx.numeric import ROUNDED, compute, full
from meadow.compiler.sources.onnx.shapes import NotEvaluated

EMPTY = 8
"""Tokens of the trial from an empty cache."""
LONG = 48
"""Tokens on which the roundings of a file are measured: shares of a softmax over a few are larger than over many."""
SHORT_PAST, SHORT = 5, 3
"""Cached and new tokens of the trial with scores as large as trained models have them."""
TRAINED_SCORE = 6.0
"""Standard deviation of the scores of that trial: a cap or another function of the scores shows at such sizes."""
CONTEXT = 2048
"""Positions that are tried where a file does not say its context."""
MOST_CONTEXT = 8192
"""Most positions that `read` tries; compile tries as many as its design has (docs/decisions/0030-follow-the-operators.md)."""
TOLERANCE = 1e-4
"""Of the largest magnitude that is expected.  FP32 sums of some thousand elements differ by 1e-5 at most."""
COARSE = 50.0
"""By what tolerances are larger where angles are rounded to 16 bits."""
LATE_TOLERANCE = 2e-3
"""At the last position, where exporters that round their angles elsewhere differ by position * 2^-24."""


class Difference(Exception):
    """The graph computes something else than was read."""


@dataclass(frozen=True)
class Trial:
    """Cached and new tokens, the standard deviation of the scores against the cache, and the tolerance."""

    past: int
    tokens: int
    score: float
    tolerance: float


def trials(context: int, single: bool = False, coarse: bool = False) -> tuple[Trial, ...]:
    """From empty, with scores of trained size, and at the last position of `context`."""
    short, by = 1 if single else min(SHORT, context), COARSE if coarse else 1.0
    return (
        Trial(0, min(EMPTY, context), 1.0, TOLERANCE * by),
        Trial(min(SHORT_PAST, max(context - short, 0)), short, TRAINED_SCORE, TOLERANCE * 3 * by),
        Trial(context - 1, 1, 1.0, max(LATE_TOLERANCE * by / 2, context * 2.0**-23)),
    )


@dataclass(frozen=True)
class Lifted:
    """What confirm needs to know of a reading.

    logits   the output that holds them
    caches   (key, value) inputs of each layer
    kept     the outputs that hold the cache with the new tokens behind it, by input
    factors  what the file's cache holds is the Graph's times this, by input
    values   ONNX values of the Graph's nodes, by node name
    last     the logits are of the last token alone
    single   the file takes prompts from an empty cache, or single tokens
    coarse   its angles are rounded to 16 bits
    """

    logits: str
    caches: tuple[tuple[str, str], ...]
    kept: dict[str, str]
    factors: dict[str, float]
    values: dict[str, str]
    last: bool
    single: bool = False
    coarse: bool = False


def confirm(g: OnnxGraph, graph: Graph, lifted: Lifted, context: int) -> str:
    """What differs, in a sentence; "" when nothing does.  Raises NotEvaluated for a graph that cannot be run."""
    runs = _expected(graph, lifted, context)
    feeds = [_feeds(g, graph, lifted, r) for r in runs]
    new = [r.trial.tokens for r in runs]
    cuts = {
        n.name: lifted.values[n.name] for n in graph.nodes if isinstance(n.op, Threshold) and n.name in lifted.values
    }
    outputs = [lifted.logits, *lifted.kept.values(), *cuts.values()]
    found = Run(g, feeds, dict.fromkeys(lifted.kept.values(), new)).outputs(outputs)
    for number, run in enumerate(runs):
        where = f"{run.trial.tokens} tokens after {run.trial.past}"
        mine = {k: v[number] for k, v in found.items()}
        try:
            try:
                _compare_run(graph, lifted, run, mine)
            except Difference:
                if not cuts:
                    raise
                _evaluate(graph, run, {}, cut={name: mine[value] for name, value in cuts.items()})
                _compare_run(graph, lifted, run, mine)
        except Difference as difference:
            return f"with {where}, {difference}{_first_difference(g, graph, lifted, run)}"
    return ""


def noise_of(g: OnnxGraph, graph: Graph, lifted: Lifted) -> float:
    """How far the logits of `g` are from the Graph's on random tokens, in standard deviations of these, their mean apart."""
    count = 1 if lifted.single else LONG
    run = _expected(graph, lifted, 0, (Trial(0, count, 1.0, 0.0),))[0]
    found = Run(g, [_feeds(g, graph, lifted, run)], {}).outputs([lifted.logits])[lifted.logits][0]
    assert run.logits is not None
    wanted = run.logits.astype(np.float64)
    rows = found.reshape(-1, wanted.shape[-1]).astype(np.float64)  # of the last token alone in some files
    difference = rows - wanted[-len(rows) :]
    return float(np.sqrt((difference - difference.mean(axis=-1, keepdims=True)).var() / max(wanted.var(), 1e-30)))


@dataclass
class _Expected:
    """One trial by the Graph's meaning."""

    trial: Trial
    ids: NDArray[np.int64]
    keys: dict[int, Floats]
    values: dict[int, Floats]
    state: State = field(default_factory=State)
    logits: Floats | None = None


def _expected(graph: Graph, lifted: Lifted, context: int, some: tuple[Trial, ...] = ()) -> list[_Expected]:
    """All trials, or `some`; the caches of the later ones are scaled by the queries of the first."""
    random = np.random.default_rng(0)
    attentions = [n for n in graph.nodes if isinstance(n.op, Attention)]
    sizes: dict[int, float] = {}
    found = []
    for trial in some or trials(context, lifted.single, lifted.coarse):
        keys, values = {}, {}
        typical = float(np.median(list(sizes.values()))) if sizes else 1.0
        made: dict[
            tuple[int, int, float], tuple[Floats, Floats]
        ] = {}  # one cache for all layers of a shape, for memory's sake
        for layer, node in enumerate(attentions):
            op = node.op
            assert isinstance(op, Attention)
            deviation = trial.score / max(typical * op.head_dim**0.5 * op.scale, 1e-9)
            key = (op.kv_heads, op.head_dim, deviation)
            if key not in made:
                base = random.standard_normal((trial.past, op.kv_heads, op.head_dim), np.float32)
                large = np.float32(
                    max(1.0, trial.past) ** 0.5
                )  # so that a key left out or taken in shows in their mean
                made[key] = base * np.float32(deviation), np.ascontiguousarray(base[::-1]) * large
            keys[layer], values[layer] = made[key]
        run = _Expected(trial, random.integers(0, graph.model.vocab, trial.tokens), keys, values)
        _evaluate(graph, run, sizes)
        found.append(run)
    return found


def _evaluate(
    graph: Graph,
    run: _Expected,
    sizes: dict[int, float],
    values: dict[str, Floats] | None = None,
    cut: dict[str, Floats] | None = None,
) -> None:
    """The Graph's own logits and cache of a trial; notes how large queries are.

    cut  what the file has behind each threshold: it decides where the last bits of a sum do, since one element that is cut or not
         moves others over their thresholds, layer after layer
    """
    evaluator = Evaluator(graph, quantized=False, keep=False)
    state = State(position=run.trial.past)
    if run.trial.past:
        state.keys, state.values = dict(run.keys), dict(run.values)
    known: dict[str, Floats] = {}
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    for node in graph.nodes:
        inputs = [known[i] for i in node.inputs]
        known[node.name] = evaluator.node(node, inputs, run.ids, state)
        if cut is not None and isinstance(node.op, Threshold):
            known[node.name] = _settled(node.op, inputs[0], known[node.name], cut.get(node.name), run.trial.tolerance)
        if values is not None:
            values[node.name] = known[node.name]
        if isinstance(node.op, Attention):
            q = inputs[0].astype(np.float64)
            layer = node.layer or 0
            sizes.setdefault(layer, float(np.sqrt(np.mean(q * q))))
            state.keys[layer], state.values[layer] = (  # what is new of them is compared
                part[layer][-run.trial.tokens :].copy() for part in (state.keys, state.values)
            )
        for i in node.inputs:
            uses[i] -= 1
            if not uses[i]:
                del known[i]
    run.logits, run.state = known[graph.nodes[-1].name], state


def _settled(op: Threshold, x: Floats, mine: Floats, theirs: Floats | None, tolerance: float) -> Floats:
    """The rows behind a threshold, with the elements that lie on it, within what sums differ by, cut where the file cuts them."""
    if theirs is None or theirs.size != x.size or theirs.shape[-1] != x.shape[-1]:
        return mine
    close = np.abs(np.abs(x) - np.float32(op.value)) <= tolerance * np.abs(x).max()
    return np.where(close, np.where(theirs.reshape(x.shape) != 0, x, np.float32(0)), mine)


def _feeds(g: OnnxGraph, graph: Graph, lifted: Lifted, run: _Expected) -> dict[str, Any]:
    """The graph's inputs of a trial, in the types it names; floats in FP32."""
    past, tokens = run.trial.past, run.trial.tokens
    caches = {}
    turned: dict[tuple[int, float], Any] = {}
    for layer, pair in enumerate(lifted.caches):
        for name, parts in zip(pair, (run.keys, run.values), strict=True):
            factor = lifted.factors.get(name, 1.0)
            key = (id(parts[layer]), factor)
            if key not in turned:
                turned[key] = np.ascontiguousarray(parts[layer].swapaxes(0, 1)[None]) * np.float32(factor)
            caches[name] = turned[key]
    found: dict[str, Any] = {}
    for value in g.graph.input:
        if value.name in g.initializers:
            continue
        made = caches.get(value.name)
        if made is None:
            rank = len(value.type.tensor_type.shape.dim)
            made = run.ids[None] if value.name == "input_ids" else plain_input(value.name, rank, past, tokens)
        if made is None:
            raise NotEvaluated(f"the input {value.name!r} is not known")
        kind = value.type.tensor_type.elem_type
        wanted = np.dtype(helper.tensor_dtype_to_np_dtype(kind or TensorProto.INT64))
        found[value.name] = full(made if made.dtype.kind == "f" else made.astype(wanted))
    return found


class Run:
    """A graph run operator by operator for several feeds at once, so that each weight is dequantized once.

    last  values of which only the last tokens are kept, as many as are named per feed
    """

    def __init__(self, g: OnnxGraph, feeds: list[dict[str, Any]], last: dict[str, list[int]] | None = None):
        self.g, self.feeds, self.last = g, feeds, last or {}

    def outputs(self, names: list[str]) -> dict[str, list[Any]]:
        """The values called `names`, one per feed.  Raises NotEvaluated."""
        needed = {self.g.index[name] for name in self.g.behind(names) if name in self.g.index}
        uses = Counter(i for n in needed for i in self.g.graph.node[n].input if i)
        uses.update(names)
        known: dict[str, list[Any]] = {}
        for n in sorted(needed):
            self._step(self.g.graph.node[n], known, uses)
        return {name: self._get(name, known) for name in names}

    def _get(self, name: str, known: dict[str, list[Any]]) -> list[Any]:
        """One value per feed, or a single one that all share."""
        if name in known:
            return known[name]
        if name in self.feeds[0]:
            return [f[name] for f in self.feeds]
        array = self.g.array(name)
        if array is None:
            raise NotEvaluated(f"{name!r} is nowhere computed")
        return [full(array)]

    def _step(self, node: onnx.NodeProto, known: dict[str, list[Any]], uses: Counter[str]) -> None:
        inputs = [self._get(i, known) if i else [None] for i in node.input]
        count = max((len(v) for v in inputs), default=1)
        made = []
        for n in range(count):
            given = [v[n] if len(v) > 1 else v[0] for v in inputs]
            made.append(_run_one(node, given, self.g.opset, moving=count > 1))
        for place, out in enumerate(node.output):
            if out and uses[out]:
                known[out] = [m[place] if place < len(m) else None for m in made]
        for i in node.input:
            uses[i] -= 1
            if not uses[i]:
                known.pop(i, None)
        for i in (*node.input, *node.output):
            if i in self.last and uses[i] == 1 and i in known:  # the output alone is left
                known[i] = [v[:, :, -n:].copy() for v, n in zip(known[i], self.last[i], strict=True)]


def _run_one(node: onnx.NodeProto, given: list[Any], opset: int, moving: bool) -> list[Any]:
    """One operator.  The roundings of activations to integers are left out, as they are where the graph is read."""
    if moving and node.op_type in ROUNDED and given[0].dtype.kind == "f":
        return [given[0]]
    return compute(node, given, opset)


def _compare_run(graph: Graph, lifted: Lifted, run: _Expected, found: dict[str, Any]) -> None:
    assert run.logits is not None
    wanted = run.logits[-1:] if lifted.last else run.logits
    _compare(np.asarray(found[lifted.logits], np.float64), wanted, run.trial.tolerance, "the logits")
    for layer, pair in enumerate(lifted.caches):
        for name, parts in zip(pair, (run.state.keys, run.state.values), strict=True):
            kept = lifted.kept.get(name)
            if kept is None:
                continue
            factor = np.float32(lifted.factors.get(name, 1.0))
            expected = np.ascontiguousarray(parts[layer].swapaxes(0, 1)) * factor
            _compare(np.asarray(found[kept], np.float64), expected, run.trial.tolerance, f"the cache {kept!r}")


def _compare(found: NDArray[np.float64], expected: Floats, tolerance: float, what: str) -> None:
    if found.size != expected.size:
        raise Difference(f"{what}: {found.size} elements and not {expected.size}")
    if not np.isfinite(expected).all():
        raise NotEvaluated("values overflow FP32 (a gain or a scale is too large: quantize or export the model again)")
    largest = float(np.abs(expected).max())
    worst = float(np.abs(found.reshape(-1) - expected.reshape(-1)).max())
    if not worst <= tolerance * max(largest, 1e-6):
        raise Difference(f"{what}: a difference of {worst:.2g} where the largest value is {largest:.2g}")


def _first_difference(g: OnnxGraph, graph: Graph, lifted: Lifted, run: _Expected) -> str:
    """Which node is the first whose value differs, for the message."""
    values: dict[str, Floats] = {}
    _evaluate(graph, run, {}, values)
    names = {node: name for node, name in lifted.values.items() if node in values}
    try:
        found = Run(g, [_feeds(g, graph, lifted, run)]).outputs(sorted(set(names.values())))
    except NotEvaluated:
        return ""
    for node in graph.nodes:
        if node.name not in names:
            continue
        got, expected = np.asarray(found[names[node.name]][0], np.float64), values[node.name]
        try:
            _compare(got, expected, run.trial.tolerance, "")
        except (Difference, NotEvaluated):
            return f"; the first value that differs is {names[node.name]!r} (%{node.name})"
    return ""
