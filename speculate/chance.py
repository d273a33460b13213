# SPDX-License-Identifier: Apache-2.0
"""Chance: draws that depend on a seed, a place in the text and a purpose alone, and the choice between draft and target that keeps the
target's distribution (speculative sampling: Leviathan et al. 2023, Chen et al. 2023).

A round that is played again draws the same, so a message that came twice and a server that began anew give the same text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from meadow.speculate.messages import Choice

DRAFT, ACCEPT, TARGET = range(3)
"""Purposes: which draft, whether it is accepted, what the target chooses itself."""
LIKELIEST = 32
"""Tokens of a draft's distribution, which is cut to them before it is drawn from: the rest has probability 0 on both sides."""
Probabilities = NDArray[np.float64]
Decide = Callable[[NDArray[np.float32], int], int]


def uniform(seed: int, place: int, purpose: int) -> float:
    """A number from 0 to 1, 1 left out, by 53 bits of a hash."""
    word = b"".join(n.to_bytes(8, "little") for n in (seed & (1 << 64) - 1, place, purpose))
    return int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little") / (1 << 11) / (1 << 53)


def drawn(p: Probabilities, u: float) -> int:
    """The index at which the cumulated `p`, of any sum above 0, passes the share `u`."""
    cumulated = np.cumsum(p)
    at = int(np.searchsorted(cumulated, u * cumulated[-1], side="right"))
    return min(at, int(np.flatnonzero(p)[-1]))


def choice_of(p: Probabilities) -> Choice:
    """The likeliest tokens of a draft's distribution [vocab], as they are drawn from and sent."""
    tokens = np.argsort(-p, kind="stable")[:LIKELIEST]
    halves = p[tokens].astype(np.float16)
    kept = halves > 0
    return Choice(tuple(int(n) for n in tokens[kept]), halves[kept].tobytes())


def spread(choice: Choice, vocab: int) -> Probabilities:
    """The distribution [vocab] that a choice was drawn from.  Raises ValueError for one that is none."""
    halves = np.frombuffer(choice.halves, np.float16).astype(np.float64)
    tokens = np.array(choice.tokens, np.int64)
    whole = len(tokens) == len(halves) > 0 and len(set(choice.tokens)) == len(tokens)
    if not whole or not np.isfinite(halves).all() or halves.min() <= 0 or not 0 <= tokens.min() <= tokens.max() < vocab:
        raise ValueError("a choice is no distribution over the vocabulary")
    p = np.zeros(vocab)
    p[tokens] = halves / halves.sum()
    return p


def draft(choice: Choice, vocab: int, seed: int, place: int) -> int:
    """The token at `place` of the text, drawn from a choice."""
    return drawn(spread(choice, vocab), uniform(seed, place, DRAFT))


def likeliest(rows: Sequence[NDArray[np.float32]], drafts: Sequence[int], ends: frozenset[int]) -> tuple[int, int]:
    """(drafts that are accepted, the token behind them): while each draft is the likeliest token.  An end token ends it.

    rows  logits after the text, after the first draft, ...: one more than there are drafts
    """
    for n, row in enumerate(rows):
        token = int(np.argmax(row))
        if n == len(drafts) or token != drafts[n] or token in ends:
            return n, token
    raise ValueError(f"{len(rows)} rows for {len(drafts)} drafts")


def sampled(
    rows: Sequence[Probabilities],
    drafts: Sequence[int],
    choices: Sequence[Choice],
    ends: frozenset[int],
    seed: int,
    place: int,
) -> tuple[int, int]:
    """The same by chance: a draft x is accepted with probability min(1, q(x) / p(x)), else the token comes from max(0, q - p).

    rows   the target's distributions q [vocab], one more than there are drafts
    place  of the first draft in the text
    """
    for n, q in enumerate(rows):
        if n == len(drafts):
            return n, drawn(q, uniform(seed, place + n, TARGET))
        p, x = spread(choices[n], len(q)), drafts[n]
        if p[x] == 0:
            raise ValueError(f"draft {x} has probability 0 in its own distribution")
        if uniform(seed, place + n, ACCEPT) * p[x] >= q[x]:
            rest = np.maximum(q - p, 0)
            return n, drawn(rest if rest.any() else q, uniform(seed, place + n, TARGET))
        if x in ends:
            return n, x
    raise ValueError(f"{len(rows)} rows for {len(drafts)} drafts")
