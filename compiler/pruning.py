# SPDX-License-Identifier: Apache-2.0
"""prune: a model file in, an ONNX folder with fewer heads or channels out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph import calibration as calibration_record
from meadow.compiler.graph import sparsity
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Activation, Attention, Linear
from meadow.compiler.graph.pruning import KEY, records_of
from meadow.compiler.models import kept_metadata, save_folder
from meadow.compiler.prune.cut import attention_blocks, without_channels, without_heads
from meadow.compiler.prune.masks import RULES, masked
from meadow.compiler.prune.repair import Repaired, repair
from meadow.compiler.prune.scores import (
    SCORES,
    channel_scores,
    head_scores,
    lowest_channels,
    lowest_heads,
    lowest_kv_groups,
)
from meadow.compiler.quantize.calibrate import Calibration, calibration_windows
from meadow.compiler.quantize.solve import HELD, require_memory
from meadow.compiler.sources.source import companions_of, find_source, read_source
from meadow.compiler.sources.text import some_text
from meadow.machine.errors import UsageError
from meadow.machine.folder import refuse_target

Progress = Callable[[str], None]
Windows = list[NDArray[np.integer[Any]]]
MOST = 0.9
"""Of heads, KV heads or channels that may go."""
SCORED = 8
"""Windows of the calibration text that scores look at, at most."""
UNIT = 32
"""Channels that go or stay together: columns that the engines take at once, and the usual group of a scale."""


@dataclass(frozen=True)
class Wish:
    """Shares of all query heads, of all KV heads with their query heads, of all MLP channels, and of the single weights that are left."""

    heads: float = 0.0
    kv_groups: float = 0.0
    channels: float = 0.0
    score: str = "layer-energy"
    repair: bool = False
    weights: float = 0.0
    rule: str = "sparsegpt"

    def check(self) -> None:
        """Raise UsageError for what is not known or does nothing."""
        for name in ("heads", "kv_groups", "channels", "weights"):
            share = getattr(self, name)
            if not 0 <= share <= MOST:
                raise UsageError(f"--{name.replace('_', '-')} is {share:g}; a share from 0 to {MOST} can go")
        if not (self.heads or self.kv_groups or self.channels or self.weights):
            raise UsageError("nothing is to go: give --heads, --kv-groups, --channels or --weights a share such as 0.1")
        if self.rule not in RULES:
            raise UsageError(f"the rule {self.rule!r} is not known; {', '.join(RULES)} are")
        if self.score not in SCORES:
            raise UsageError(f"the score {self.score!r} is not known; {', '.join(SCORES)} are")


@dataclass(frozen=True)
class Pruned:
    """What was done to a graph: the query heads and the number of channels that went, by layer, and the matrices that were fitted."""

    graph: Graph
    heads: Mapping[int, list[int]]
    channels: Mapping[int, int]
    repaired: tuple[Repaired, ...] = ()


def prune(
    source: Path,
    target: Path,
    wish: Wish,
    calibration: Calibration | None = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Write `target`/ with what is left of the model `source`; returns a report.

    Raises UnsupportedModel for a graph that is not understood, UsageError for options and for what cannot be taken out.
    """
    wish.check()
    file = find_source(source)
    refuse_target(target, "model", (file,))
    progress("reading")
    graph, texts = read_source(file), companions_of(file)
    some = calibration or Calibration()
    windows = (
        calibration_windows(graph, texts.get("tokenizer.json"), some, some_text) if needs_text(wish) else Windows()
    )
    if windows:
        require_memory(graph, sum(len(w) for w in windows))
    made = prune_graph(graph, wish, windows, some.seed, progress)
    facts = {**asdict(wish), **(some.facts(windows) if windows else {"seed": some.seed})}
    layers = {str(layer): heads for layer, heads in made.heads.items()}
    record = {**facts, "heads_gone": layers, "channels_gone": {str(k): n for k, n in made.channels.items()}}
    told = report(graph, made, wish, target, record, windows)
    progress("writing")
    kept = {
        k: v
        for k, v in kept_metadata(graph).items()
        if k not in (STALE if wish.repair or wish.weights else (sparsity.KEY,))
    }
    save_folder(made.graph, target, file, texts, {**kept, KEY: json.dumps([*records_of(graph.metadata), record])})
    return told


STALE = ("meadow.weights", calibration_record.KEY, sparsity.KEY)
"""What a file says of its weights that is no longer true where they were changed."""


