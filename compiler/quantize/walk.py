# SPDX-License-Identifier: Apache-2.0
"""The walk: a graph's matrices are rounded one after another, each for the inputs that it will have on the device.

Two streams go through the graph side by side, node by node: the float model, and the device, whose matrices are rounded already and whose
rows are rounded as the engines round them.  So each matrix can make good what those before it lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Attention, Embedding, Linear, Rotary
from meadow.compiler.quantize.grid import Grid
from meadow.compiler.quantize.kept import Kept
from meadow.compiler.quantize.solver import DAMP, Gram, asymmetry, factor, polish, shifted, sweep
from meadow.machine.arithmetic import int8 as ar
from meadow.machine.arithmetic.fp16 import half
from meadow.machine.errors import UsageError
from meadow.machine.types import Weight

Floats = NDArray[np.float32]
Tokens = NDArray[np.integer[Any]]
CHUNK = 512
"""Tokens whose products are summed in FP32, before they are added in FP64."""
ROWS = 8192
"""Rows of a matrix that are rounded together."""
BETAS = (0.25, 0.5, 0.75, 1.0)
"""What `beta` may become where it is chosen for each group; 0 is gptq."""
CLOSE = 1.03
"""The smallest beta is taken whose squared error is within this of the least: what is made good beyond is what the text happens to say."""


@dataclass(frozen=True)
class Method:
    """How matrices are rounded.

    name    "rtn", "gptq", "gptaq" or "shift" (solver.py)
    beta    of shift; None chooses it for each group of matrices by the error on windows that the solver did not see
    alpha   of gptaq
    damp    of H
    passes  of polishing after the sweep
    """

    name: str = "shift"
    beta: float | None = None
    alpha: float = 0.25
    damp: float = DAMP
    passes: int = 2


class Solved(NamedTuple):
    """What became of the matrices that share an input: relative errors of their outputs to nearest, and as rounded here."""

    names: tuple[str, ...]
    nearest: float
    error: float
    beta: float
    damp: float
    dead: int
    columns: int


@dataclass
class Stream:
    """One of the two: its values by node, all windows one behind the other, and a KV cache for each window."""

    evaluator: Evaluator
    states: list[State]
    values: dict[str, Floats] = field(default_factory=dict)


Grids = Callable[[Sequence[Weight]], Grid]
"""The grid of matrices that are stacked."""


@dataclass
class Walk:
    """A walk through `graph`.

    windows  token ids of each, the last `held` of them not seen by the solver
    wanted   grids of the matrices to be rounded: for those that share an input
    rounded  matrices that are rounded before, such as a table of embeddings
    formats  of the inputs on the device, by matrix: "int8" or "half"
    kept     where what was solved is kept until the end
    nearest  the matrices rounded to nearest, whose shapes and types those to be rounded get
    """

    graph: Graph
    windows: list[Tokens]
    held: int
    method: Method
    wanted: dict[str, Grids]
    rounded: dict[str, Weight]
    formats: dict[str, str]
    tell: Callable[[int, int, Solved | None], None] = lambda done, count, solved: None
    kept: Kept | None = None
    nearest: Mapping[str, Weight] = field(default_factory=dict)
    solved: list[Solved] = field(default_factory=list)

    def run(self) -> dict[str, Weight]:
        """The rounded matrices by name.  Raises UsageError where activations are not finite."""
        graph = self.graph
        self.made: dict[str, Weight] = dict(self.rounded)
        self.float, self.device = (
            Stream(Evaluator(graph, quantized), [State() for _ in self.windows]) for quantized in (False, True)
        )
        self.ends = np.cumsum([len(w) for w in self.windows])
        left = {name: len(readers) for name, readers in graph.readers().items()}
        kept = {n.op.keys_from for n in graph.nodes if isinstance(n.op, Attention)}
        groups = self._groups()
        count = len(groups)
        last = max((graph.nodes.index(node) for nodes in groups.values() for node in nodes), default=-1)
        for node in graph.nodes[: last + 1]:
            if isinstance(node.op, Linear) and node.inputs[0] in groups:
                self.tell(count - len(groups), count, None)
                self._solve(groups.pop(node.inputs[0]))
                self.tell(count - len(groups), count, self.solved[-1])
            for stream in (self.float, self.device):
                self._follow(stream, node)
            for name in node.inputs:
                left[name] -= 1
                if not left[name]:
                    for stream in (self.float, self.device):
                        del stream.values[name]
            if isinstance(node.op, Attention) and node.layer not in kept:
                for stream in (self.float, self.device):
                    for state in stream.states:
                        state.keys.pop(node.layer or 0, None)
                        state.values.pop(node.layer or 0, None)
        return self.made

    def _groups(self) -> dict[str, list[Node]]:
        """The linears to be rounded, by the value that they read."""
        found: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            if isinstance(node.op, Linear) and node.op.weight in self.wanted:
                found.setdefault(node.inputs[0], []).append(node)
        return found

    # -- the streams -----------------------------------------------------------------------------------------------

    def _follow(self, stream: Stream, node: Node) -> None:
        """Compute a node for all windows."""
        inputs = [stream.values[name] for name in node.inputs]
        if isinstance(node.op, Linear) and stream is self.device:
            stream.values[node.name] = self._device_linear(node.op, inputs[0])
        elif isinstance(node.op, (Attention, Rotary, Embedding)):
            starts = [0, *self.ends[:-1]]
            parts = [
                self._node(stream, node, [x[a:b] for x in inputs], window, state)
                for a, b, window, state in zip(starts, self.ends, self.windows, stream.states, strict=True)
            ]
            stream.values[node.name] = np.concatenate(parts)
        else:
            stream.values[node.name] = stream.evaluator.node(node, inputs, self.windows[0], stream.states[0])
            if isinstance(node.op, Linear):
                stream.evaluator.weights.pop(node.op.weight, None)

    def _node(self, stream: Stream, node: Node, inputs: list[Floats], window: Tokens, state: State) -> Floats:
        if isinstance(node.op, Embedding) and stream is self.device and node.op.weight in self.made:
            x = self.made[node.op.weight].take(np.asarray(window))
            x = x if node.op.factor == 1 else x * np.float32(node.op.factor)
            table = self.graph.weights[node.op.positions] if node.op.positions is not None else None
            places = np.arange(len(window)) + node.op.shift
            return x if table is None else x + table.take(places)
        return stream.evaluator.node(node, inputs, window, state)

    def _device_linear(self, op: Linear, x: Floats) -> Floats:
        weight = self.made.get(op.weight) or self.graph.weights[op.weight]
        y = self._taken(op.weight, x) @ weight.dequantize().T
        y = y if op.factor == 1 else y * np.float32(op.factor)
        return y if op.bias is None else y + self.graph.vectors[op.bias]

    def _taken(self, weight: str, x: Floats) -> Floats:
        """Rows as the engine of a matrix takes them, with the functions by which it does."""
        if self.formats[weight] == "half":
            return half(x).astype(np.float32)
        codes, scale = ar.quantize_rows(x)
        return codes.astype(np.float32) * scale[:, None]

    # -- the solver ------------------------------------------------------------------------------------------------

    def _solve(self, nodes: list[Node]) -> None:
        """Round the matrices that read one value."""
        names = list(dict.fromkeys(node.op.weight for node in nodes))  # type: ignore[attr-defined]
        source = nodes[0].inputs[0]
        x, target = self._taken(names[0], self.device.values[source]), self.float.values[source]
        if not (np.isfinite(x).all() and np.isfinite(target).all()):
            raise UsageError(
                f"the input of {nodes[0].name} is not finite on the calibration text; --method rtn rounds without it"
            )
        border = int(self.ends[-1 - self.held]) if self.held else len(x)
        gram = gram_of(x[:border], target[:border])
        # A few tokens are a thousand times as large as the others, so what is held out is judged token by token.
        first = border if self.held else 0
        size = np.sqrt(np.mean(np.square(target[first:]), axis=1, keepdims=True))
        judged = target[first:] / np.where(size == 0, 1, size)
        held = gram_of(x[first:] / np.where(size == 0, 1, size), judged)
        weights = [self.graph.weights[name] for name in names]
        number = len(self.solved)
        before = self.kept and self.kept.load(number, names, [self.nearest[name] for name in names])
        if before:
            self.made |= dict(zip(names, before[0], strict=True))
            self.solved.append(Solved(tuple(names), *before[1]))
            return
        fitted = [self._fitted(some, self.wanted[names[0]], gram, held, judged) for some in _pieces(weights)]
        for name in names:
            self.made[name] = joined(name, [w for one in fitted for w in one.weights if w.name == name])
        whole = sum(f.whole for f in fitted) or 1e-30
        nearest, error = (
            max(sum(v) / whole, 0) ** 0.5 for v in zip(*((f.nearest, f.error) for f in fitted), strict=True)
        )
        done = Solved(tuple(names), nearest, error, fitted[-1].beta, fitted[-1].damp, int(gram.dead.sum()), len(gram.h))
        self.solved.append(done)
        if self.kept:
            self.kept.save(number, [self.made[name] for name in names], done[1:])

    def _fitted(self, weights: Sequence[Weight], grids: Grids, gram: Gram, held: Gram, judged: Floats) -> Fitted:
        """Matrices on their grid, and how far their outputs are off on what the solver did not see."""
        method, w = self.method, _stacked(weights)
        whole = float(np.square(judged @ w.astype(np.float32)).sum(dtype=np.float64))
        grid = grids(weights)
        near = float(held.error(sweep(w.copy(), grid, None).T, w.T).sum()) + whole
        if method.name == "rtn":
            return Fitted(_parts(grid, weights), whole, near, near, 0.0, 0.0)
        try:
            found = factor(gram, method.damp)
        except ValueError as why:
            raise UsageError(f"{weights[0].name}: {why}; more --tokens or a larger --damp help") from None
        p = asymmetry(gram, found, method.alpha) if method.name == "gptaq" else None
        betas = (0.0,) if method.name != "shift" else BETAS if method.beta is None else (method.beta,)
        tried: list[Fitted] = []
        for beta, target in zip(betas, shifted(w.T, gram, found, betas), strict=True):
            grid, goal = grids(weights), np.ascontiguousarray(target.T)
            q = sweep(goal.copy(), grid, found.upper, p)
            if method.passes:
                q = polish(q, goal, grid, found.h, method.passes)
            error = float(held.error(q.T, w.T).sum()) + whole
            tried.append(Fitted(_parts(grid, weights), whole, near, error, beta, found.damp))
        least = min(f.error for f in tried)
        return next(f for f in tried if f.error <= least * CLOSE)


class Fitted(NamedTuple):
    """Rounded matrices; the squares of the float model's outputs, and of what nearest and these are off; and with what."""

    weights: list[Weight]
    whole: float
    nearest: float
    error: float
    beta: float
    damp: float


