# SPDX-License-Identifier: Apache-2.0
"""Exits: what a model would say if it ended after some of its layers, by a map that a ridge regression fits in closed form.

The state behind a layer, divided by its root mean square, is mapped to the last layer's (M = (Z'Z + aI)^-1 Z'Y), and goes through the
model's own norm and head.  Nothing of the model is trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph
from meadow.machine.errors import UsageError
from meadow.machine.folder import replace_file

Floats = NDArray[np.float32]
Windows = Sequence[NDArray[np.integer[Any]]]
TAU = 0.6
"""An exit tells where the likeliest token has this probability at least."""
RIDGE = 1e-2
"""Of the mean diagonal of Z'Z."""
MOST_BYTES = 1 << 30
"""Of a file of maps."""


@dataclass(frozen=True)
class Exits:
    """Maps by layer, float32 [dim, dim].

    rows  by layer: agreement, coverage and precision on held-out windows
    tau   how sure an exit was of those that count as covered; it tells as sure as this where nobody says otherwise
    """

    maps: dict[int, Floats]
    rows: tuple[dict[str, Any], ...] = ()
    tau: float = TAU

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.maps))

    def mapped(self, layer: int, x: Floats) -> Floats:
        """The state behind `layer` [T, dim] as that behind the last layer."""
        return np.concatenate([normed(x[n : n + 1]) @ self.maps[layer] for n in range(len(x))])

    def only(self, layers: Sequence[int]) -> Exits:
        """Some of them.  Raises UsageError for one that was not fitted."""
        missing = [n for n in layers if n not in self.maps]
        if missing:
            raise UsageError(
                f"--exits {','.join(map(str, layers))}: no map was fitted after layer {missing[0]}; "
                f"{', '.join(map(str, self.layers))} were (meadowc exits fit MODEL --layers ...)"
            )
        return replace(self, maps={n: self.maps[n] for n in layers})


def ends_of_layers(graph: Graph) -> dict[int, int]:
    """The place among the nodes of the last one of the first 1, 2, ... layers."""
    return {
        layer + 1: max(i for i, n in enumerate(graph.nodes) if n.layer == layer) for layer in range(graph.model.layers)
    }


def normed(x: Floats) -> Floats:
    """Rows of a root mean square of 1."""
    found: Floats = x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(1e-12))
    return found


def usual_layers(layers: int) -> tuple[int, ...]:
    """Where exits are fitted where nobody says: at half, 60, 70, 80 and 90 % of the layers."""
    return tuple(sorted({max(1, min(layers - 1, round(layers * share))) for share in (0.5, 0.6, 0.7, 0.8, 0.9)}))


def fit(
    graph: Graph,
    windows: Windows,
    held: Windows,
    layers: Sequence[int],
    progress: Callable[[str], None] = lambda what: None,
) -> Exits:
    """Maps after `layers` from the states on `windows`, judged on those `held` out.  Raises UsageError for layers that are none."""
    wrong = [n for n in layers if not 1 <= n < graph.model.layers]
    if wrong:
        raise UsageError(f"an exit after layer {wrong[0]}; 1 to {graph.model.layers - 1} are possible")
    dim = graph.model.dim
    evaluator = Evaluator(graph, quantized=graph.model.activations == "int8")
    gram = {n: np.zeros((dim, dim)) for n in layers}
    cross = {n: np.zeros((dim, dim)) for n in layers}
    for number, window in enumerate(windows):
        progress(f"states, window {number + 1} of {len(windows)}")
        states, _ = states_of(evaluator, window, (*layers, graph.model.layers))
        last = normed(states[graph.model.layers]).astype(np.float64)
        for n in layers:
            z = normed(states[n]).astype(np.float64)
            gram[n] += z.T @ z
            cross[n] += z.T @ last
    maps = {}
    for n in layers:
        ridge = RIDGE * np.trace(gram[n]) / dim * np.eye(dim)
        maps[n] = np.linalg.solve(gram[n] + ridge, cross[n]).astype(np.float16).astype(np.float32)
    found = Exits(maps)
    return replace(found, rows=tuple(judged(graph, evaluator, found, held, progress)))


def states_of(
    evaluator: Evaluator, window: NDArray[np.integer[Any]], layers: Sequence[int]
) -> tuple[dict[int, Floats], Floats]:
    """The residual stream [T, dim] behind each of the layers, and the logits."""
    graph, state = evaluator.graph, State()
    ends = ends_of_layers(graph)
    last = {ends[layer]: layer for layer in layers}
    values: dict[str, Floats] = {}
    found: dict[int, Floats] = {}
    for at, node in enumerate(graph.nodes):
        values[node.name] = evaluator.node(node, [values[name] for name in node.inputs], window, state)
        if at in last:
            found[last[at]] = values[node.name]
    return found, values[graph.nodes[-1].name]


