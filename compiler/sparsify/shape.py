# SPDX-License-Identifier: Apache-2.0
"""shape: how much of which inputs is cut, so that a wanted share of the layers' weights is not needed and the model changes least.

Inputs are taken together by what they are (of the norm before attention, of attention, of the norm before the MLP, of its activation), in all
layers or in each third of them.  What a group costs is measured where that group alone is cut, in nats per token: half the
distance of the model's distribution from the whole model's, which hardly depends on the text, and half of what the text surprises it more,
which is what is wanted.  Shares that sum to what is asked for are chosen where they cost least, by both groupings and by distance alone too;
text that is held out decides between these and cutting all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.thresholds import sparse_inputs, with_thresholds
from meadow.machine.errors import UsageError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Windows = Sequence[NDArray[np.integer[Any]]]
Tell = Callable[[str, int, int], None]
POINTS = np.linspace(0.0, 0.95, 20)
"""Shares of an input's elements whose magnitudes are kept, as quantiles."""
TRIED = (0.3, 0.5, 0.7)
"""Shares at which the cost of a group is measured."""
MOST = 0.75
"""Of a group: what lies beyond the last that was tried is not trusted."""
STEP = 0.01
PARTS = (1, 3)
"""Of the layers, that are cut alike."""
MIXES = (0.5, 1.0)
"""The share of the distance in a cost, beside the rise."""
NAMES = {"qkv": "attention's norm", "o": "attention", "ffn": "the MLP's norm", "down": "the MLP's activation"}


class Cost(NamedTuple):
    """Of a graph beside the whole model, in nats per token: KL of the distributions, and the rise of the text's surprise."""

    distance: float
    rise: float

    @property
    def mean(self) -> float:
        """By which shapes are judged."""
        return (self.distance + self.rise) / 2


class Group(NamedTuple):
    """Inputs that are cut alike: what they are, and in which part of the layers."""

    role: str
    part: int


@dataclass(frozen=True)
class Shape:
    """What was chosen: the share of elements to cut of each group, and what each was measured to cost at TRIED, in so many parts of the layers."""

    parts: int
    shares: Mapping[Group, float]
    costs: Mapping[Group, tuple[Cost, ...]]
    weights: Mapping[Group, int]

    @property
    def share(self) -> float:
        """Of the layers' weights: the part whose column need not be fetched, on the text."""
        whole = sum(self.weights.values())
        return sum(self.shares[g] * n for g, n in self.weights.items()) / whole


