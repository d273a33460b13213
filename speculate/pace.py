# SPDX-License-Identifier: Apache-2.0
"""Pace: how many tokens to draft in a round, from what a round costs and how often drafts were right."""

from __future__ import annotations

from collections.abc import Callable, Hashable

FIRST = 0.7
"""Acceptance of a draft that nobody has tried."""
WEIGHT = 4.0
"""Tokens that FIRST counts for."""
KEPT = 0.97
"""What a round leaves of the weight of those before it."""


class Pace:
    """Chooses the number of drafts that makes most tokens per second.

    cost   seconds, or any other unit, of a round with n drafts
    most   drafts of a round
    """

    def __init__(self, cost: Callable[[int], float], most: int):
        self.cost, self.most = cost, most
        self._seen: dict[Hashable, tuple[float, float]] = {}

    def acceptance(self, kind: Hashable = None) -> float:
        """Estimated probability that a draft of this kind is right where all before it were."""
        right, tried = self._seen.get(kind, (0.0, 0.0))
        return (right + FIRST * WEIGHT) / (tried + WEIGHT)

    def tokens(self, drafts: int, kind: Hashable = None) -> float:
        """Expected tokens of a round: 1 + a + a^2 + ..., a the acceptance."""
        a = self.acceptance(kind)
        return sum(a**n for n in range(drafts + 1))

    def drafts(self, room: int, kind: Hashable = None) -> int:
        """How many to draft now, at most `room`; 0 where a draft does not pay."""
        return max(range(min(self.most, max(room, 0)) + 1), key=lambda n: self.tokens(n, kind) / self.cost(n))

    def saw(self, accepted: int, drafts: int, kind: Hashable = None) -> None:
        """What became of a round: drafts up to the first wrong one were tried.  A round without drafts only ages what was seen, so that
        after a while they are tried again."""
        tried = min(accepted + 1, drafts)
        right, before = self._seen.get(kind, (0.0, 0.0))
        self._seen[kind] = (KEPT * right + accepted, KEPT * before + tried)
