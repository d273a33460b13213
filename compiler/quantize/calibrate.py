# SPDX-License-Identifier: Apache-2.0
"""What the linears of a graph see on the bundled calibration text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State
from meadow.compiler.graph.graph import Graph, Node
from meadow.machine.errors import UsageError

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


WINDOW = 512
"""Tokens of a window of calibration text, at most."""
CHARACTERS = 8
"""Of a token, at most on average: what is made tokens of is no longer than needed."""


@dataclass(frozen=True)
class Calibration:
    """Text for the solver: `text` is "wikipedia" (its train split) or a file; `tokens` of it, in windows that `seed` chooses."""

    text: str = "wikipedia"
    tokens: int = 12288
    seed: int = 0

    def facts(self, windows: list[NDArray[np.integer[Any]]]) -> dict[str, Any]:
        """For the metadata of what was calibrated: which text, and a digest of the tokens that were used."""
        digest = hashlib.sha256(b"".join(np.asarray(w, np.int64).tobytes() for w in windows)).hexdigest()
        name = self.text if self.text == "wikipedia" else Path(self.text).name
        return {"text": name, "seed": self.seed, "tokens_sha256": digest}


def calibration_windows(
    graph: Graph, tokenizer: bytes | None, calibration: Calibration, read: Callable[[str, int, int], str]
) -> list[NDArray[np.integer[Any]]]:
    """Token ids of each window.

    read  some of a text by its name, from places that a seed chooses, about so many characters
    Raises UsageError without a tokenizer, for a text that cannot be read or is too short.
    """
    if tokenizer is None:
        raise UsageError(
            "the solver calibrates on text, and there is no tokenizer.json beside the model; --method rtn needs none"
        )
    from tokenizers import Tokenizer

    length = min(WINDOW, graph.model.context or WINDOW)
    count = calibration.tokens // length
    if count < 2:
        raise UsageError(
            f"--tokens {calibration.tokens} are no two windows of {length}; {2 * length} or more are needed"
        )
    text = read(calibration.text, calibration.seed, count * length * CHARACTERS)
    ids = np.array(Tokenizer.from_str(tokenizer.decode()).encode(text, add_special_tokens=False).ids)
    if len(ids) < count * length:
        raise UsageError(
            f"the calibration text has {len(ids)} tokens and --tokens {calibration.tokens} are asked for; "
            f"give more text, or --tokens {len(ids) // length * length}"
        )
    if ids.max() >= graph.model.vocab:
        raise UsageError(f"the tokenizer makes token {ids.max()} of the text, and the model has {graph.model.vocab}")
    starts = np.random.default_rng(calibration.seed).permutation(len(ids) // length)[:count]
    return [ids[n * length : (n + 1) * length] for n in starts]


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
