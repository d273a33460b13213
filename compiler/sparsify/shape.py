# SPDX-License-Identifier: Apache-2.0
"""shape: how much of which inputs is cut, so that a wanted share of the layers' weights is not needed and the model changes least.

Inputs are taken together by what they are (of the norm before attention, of attention, of the norm before the MLP, of its activation) and by
the third of the layers that they stand in.  What a group costs is measured where that group alone is cut, in nats per token: half the
distance of the model's distribution from the whole model's, which hardly depends on the text, and half of what the text surprises it more,
which is what is wanted.  Shares that sum to what is asked for are chosen where they cost least.
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
THIRDS = 3
NAMES = {"qkv": "attention's norm", "o": "attention", "ffn": "the MLP's norm", "down": "the MLP's activation"}


class Cost(NamedTuple):
    """Of a graph beside the whole model, in nats per token: KL of the distributions, and the rise of the text's surprise."""

    distance: float
    rise: float

    @property
    def mean(self) -> float:
        return (self.distance + self.rise) / 2


class Group(NamedTuple):
    """Inputs that are cut alike: what they are, and in which third of the layers."""

    role: str
    third: int


@dataclass(frozen=True)
class Shape:
    """What was chosen: the share of elements to cut of each group, and what each was measured to cost at TRIED."""

    shares: Mapping[Group, float]
    costs: Mapping[Group, tuple[Cost, ...]]
    weights: Mapping[Group, int]

    @property
    def share(self) -> float:
        """Of the layers' weights: the part whose column need not be fetched, on the text."""
        whole = sum(self.weights.values())
        return sum(self.shares[g] * n for g, n in self.weights.items()) / whole


def groups_of(graph: Graph) -> dict[Group, list[str]]:
    """The values that may be cut, by group.  Raises UsageError where a model has none."""
    roles = {name: {r.role for r in readers} for name, readers in sparse_inputs(graph).items()}
    layers = {n.name: n.layer or 0 for n in graph.nodes}
    found: dict[Group, list[str]] = {}
    for name, readers in roles.items():
        role = "qkv" if readers & {"q", "k", "v"} else "o" if "o" in readers else "down" if "down" in readers else "ffn"
        third = layers[name] * THIRDS // max(graph.model.layers, 1)
        found.setdefault(Group(role, third), []).append(name)
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
        self.logs = [_logarithms(rows) for rows in self._logits(graph)]
        self._rows = sum(len(window) for window in windows)
        self._next = sum(len(window) - 1 for window in windows)

    def _logits(self, graph: Graph) -> list[Floats]:
        evaluator = Evaluator(graph, quantized=False)
        return [evaluator.run(window, State()) for window in self.windows]

    def cost(self, graph: Graph) -> Cost:
        """Of cutting what `graph` cuts."""
        distance = rise = 0.0
        for window, whole, rows in zip(self.windows, self.logs, self._logits(graph), strict=True):
            found, places = _logarithms(rows), np.arange(len(window) - 1)
            distance += float((np.exp(whole) * (whole - found)).sum(dtype=np.float64))
            rise += float((whole - found)[places, window[1:]].sum(dtype=np.float64))
        return Cost(distance / self._rows, rise / self._next)


def _logarithms(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def measured(graph: Graph, quantiles: Mapping[str, Doubles], judge: Judge, tell: Tell) -> dict[Group, tuple[Cost, ...]]:
    """What each group costs at TRIED, the others whole."""
    groups, found = groups_of(graph), dict[Group, list[Cost]]()
    done, count = 0, len(groups) * len(TRIED)
    for group, names in groups.items():
        for share in TRIED:
            changed = cut(graph, quantiles, dict.fromkeys(names, share))
            found.setdefault(group, []).append(judge.cost(changed))
            done += 1
            tell("shaping", done, count)
    return {group: tuple(costs) for group, costs in found.items()}


def chosen(graph: Graph, costs: Mapping[Group, tuple[Cost, ...]], share: float) -> Shape:
    """The shares that cost least and together spare `share` of the layers' weights: where a weight more costs as much in every group.

    Raises UsageError where that is more than MOST of every group.
    """
    if share > MOST:
        raise UsageError(f"--activations is {share:g}; at most {MOST:g} can be cut")
    readers, fine = sparse_inputs(graph), np.arange(0, MOST + STEP / 2, STEP)
    weights = {
        g: sum(graph.weight_of(n).size for v in names for n in readers[v]) for g, names in groups_of(graph).items()
    }
    whole = sum(weights.values())
    curves = {g: _curve(costs[g], fine) for g in weights}
    low, high = 1e-12, 1e6
    for _ in range(100):
        price = (low * high) ** 0.5
        shares = {g: float(fine[np.argmin(curves[g] - price * fine * n / whole)]) for g, n in weights.items()}
        spared = sum(shares[g] * n for g, n in weights.items()) / whole
        low, high = (price, high) if spared < share else (low, price)
    return Shape(shares, costs, weights)


def _curve(costs: tuple[Cost, ...], fine: Doubles) -> Doubles:
    """Costs between those that were measured: distances as squares of straight lines, which never fall, and rises as straight lines."""
    places, beyond = (0.0, *TRIED, MOST), (MOST - TRIED[-1]) / (TRIED[-1] - TRIED[-2])
    roots = np.sqrt(np.maximum.accumulate([max(c.distance, 0.0) for c in costs]))
    roots = np.array([0.0, *roots, roots[-1] + beyond * (roots[-1] - roots[-2])])
    rises = np.array([0.0, *(c.rise for c in costs)])
    rises = np.append(rises, rises[-1] + beyond * max(rises[-1] - rises[-2], 0.0))
    return np.asarray((np.square(np.interp(fine, places, roots)) + np.interp(fine, places, rises)) / 2 + 1e-9 * fine)


def uniform(graph: Graph, share: float) -> Shape:
    """The same share of every input."""
    readers = sparse_inputs(graph)
    weights = {
        g: sum(graph.weight_of(n).size for v in names for n in readers[v]) for g, names in groups_of(graph).items()
    }
    return Shape(dict.fromkeys(weights, share), {}, weights)


def shares_of(graph: Graph, shape: Shape) -> dict[str, float]:
    """The share of each value."""
    return {name: shape.shares[group] for group, names in groups_of(graph).items() for name in names}
