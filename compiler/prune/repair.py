# SPDX-License-Identifier: Apache-2.0
"""repair: matrices that read what was pruned are fitted anew, by least squares, so that they add to the stream what they added before.

Two streams go through the graphs side by side, the whole model's and the pruned one's, so that each matrix can make good what those
before it lost.  How far it goes towards the fit is chosen on windows that the fit does not see; not at all is among the choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Add, Linear
from meadow.compiler.quantize.solver import DAMP
from meadow.machine.errors import UsageError
from meadow.machine.types import F32, Weight

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the way to the fit."""


class Repaired(NamedTuple):
    """One matrix: the relative error of its outputs on held-out windows as it was cut, and now; and the share of the fit that it took."""

    name: str
    before: float
    after: float
    share: float


@dataclass
class _Stream:
    evaluator: Evaluator
    states: list[State]
    values: list[dict[str, Floats]]

    def follow(self, node: Node, windows: Sequence[NDArray[np.integer[Any]]]) -> None:
        for tokens, state, values in zip(windows, self.states, self.values, strict=True):
            values[node.name] = self.evaluator.node(node, [values[name] for name in node.inputs], tokens, state)


def repair(
    whole: Graph,
    pruned: Graph,
    windows: Sequence[NDArray[np.integer[Any]]],
    held: int,
    damp: float = DAMP,
    tell: Callable[[int, int], None] = lambda done, count: None,
) -> tuple[Graph, list[Repaired]]:
    """`pruned` with the matrices whose columns were cut fitted to the outputs of `whole`; both have the same nodes.

    held  windows at the end of which the share is chosen; the fit does not see them
    Raises UsageError where activations are not finite.
    """
    old = {n.name: n for n in whole.nodes}
    narrowed = [
        n
        for n in pruned.nodes
        if isinstance(n.op, Linear) and pruned.weight_of(n).cols != whole.weight_of(old[n.name]).cols
    ]
    weights, found = dict(pruned.weights), list[Repaired]()
    streams = [
        _Stream(Evaluator(graph, quantized=False), [State() for _ in windows], [{} for _ in windows])
        for graph in (whole, pruned)
    ]
    left = {name: len(readers) for name, readers in pruned.readers().items()}
    last = max((pruned.nodes.index(n) for n in narrowed), default=-1)
    for node in pruned.nodes[: last + 1]:
        streams[0].follow(old[node.name], windows)
        if node in narrowed:
            name = node.weight or ""
            made, row = _fitted(node, streams, len(windows) - held, damp)
            weights[name] = Weight(name, F32, made)
            streams[1].evaluator.weights[name] = made
            found.append(row)
            tell(len(found), len(narrowed))
        streams[1].follow(node, windows)
        if node.weight is not None:
            for stream in streams:  # a matrix is kept in floats while it is needed
                stream.evaluator.weights.pop(node.weight, None)
        for name in node.inputs:
            left[name] -= 1
            if not left[name]:
                for stream in streams:
                    for values in stream.values:
                        del values[name]
    return pruned.replace(weights=weights), found


def _fitted(node: Node, streams: Sequence[_Stream], border: int, damp: float) -> tuple[Floats, Repaired]:
    """The matrix of `node`, fitted on the windows before `border`, and how it does on the others."""
    assert isinstance(node.op, Linear)
    whole, pruned = streams
    source, factor = node.inputs[0], np.float32(node.op.factor)
    bias = 0 if node.op.bias is None else pruned.evaluator.graph.vectors[node.op.bias]
    sizes = [_sizes(whole.evaluator.graph, node, values) for values in whole.values]
    x = [values[source] / size for values, size in zip(pruned.values, sizes, strict=True)]
    y = [(v[node.name] - bias) / factor / size for v, size in zip(whole.values, sizes, strict=True)]
    if not all(np.isfinite(some).all() for some in (*x, *y)):
        raise UsageError(f"the input of {node.name} is not finite on the calibration text; --repair cannot be done")
    kept = pruned.evaluator.weights[node.op.weight]
    h, c = np.zeros((kept.shape[1],) * 2), np.zeros(kept.shape)
    for some, goal in zip(x[:border], y[:border], strict=True):
        h += some.T @ some
        c += (goal - some @ kept.T).T @ some
    h[np.diag_indices_from(h)] += damp * (float(np.diag(h).mean()) or 1.0)
    step = np.linalg.solve(h, c.T).T
    tried = [(kept + share * step).astype(np.float32) for share in SHARES]
    errors = [
        sum(float(np.square(b - a @ w.T).sum(dtype=np.float64)) for a, b in zip(x[border:], y[border:], strict=True))
        for w in tried
    ]
    best = int(np.argmin(errors))
    size = sum(float(np.square(b).sum(dtype=np.float64)) for b in y[border:]) or 1.0
    row = Repaired(node.name, (errors[0] / size) ** 0.5, (errors[best] / size) ** 0.5, SHARES[best])
    return tried[best], row


def _sizes(graph: Graph, node: Node, values: Mapping[str, Floats]) -> Floats:
    """How large the stream is that `node` adds to, token by token, [T, 1]: what it adds matters by its share of that, and a few tokens
    are a thousand times as large as the others."""
    adds = [reader for reader in graph.readers()[node.name] if isinstance(reader.op, Add)]
    # Of a parallel block the other term may be a sum that comes later: then what the matrix itself gives.
    stream = next((name for add in adds for name in add.inputs if name != node.name and name in values), node.name)
    size = np.sqrt(np.mean(np.square(values[stream]), axis=1, keepdims=True))
    return np.where(size == 0, np.float32(1), size)
