# SPDX-License-Identifier: Apache-2.0
"""What the linears of a graph see on the bundled calibration text."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph, Node

Floats = NDArray[np.float32]
CALIBRATION_TOKENS = 512


@dataclass
class Statistics:
    """What each linear saw on the calibration text, by node name: the largest magnitude and mean square per channel."""

    peak: dict[str, Floats] = field(default_factory=dict)
    power: dict[str, Floats] = field(default_factory=dict)
    tokens: int = 0

    def observe(self, node: Node, x: Floats) -> None:
        peak, power = np.abs(x).max(axis=0), np.mean(x.astype(np.float64) ** 2, axis=0).astype(np.float32)
        self.peak[node.name] = np.maximum(self.peak.get(node.name, peak), peak)
        self.power[node.name] = self.power.get(node.name, np.zeros_like(power)) + power


def calibration_text() -> str:
    """The bundled text."""
    return resources.files("meadow.compiler.quantize").joinpath("calibration.txt").read_text()


def calibrate(graph: Graph, tokenizer: bytes | None) -> Statistics | None:
    """Statistics of `graph` in float on the calibration text; None without a tokenizer.json that makes tokens of it."""
    if tokenizer is None:
        return None
    from tokenizers import Tokenizer

    limit = min(CALIBRATION_TOKENS, graph.model.context or CALIBRATION_TOKENS)
    ids = Tokenizer.from_str(tokenizer.decode()).encode(calibration_text()).ids
    tokens = np.array(ids[: 2 * CALIBRATION_TOKENS])
    if len(tokens) < 2 or tokens.max() >= graph.model.vocab:
        return None
    statistics = Statistics()
    evaluator = Evaluator(graph, quantized=False)
    for start in range(0, len(tokens) - 1, limit):
        window = tokens[start : start + limit]
        evaluator.run(window, State(), statistics.observe)
        statistics.tokens += len(window)
    return statistics