def needs_text(wish: Wish) -> bool:
    heads = (wish.heads or wish.kv_groups) and wish.score != "random"
    return bool(wish.repair or wish.channels or heads or (wish.weights and wish.rule != "magnitude"))


def prune_graph(graph: Graph, wish: Wish, windows: Windows, seed: int, progress: Progress) -> Pruned:
    """`graph` without what scores lowest, fitted again where that is wished."""

    def telling(what: str) -> Callable[[int, int], None]:
        return lambda done, count: progress(f"{what} {done}/{count}")

    made, scored = graph, windows[:SCORED]
    gone: dict[int, list[int]] = {}
    if wish.heads or wish.kv_groups:
        scores = head_scores(graph, wish.score, scored, seed, telling("scoring"))
        blocks = attention_blocks(graph)
        groups = round(wish.kv_groups * sum(b.op.kv_heads for b in blocks.values()))
        gone = lowest_kv_groups(graph, scores, groups) if groups else {}
        left = {
            layer: np.where(np.isin(np.arange(len(s)), gone.get(layer, [])), -np.inf, s) for layer, s in scores.items()
        }
        already = sum(len(some) for some in gone.values())
        wanted = round(wish.heads * sum(b.op.heads for b in blocks.values()))
        for option, asked, found, every in (
            ("--heads", wish.heads, wanted, sum(b.op.heads for b in blocks.values())),
            ("--kv-groups", wish.kv_groups, groups, sum(b.op.kv_heads for b in blocks.values())),
        ):
            if asked and not found:
                raise UsageError(f"{option} {asked:g} of {every} is none")
        if wanted:
            gone = lowest_heads(graph, left, already + wanted)
        made = without_heads(graph, gone)
    channels: dict[int, list[int]] = {}
    if wish.channels:
        channels = lowest_channels(channel_scores(graph, scored, telling("scoring")), wish.channels, UNIT)
        made = without_channels(made, channels)
    rows: list[Repaired] = []
    if wish.repair:
        held = max(1, min(HELD, len(windows) // 4))
        made, rows = repair(graph, made, windows, held, tell=telling("repairing"))
    if wish.weights:
        made = masked(made, wish.weights, wish.rule, windows, tell=telling("masking"))
    return Pruned(made, gone, {layer: len(some) for layer, some in channels.items()}, tuple(rows))


def report(
    graph: Graph, made: Pruned, wish: Wish, target: Path, record: dict[str, Any], windows: Windows
) -> dict[str, Any]:
    """What `prune` ends with."""
    sizes = [_sizes(one) for one in (graph, made.graph)]
    widened = sorted(
        name
        for name, weight in made.graph.weights.items()
        if graph.weights[name].elem.quantized and not weight.elem.quantized
    )
    notes = []
    if widened:
        notes.append(
            f"{len(widened)} matrices are float32 now, {widened[0]} among them, since groups were cut or weights were changed: quantize again"
        )
    if wish.repair and not any(r.share for r in made.repaired):
        notes.append("no fit did better on the text that was held out; every matrix is as it was cut")
    return {
        "folder": str(target),
        "score": wish.score,
        "rule": wish.rule if wish.weights else None,
        "zeros": _zeros(made.graph),
        "tokens": sum(len(w) for w in windows),
        "before": sizes[0],
        "after": sizes[1],
        "heads_gone": record["heads_gone"],
        "channels_gone": record["channels_gone"],
        "repaired": [row._asdict() for row in made.repaired],
        "notes": [*graph.notes, *notes],
    }


def _zeros(graph: Graph) -> float:
    """The share of the weights of the layers' linear matrices that are 0."""
    zeros = whole = 0
    for node in graph.nodes:
        if type(node.op) is Linear and node.layer is not None:
            w = graph.weight_of(node).dequantize()  # one at a time
            zeros, whole = zeros + w.size - int(np.count_nonzero(w)), whole + w.size
    return zeros / max(whole, 1)


def _sizes(graph: Graph) -> dict[str, int]:
    """Of any graph, whether it can be pruned or not."""
    attentions = [n.op for n in graph.nodes if isinstance(n.op, Attention)]
    widths = graph.widths()
    return {
        "heads": sum(op.heads for op in attentions),
        "kv_heads": sum(op.kv_heads for op in attentions),
        "channels": sum(widths[n.name] for n in graph.nodes if isinstance(n.op, Activation)),
        "weights": sum(w.size for w in graph.weights.values()),
        "bytes": sum(w.nbytes for w in graph.weights.values()),
    }
