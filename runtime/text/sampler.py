# SPDX-License-Identifier: Apache-2.0
"""How the next token is chosen from a row of logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from meadow.machine.errors import UsageError

Logits = NDArray[np.float32]


def sampler(temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> Callable[[Logits], int]:
    """How the next token is chosen: greedily at temperature 0, else by chance from a seeded generator.

    Raises UsageError for settings out of range.
    """
    if not 0 <= temperature < float("inf") or not 0 < top_p <= 1 or top_k < 0 or seed < 0:
        raise UsageError(
            f"temperature {temperature}, top_k {top_k}, top_p {top_p}, seed {seed}; temperature, top_k and seed are 0 or more, top_p is "
            "above 0 and at most 1"
        )
    if temperature < 1e-6:
        return lambda logits: int(np.argmax(logits))
    random = np.random.default_rng(seed)

    def choose(logits: Logits) -> int:
        order = np.argsort(-logits)[: top_k or None]
        p = np.exp((logits[order] - logits[order[0]]).astype(np.float64) / temperature)
        p /= p.sum()
        keep = np.cumsum(p) - p < top_p
        p = p[keep] / p[keep].sum()
        return int(random.choice(order[keep], p=p))

    return choose