def tail_of(evaluator: Evaluator, x: Floats) -> Floats:
    """Logits of what stands behind the last layer [T, dim]."""
    graph = evaluator.graph
    end = ends_of_layers(graph)[graph.model.layers]
    values = {graph.nodes[end].name: x}
    return evaluator.follow(graph.nodes[end + 1 :], values, np.zeros(len(x), np.int64), State())


def judged(
    graph: Graph, evaluator: Evaluator, exits: Exits, held: Windows, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """How often each exit is right: agreement over all places; coverage and precision where it is sure."""
    right, sure, sure_right = (dict.fromkeys(exits.layers, 0) for _ in range(3))
    places = 0
    for number, window in enumerate(held):
        progress(f"judging, window {number + 1} of {len(held)}")
        states, logits = states_of(evaluator, window, exits.layers)
        final = logits.argmax(axis=-1)
        places += len(window)
        for n in exits.layers:
            rows = tail_of(evaluator, exits.mapped(n, states[n]))
            agree, confident = rows.argmax(axis=-1) == final, confidence(rows) >= exits.tau
            right[n] += int(agree.sum())
            sure[n] += int(confident.sum())
            sure_right[n] += int((agree & confident).sum())
    return [
        {
            "layer": n,
            "of": graph.model.layers,
            "agreement": right[n] / places if places else 0.0,
            "coverage": sure[n] / places if places else 0.0,
            "precision": sure_right[n] / sure[n] if sure[n] else 0.0,
        }
        for n in exits.layers
    ]


def confidence(rows: Floats) -> NDArray[np.float64]:
    """The probability of each row's likeliest token."""
    shifted = rows.astype(np.float64) - rows.max(axis=-1, keepdims=True)
    found: NDArray[np.float64] = 1 / np.exp(shifted).sum(axis=-1)
    return found


def model_digest(graph: Graph) -> str:
    """What says that maps are of this model: a digest of its shape, and of some codes of eight of its matrices."""
    digest = sha256(str(graph.model).encode())
    for name in sorted(graph.weights)[:: max(1, len(graph.weights) // 8)]:
        weight = graph.weights[name]
        digest.update(name.encode() + np.ascontiguousarray(weight.some_codes(slice(0, 8))).tobytes())
    return digest.hexdigest()[:32]


def save_exits(exits: Exits, graph: Graph, path: Path) -> None:
    """As a safetensors file, whole or not at all."""
    from safetensors.numpy import save

    facts = {
        "meadow.model": model_digest(graph),
        "meadow.rows": json.dumps(list(exits.rows)),
        "meadow.tau": str(exits.tau),
    }
    tensors = {f"layer.{n}": m.astype(np.float16) for n, m in exits.maps.items()}
    replace_file(path, save(tensors, facts))


def load_exits(path: Path, graph: Graph) -> Exits:
    """Raises UsageError for a file that is none, or of another model."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UsageError(f"{path} is not there; meadowc exits fit MODEL makes it")
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"{path} has {path.stat().st_size} bytes; a file of maps has at most {MOST_BYTES}")
    dim, layers = graph.model.dim, graph.model.layers
    try:
        with safe_open(str(path), "np") as file:
            facts = file.metadata() or {}
            names = list(file.keys())
            maps = {int(name.removeprefix("layer.")): file.get_tensor(name).astype(np.float32) for name in names}
            rows, tau = json.loads(facts.get("meadow.rows", "[]")), float(facts.get("meadow.tau", "nan"))
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as wrong:
        raise UsageError(f"{path} is no file of meadowc exits fit: {str(wrong)[:100]}") from None
    if facts.get("meadow.model") != model_digest(graph):
        raise UsageError(f"{path} was fitted for another model; run meadowc exits fit again")
    whole = all(m.shape == (dim, dim) and 0 < n < layers and np.isfinite(m).all() for n, m in maps.items())
    told = isinstance(rows, list) and all(isinstance(r, dict) and {"layer", "precision"} <= set(r) for r in rows)
    if not maps or not whole or not told or not 0 < tau <= 1:
        raise UsageError(f"{path} is damaged: maps of {dim} x {dim} after layers 1 to {layers - 1} are expected")
    return Exits(maps, tuple(rows), tau)