def groups_of(graph: Graph, parts: int) -> dict[Group, list[str]]:
    """The values that may be cut, by group.  Raises UsageError where a model has none."""
    roles = {name: {r.role for r in readers} for name, readers in sparse_inputs(graph).items()}
    layers = {n.name: n.layer or 0 for n in graph.nodes}
    found: dict[Group, list[str]] = {}
    for name, readers in roles.items():
        role = "qkv" if readers & {"q", "k", "v"} else "o" if "o" in readers else "down" if "down" in readers else "ffn"
        found.setdefault(Group(role, layers[name] * parts // max(graph.model.layers, 1)), []).append(name)
    if not found:
        raise UsageError("no linear layer reads a norm, attention or an activation alone: there is nothing to cut")
    return found


def magnitudes(graph: Graph, windows: Windows, tell: Tell) -> dict[str, Doubles]:
    """Quantiles of the magnitudes of each value that may be cut, at POINTS.  Raises UsageError where they are not finite."""
    wanted, evaluator = sparse_inputs(graph), Evaluator(graph, quantized=False)
    states, values = [State() for _ in windows], [dict[str, Floats]() for _ in windows]
    left = {name: len(readers) for name, readers in graph.readers().items()}
    found: dict[str, Doubles] = {}
    for node in graph.nodes[:-1]:
        for window, state, mine in zip(windows, states, values, strict=True):
            mine[node.name] = evaluator.node(node, [mine[name] for name in node.inputs], window, state)
        if node.name in wanted:
            x = np.abs(np.concatenate([mine[node.name] for mine in values]))
            if not np.isfinite(x).all():
                raise UsageError(f"%{node.name} is not finite on the calibration text")
            found[node.name] = np.quantile(x, POINTS)
            found[node.name][0] = 0.0
            tell("measuring", len(found), len(wanted))
        for name in node.inputs:
            left[name] -= 1
            if not left[name]:
                for mine in values:
                    del mine[name]
    return found


def cut(graph: Graph, quantiles: Mapping[str, Doubles], shares: Mapping[str, float]) -> Graph:
    """`graph` with thresholds that cut so much of each value."""
    values = {
        name: float(np.float32(np.interp(share, POINTS, quantiles[name]))) for name, share in shares.items() if share
    }
    return with_thresholds(graph, values)


class Judge:
    """The whole model's distribution on some windows, and how far others are from it."""

    def __init__(self, graph: Graph, windows: Windows):
        self.windows = windows
        evaluator = Evaluator(graph, quantized=False)
        self.logs = [_logarithms(evaluator.run(window, State())) for window in windows]
        self._rows = sum(len(window) for window in windows)
        self._next = sum(len(window) - 1 for window in windows)

    def cost(self, graph: Graph) -> Cost:
        """Of cutting what `graph` cuts."""
        distance = rise = 0.0
        evaluator = Evaluator(graph, quantized=False)
        for window, whole in zip(
            self.windows, self.logs, strict=True
        ):  # one at a time: a row is as long as the vocabulary
            off = whole - _logarithms(evaluator.run(window, State()))
            distance += max(float(np.einsum("tv,tv->t", np.exp(whole), off).sum(dtype=np.float64)), 0.0)
            rise += float(off[np.arange(len(window) - 1), window[1:]].sum(dtype=np.float64))
        return Cost(distance / self._rows, rise / self._next)


def _logarithms(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def measured(
    graph: Graph, quantiles: Mapping[str, Doubles], judge: Judge, parts: int, tell: Tell
) -> dict[Group, tuple[Cost, ...]]:
    """What each group costs at TRIED, the others whole."""
    groups, found = groups_of(graph, parts), dict[Group, list[Cost]]()
    done, count = 0, len(groups) * len(TRIED)
    for group, names in groups.items():
        for share in TRIED:
            changed = cut(graph, quantiles, dict.fromkeys(names, share))
            found.setdefault(group, []).append(judge.cost(changed))
            done += 1
            tell("shaping", done, count)
    return {group: tuple(costs) for group, costs in found.items()}


def chosen(graph: Graph, costs: Mapping[Group, tuple[Cost, ...]], share: float, parts: int, mix: float) -> Shape:
    """The shares that cost least and together spare `share` of the layers' weights: where a weight more costs as much in every group.

    Raises UsageError where that is more than MOST of every group.
    """
    if share > MOST:
        raise UsageError(f"--activations is {share:g}; at most {MOST:g} can be cut")
    fine, weights = np.arange(0, MOST + STEP / 2, STEP), weights_of(graph, parts)
    whole = sum(weights.values())
    curves = {g: _curve(costs[g], fine, mix) for g in weights}

    def at(price: float) -> tuple[dict[Group, float], float]:
        found = {g: float(fine[np.argmin(curves[g] - price * fine * n / whole)]) for g, n in weights.items()}
        return found, sum(found[g] * n for g, n in weights.items()) / whole

    low, high, below, above = 1e-12, 1e6, (dict.fromkeys(weights, 0.0), 0.0), at(1e6)
    for _ in range(100):
        price = (low * high) ** 0.5
        found = at(price)
        if found[1] < share:
            low, below = price, found
        else:
            high, above = price, found
    # Shares jump where a group is worth more all at once: between the two nearest, all groups go the same way.
    way = (share - below[1]) / (above[1] - below[1]) if above[1] > below[1] else 1.0
    shares = {g: below[0][g] + way * (above[0][g] - below[0][g]) for g in weights}
    return Shape(parts, shares, costs, weights)


def _curve(costs: tuple[Cost, ...], fine: Doubles, mix: float) -> Doubles:
    """Costs between those that were measured: distances as squares of straight lines, which never fall, and rises as straight lines."""
    places, beyond = (0.0, *TRIED, MOST), (MOST - TRIED[-1]) / (TRIED[-1] - TRIED[-2])
    roots = np.sqrt(np.maximum.accumulate([max(c.distance, 0.0) for c in costs]))
    roots = np.array([0.0, *roots, roots[-1] + beyond * (roots[-1] - roots[-2])])
    rises = np.array([0.0, *(c.rise for c in costs)])
    rises = np.append(rises, rises[-1] + beyond * max(rises[-1] - rises[-2], 0.0))
    made = mix * np.square(np.interp(fine, places, roots)) + (1 - mix) * np.interp(fine, places, rises)
    return np.asarray(made + 1e-9 * fine)


def weights_of(graph: Graph, parts: int) -> dict[Group, int]:
    """Weights of the linear layers that read each group."""
    readers = sparse_inputs(graph)
    groups = groups_of(graph, parts).items()
    return {group: sum(graph.weight_of(n).size for name in names for n in readers[name]) for group, names in groups}


def uniform(graph: Graph, share: float) -> Shape:
    """The same share of every input."""
    weights = weights_of(graph, 1)
    return Shape(1, dict.fromkeys(weights, share), {}, weights)


def shares_of(graph: Graph, shape: Shape) -> dict[str, float]:
    """The share of each value."""
    groups = groups_of(graph, shape.parts).items()
    return {name: shape.shares[group] for group, names in groups for name in names}
