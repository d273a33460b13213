# SPDX-License-Identifier: Apache-2.0
"""masks: single weights become 0, by rules that look at more and more.

magnitude  the smallest of each matrix
wanda      the smallest |weight| times the size of its input, of each row (Sun et al., 2023)
sparsegpt  column by column; the error goes to the columns behind it (Frantar and Alistarh, 2023)
duogpt     the same, for the input that the matrix has behind its threshold and towards the output that it has without: what
           activations that are cut take away is made good by the weights that stay (Yin et al., 2025), in the exact form of `shift`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Linear, Threshold
from meadow.compiler.quantize.solver import DAMP, factor, shifted, sweep
from meadow.compiler.quantize.walk import gram_of
from meadow.machine.errors import UsageError
from meadow.machine.types import F32, Weight

RULES = ("sparsegpt", "duogpt", "wanda", "magnitude")
BLOCK = 128
"""Columns among which sparsegpt chooses at a time."""
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class MaskGrid:
    """The grid of a sweep whose values are a weight as it is, or 0: in each block of columns the share of least w^2 / [H^-1] goes."""

    unit = BLOCK

    def __init__(self, rows: int, cols: int, share: float, upper: Doubles):
        self.share, self._cost = share, np.square(np.diag(upper))
        self.values = np.zeros((cols, rows))
        self._kept = np.ones((cols, rows), bool)

    def fit(self, first: int, w: Doubles) -> None:
        """Choose what goes of columns `first` .. `first + len(w)`, [columns, N]."""
        score = np.square(w) / self._cost[first : first + len(w), None]
        gone = round(self.share * score.size)
        kept = np.ones(score.size, bool)
        kept[np.argsort(score, axis=None, kind="stable")[:gone]] = False
        self._kept[first : first + len(w)] = kept.reshape(score.shape)

    def refit(self, first: int, q: Doubles, slope: Doubles, h: Doubles) -> None:
        """Nothing to fit anew."""

    def round(self, column: int, w: Doubles) -> Doubles:
        self.values[column] = w * self._kept[column]
        return self.values[column]

    def weight(self, name: str, rows: slice) -> Weight:
        return Weight(name, F32, np.ascontiguousarray(self.values[:, rows].T, np.float32))


def masked(
    graph: Graph,
    share: float,
    rule: str,
    windows: Sequence[NDArray[np.integer[Any]]],
    damp: float = DAMP,
    tell: Callable[[int, int], None] = lambda done, count: None,
) -> Graph:
    """`graph` with `share` of the weights of its layers' linear matrices at 0.  Raises UsageError for activations that are not finite."""
    if rule not in RULES:
        raise UsageError(f"the rule {rule!r} is not known; {', '.join(RULES)} are")
    groups = _groups(graph)
    serving = Counter(node.weight for node in graph.nodes if isinstance(node.op, Linear))
    shared = next((n for nodes in groups.values() for n in nodes if serving[n.weight] > 1), None)
    if shared is not None:
        raise UsageError(
            f"{shared.weight} serves {serving[shared.weight]} nodes, %{shared.name} among them; it is not masked"
        )
    made = dict(graph.weights)
    if rule == "magnitude":
        for done, name in enumerate(n.weight or "" for nodes in groups.values() for n in nodes):
            made[name] = _smallest(graph.weights[name], share)
            tell(done + 1, sum(map(len, groups.values())))
        return graph.replace(weights=made)
    streams = [Evaluator(graph, quantized=False) for _ in range(2)]
    states = [[State() for _ in windows] for _ in streams]
    values: list[list[dict[str, Floats]]] = [[{} for _ in windows] for _ in streams]
    left = {name: len(readers) for name, readers in graph.readers().items()}
    count = len(groups)
    for node in graph.nodes[:-1]:
        if isinstance(node.op, Linear) and node.inputs[0] in groups:
            _solve(groups.pop(node.inputs[0]), rule, share, damp, streams, values, made)
            tell(count - len(groups), count)
        for number, (stream, mine, some) in enumerate(zip(streams, values, states, strict=True)):
            for window, vs, state in zip(windows, mine, some, strict=True):
                inputs = [vs[name] for name in node.inputs]
                # The whole model has no thresholds, and no rule but duogpt knows of them.
                past = isinstance(node.op, Threshold) and (number == 0 or rule != "duogpt")
                vs[node.name] = inputs[0] if past else stream.node(node, inputs, window, state)
            if node.weight is not None:
                stream.weights.pop(node.weight, None)  # a matrix is kept in floats while it is needed
        for name in node.inputs:
            left[name] -= 1
            if not left[name]:
                for vs in (vs for mine in values for vs in mine):
                    del vs[name]
    return graph.replace(weights=made)


def _groups(graph: Graph) -> dict[str, list[Node]]:
    """The linear layers within layers, by the value that they read."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if type(node.op) is Linear and node.layer is not None:
            found.setdefault(node.inputs[0], []).append(node)
    return found


def _smallest(weight: Weight, share: float) -> Weight:
    w = weight.dequantize()
    gone = np.argsort(np.abs(w), axis=None, kind="stable")[: round(share * w.size)]
    w.reshape(-1)[gone] = 0
    return Weight(weight.name, F32, w)


def _solve(
    nodes: list[Node],
    rule: str,
    share: float,
    damp: float,
    streams: list[Evaluator],
    values: list[list[dict[str, Floats]]],
    made: dict[str, Weight],
) -> None:
    """Mask the matrices that read one value, and put them into the second stream."""
    target, x = (np.concatenate([vs[nodes[0].inputs[0]] for vs in mine]) for mine in values)
    if not (np.isfinite(x).all() and np.isfinite(target).all()):
        raise UsageError(f"the input of {nodes[0].name} is not finite on the calibration text")
    names = list(dict.fromkeys(n.weight or "" for n in nodes))
    gram = gram_of(x, target if rule == "duogpt" else x)
    for name in names:
        w = streams[0].weights[name]
        if rule == "wanda":
            score = np.abs(w) * np.sqrt(np.diag(gram.h)).astype(np.float32)
            gone = np.argsort(score, axis=1, kind="stable")[:, : round(share * w.shape[1])]
            w = w.copy()
            np.put_along_axis(w, gone, 0, axis=1)
            made[name] = Weight(name, F32, w)
        else:
            try:
                found = factor(gram, damp)
            except ValueError as why:
                raise UsageError(f"{name}: {why}; more --tokens help") from None
            goal = w.T.astype(np.float64)
            if rule == "duogpt":
                goal = np.ascontiguousarray(shifted(w.astype(np.float64), gram, found, [1.0])[0].T)
            grid = MaskGrid(w.shape[0], w.shape[1], share, found.upper)
            sweep(goal, grid, found.upper)
            made[name] = grid.weight(name, slice(None))
        streams[1].weights[name] = made[name].dequantize()