def _pieces(weights: list[Weight]) -> list[list[Weight]]:
    """What is rounded together: all that share an input, or some rows of a large one."""
    if sum(w.rows for w in weights) <= ROWS:
        return [weights]
    return [[w.only(slice(n, min(n + ROWS, w.rows)), w.name)] for w in weights for n in range(0, w.rows, ROWS)]


def joined(name: str, parts: list[Weight]) -> Weight:
    """A matrix of its rows."""
    if len(parts) == 1:
        return parts[0]
    scale, minimum = (
        None if getattr(parts[0], key) is None else np.concatenate([getattr(p, key) for p in parts])
        for key in ("scale", "minimum")
    )
    return Weight(name, parts[0].elem, np.concatenate([p.codes for p in parts]), scale, minimum)


def _stacked(weights: Iterable[Weight]) -> NDArray[np.float64]:
    """Matrices one behind the other, [K, N]."""
    return np.ascontiguousarray(np.concatenate([w.dequantize() for w in weights]).T, np.float64)


def _parts(grid: Grid, weights: Sequence[Weight]) -> list[Weight]:
    """What a grid holds of each matrix."""
    ends = np.cumsum([w.rows for w in weights])
    return [grid.weight(w.name, slice(int(end) - w.rows, int(end))) for w, end in zip(weights, ends, strict=True)]


def gram_of(x: Floats, target: Floats) -> Gram:
    """H and C of inputs [tokens, K] on the device and in the float model."""
    cols = x.shape[1]
    h, c = np.zeros((cols, cols)), np.zeros((cols, cols))
    for start in range(0, len(x), CHUNK):
        some = x[start : start + CHUNK]
        h += some.T @ some
        c += (target[start : start + CHUNK] - some).T @ some
    return Gram(h, c)
