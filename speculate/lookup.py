# SPDX-License-Identifier: Apache-2.0
"""Lookup: drafts without a model. What followed the last n tokens where they stood before is proposed again (prompt look-up decoding)."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 4
"""Tokens of the n-grams that are looked for first."""
SHORTEST = 2
"""Below, a match says little: single tokens stand everywhere."""


class Lookup:
    """Every n-gram of a text, and where it ended last.

    longest, shortest  n of the n-grams, the longest that is found counts
    """

    def __init__(self, longest: int = LONGEST, shortest: int = SHORTEST):
        self.longest, self.shortest = longest, shortest
        self.text: list[int] = []
        self._ended: dict[tuple[int, ...], int] = {}
        self.matched = 0
        """n of the last match; 0: nothing was found."""

    def see(self, tokens: Sequence[int]) -> None:
        """More of the text."""
        for token in tokens:
            # The n-grams that end at the last token are entered once something follows: a match has a next token then.
            end = len(self.text)
            for n in range(self.shortest, self.longest + 1):
                if n <= end:
                    self._ended[tuple(self.text[end - n :])] = end
            self.text.append(token)

    def draft(self, most: int) -> list[int]:
        """At most `most` tokens that may come next."""
        size = len(self.text)
        for n in range(min(self.longest, size), self.shortest - 1, -1):
            end = self._ended.get(tuple(self.text[size - n :]))
            if end is not None:
                self.matched = n
                return self._following(end, most)
        self.matched = 0
        return []

    def _following(self, start: int, most: int) -> list[int]:
        """What stands from `start` on; where the text ends before `most` tokens, it goes on as if it repeated itself."""
        period = len(self.text) - start
        return [self.text[start + n % period] for n in range(most)]
