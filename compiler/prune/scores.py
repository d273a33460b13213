# SPDX-License-Identifier: Apache-2.0
"""scores: how much each attention head, and each channel of an MLP, does to a model on calibration text.  The lowest go first.

For heads:
  layer-energy  the squares of what a head adds to the stream, as a share of its layer's sum over heads
  taylor        |d surprise / d mask|: what the surprise would change by, to first order, without the head (Michel et al., 2019)
  confidence    the mean over tokens of the largest probability of attention (Voita et al., 2019)
  random        a permutation that the seed chooses: the control
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.prune.cut import attention_blocks, mlps
from meadow.compiler.prune.gradient import gradients
from meadow.machine.errors import UsageError

SCORES = ("layer-energy", "taylor", "confidence", "random")
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Windows = Sequence[NDArray[np.integer[Any]]]
Tell = Callable[[int, int], None]


def head_scores(graph: Graph, score: str, windows: Windows, seed: int, tell: Tell) -> dict[int, Doubles]:
    """The score of each query head, [heads], by layer; tell(windows done, windows)."""
    blocks = attention_blocks(graph)
    if score == "random":
        random = np.random.default_rng(seed)
        return {layer: random.random(block.op.heads) for layer, block in blocks.items()}
    found = {layer: np.zeros(block.op.heads) for layer, block in blocks.items()}
    if score == "confidence":

        def attended(layer: int, head: int, p: Floats) -> None:
            found[layer][head] += float(p.max(axis=1).mean())

        _each(Evaluator(graph, quantized=False, attended=attended), windows, None, tell)
        return found
    evaluator = Evaluator(graph, quantized=False)
    if score == "taylor":
        for number, window in enumerate(windows):
            values, by = gradients(evaluator, window)
            for layer, block in blocks.items():
                name, shape = block.attend.name, (len(window), block.op.heads, -1)
                found[layer] += np.abs((values[name] * by[name]).reshape(shape).sum(axis=(0, 2), dtype=np.float64))
            tell(number + 1, len(windows))
        return found
    if score != "layer-energy":
        raise UsageError(f"the score {score!r} is not known; {', '.join(SCORES)} are")
    layers = {block.o.name: (layer, block.op) for layer, block in blocks.items()}

    def observe(node: Node, x: Floats) -> None:
        if node.name in layers:
            layer, op = layers[node.name]
            weight = evaluator.weights[node.weight or ""]
            for head in range(op.heads):
                some = slice(head * op.head_dim, (head + 1) * op.head_dim)
                found[layer][head] += float(np.square(x[:, some] @ weight[:, some].T).sum(dtype=np.float64))

    _each(evaluator, windows, observe, tell)
    return {layer: energy / (energy.sum() or 1.0) for layer, energy in found.items()}


def channel_scores(graph: Graph, windows: Windows, tell: Tell) -> dict[int, Doubles]:
    """The energy of each channel of a layer's MLP, as a share of the layer's sum, [channels]."""
    blocks, evaluator = mlps(graph), Evaluator(graph, quantized=False)
    if not blocks:
        raise UsageError("the model has no MLP whose channels could go")
    layers = {mlp.down.name: layer for layer, mlp in blocks.items()}
    found: dict[int, Doubles] = {}

    def observe(node: Node, x: Floats) -> None:
        if node.name in layers:
            power = np.square(x).sum(axis=0, dtype=np.float64)
            found[layers[node.name]] = found.get(layers[node.name], np.zeros_like(power)) + power

    _each(evaluator, windows, observe, tell)
    for layer, mlp in blocks.items():
        found[layer] *= np.square(evaluator.weights[mlp.down.weight or ""]).sum(axis=0, dtype=np.float64)
        found[layer] /= found[layer].sum() or 1.0
    return found


def _each(evaluator: Evaluator, windows: Windows, observe: Callable[[Node, Floats], None] | None, tell: Tell) -> None:
    """Run the graph on each window, but for its head."""
    for number, window in enumerate(windows):
        evaluator.follow(evaluator.graph.nodes[:-1], {}, window, State(), observe)
        tell(number + 1, len(windows))


# -- what goes ---------------------------------------------------------------------------------------------------------


def lowest_heads(graph: Graph, scores: Mapping[int, Doubles], count: int) -> dict[int, list[int]]:
    """The `count` query heads of lowest score; each layer keeps one.  Raises UsageError where so many do not exist."""
    return _lowest(scores, dict.fromkeys(scores, 1), count, "heads")


def lowest_kv_groups(graph: Graph, scores: Mapping[int, Doubles], count: int) -> dict[int, list[int]]:
    """All query heads of the `count` KV heads whose query heads have the lowest scores on average; each layer keeps one."""
    blocks = attention_blocks(graph)
    sizes = {layer: np.array(block.op.heads_of_kv) for layer, block in blocks.items()}
    sums = {
        layer: np.bincount(block.op.kv_of_heads, scores[layer], block.op.kv_heads) for layer, block in blocks.items()
    }
    chosen = _lowest({n: sums[n] / sizes[n] for n in sums}, dict.fromkeys(sums, 1), count, "KV heads")
    return {
        layer: [head for head, kv in enumerate(blocks[layer].op.kv_of_heads) if kv in gone]
        for layer, gone in chosen.items()
    }


def lowest_channels(scores: Mapping[int, Doubles], share: float, unit: int) -> dict[int, list[int]]:
    """The channels of lowest score, about `share` of all; each layer keeps a multiple of `unit` (or all, where it has no more)."""
    _finite(scores)
    ranked = sorted((float(s), n, layer) for layer, score in scores.items() for n, s in enumerate(np.sort(score)))
    lowest = Counter(layer for _, _, layer in ranked[: round(share * len(ranked))])
    found = {}
    for layer, score in scores.items():
        kept = min(len(score), max(1, round((len(score) - lowest[layer]) / unit)) * unit)
        found[layer] = sorted(np.argsort(score, kind="stable")[: len(score) - kept].tolist())
    found = {layer: gone for layer, gone in found.items() if gone}
    if not found:
        raise UsageError(
            f"--channels {share:g}: so few would go that each layer keeps a multiple of {unit} with all of them"
        )
    return found


def _finite(scores: Mapping[int, Doubles]) -> None:
    """Raise UsageError where something overflowed on the text."""
    for layer, score in scores.items():
        if not np.isfinite(score).all():
            raise UsageError(f"what layer {layer} computes is not finite on the calibration text; it cannot be scored")


def _lowest(scores: Mapping[int, Doubles], least: Mapping[int, int], count: int, what: str) -> dict[int, list[int]]:
    """`count` places of lowest score, by layer, of which each keeps `least`."""
    _finite({layer: score[score > -np.inf] for layer, score in scores.items()})  # what goes in any case is below all
    ranked = sorted((float(s), layer, place) for layer, score in scores.items() for place, s in enumerate(score))
    left = {layer: len(score) - least[layer] for layer, score in scores.items()}
    found: dict[int, list[int]] = {}
    for _, layer, place in ranked:
        if count and left[layer]:
            found.setdefault(layer, []).append(place)
            left[layer] -= 1
            count -= 1
    if count:
        raise UsageError(f"{count} more {what} are to go than there are, with one in each layer that stays")
    return {layer: sorted(places) for layer, places in sorted(found.items())}
