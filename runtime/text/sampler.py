# SPDX-License-Identifier: Apache-2.0
"""How the next token is chosen from a row of logits, and how likely it was."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meadow.machine.errors import UsageError

Logits = NDArray[np.float32]
LAST = 64
"""Tokens, prompt and answer, that a repeat penalty looks back on."""
GREEDY = 1e-6
"""A temperature below counts as 0."""


@dataclass(frozen=True)
class Sampling:
    """Settings of a choice.

    temperature     0: always the likeliest token
    top_k           only so many of the likeliest; 0: all
    top_p           only the likeliest that together have this probability
    min_p           only tokens at least this likely, as a share of the likeliest
    repeat_penalty  logits of the last 64 tokens are divided by it where positive, else multiplied; 1: none
    seed            of the choice by chance
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    seed: int = 0

    @property
    def takes_likeliest(self) -> bool:
        """Whether the token of the largest logit is chosen always."""
        return self.temperature < GREEDY and self.repeat_penalty == 1.0

    def check(self) -> None:
        """Raise UsageError with every setting that is out of range."""
        numbers = (self.temperature, self.top_p, self.min_p, self.repeat_penalty)
        kinds = [(name, getattr(self, name)) for name in ("top_k", "seed")]
        odd = [f"{name} is {value!r}; a whole number is expected" for name, value in kinds if type(value) is not int]
        real = zip(("temperature", "top_p", "min_p", "repeat_penalty"), numbers, strict=True)
        odd += [f"{n} is {v!r}; a number is expected" for n, v in real if not isinstance(v, (int, float))]
        if odd:
            raise UsageError("; ".join(odd))
        allowed = (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repeat_penalty", 0.01 <= self.repeat_penalty <= 100, "from 0.01 to 100"),
            ("seed", self.seed >= 0, "0 or more"),
        )
        wrong = [f"{name} is {getattr(self, name)}; it is {what}" for name, right, what in allowed if not right]
        if not wrong and not all(map(math.isfinite, numbers)):
            wrong = ["temperature, top_p, min_p and repeat_penalty are finite numbers"]
        if wrong:
            raise UsageError("; ".join(wrong))


class Sampler:
    """Chooses tokens one after another.  Two of the same settings that saw the same choose the same."""

    def __init__(self, sampling: Sampling):
        sampling.check()
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._last: deque[int] = deque(maxlen=LAST)

    def see(self, tokens: Iterable[int]) -> None:
        """Tokens of the prompt, for the repeat penalty."""
        self._last.extend(tokens)

    def __call__(self, logits: Logits) -> int:
        """The next token."""
        token = self._choose(self._penalized(logits))
        self._last.append(token)
        return token

    def _penalized(self, logits: Logits) -> Logits:
        by = self.sampling.repeat_penalty
        if by == 1.0 or not self._last:
            return logits
        changed, seen = logits.copy(), np.unique(np.array(self._last))
        changed[seen] = np.where(changed[seen] > 0, changed[seen] / by, changed[seen] * by)
        return changed

    def _choose(self, logits: Logits) -> int:
        if self.sampling.temperature < GREEDY:
            return int(np.argmax(logits))
        tokens, p = _likely(logits, self.sampling)
        return int(self._random.choice(tokens, p=p))


def _likely(logits: Logits, s: Sampling) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The tokens that may be chosen, the likeliest first, and how likely each is."""
    order = np.argsort(-logits)[: s.top_k or None]
    p = np.exp((logits[order] - logits[order[0]]).astype(np.float64) / s.temperature)
    p /= p.sum()
    keep = (np.cumsum(p) - p < s.top_p) & (p >= s.min_p * p[0])
    return order[keep], p[keep] / p[keep].sum()


def probabilities(logits: Logits, sampling: Sampling) -> NDArray[np.float64]:
    """What a token is chosen from by chance, over the whole vocabulary.  Raises ValueError for logits that are no numbers."""
    if not np.isfinite(logits.max()):
        raise ValueError("the logits are not finite")
    found = np.zeros(logits.size)
    tokens, p = _likely(logits, sampling)
    found[tokens] = p
    return found


def sampler(
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    min_p: float = 0.0,
    repeat_penalty: float = 1.0,
) -> Sampler:
    """How the next token is chosen: greedily at temperature 0, else by chance from a seeded generator.

    Raises UsageError for settings out of range.
    """
    return Sampler(Sampling(temperature, top_k, top_p, min_p, repeat_penalty, seed))


def logprobs(logits: Logits) -> NDArray[np.float64]:
    """The natural logarithm of each token's probability, at temperature 1: of a row of logits [vocab], or of each of several."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found
