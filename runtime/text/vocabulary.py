# SPDX-License-Identifier: Apache-2.0
"""Vocabulary: which text each token id stands for, so that two models can tell whether they speak of the same tokens."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from meadow.machine.errors import UsageError
from meadow.runtime.text.tokenizer import Tokenizer

CHECK_BYTES = 2


@dataclass(frozen=True)
class Vocabulary:
    """The words of ids 0, 1, ...; None where an id has none.  Models without a tokenizer have nothing but ids."""

    words: tuple[str | None, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer | None, size: int) -> Vocabulary:
        """Of a model with `size` ids."""
        if tokenizer is None:
            return cls((None,) * size)
        return cls(tuple(tokenizer.library.id_to_token(n) for n in range(size)))

    @cached_property
    def checks(self) -> bytes:
        """Two bytes for each id, by which the first different one is found (a CRC: 1 in 65,536 differences is missed)."""
        return b"".join((zlib.crc32(repr(w).encode()) & 0xFFFF).to_bytes(CHECK_BYTES, "little") for w in self.words)

    @cached_property
    def digest(self) -> bytes:
        """Eight bytes that stand for all words."""
        return sha256(repr(self.words).encode()).digest()[:8]

    def first_difference(self, checks: bytes) -> int | None:
        """The first id whose word is another in a vocabulary with these checks, or that only one of them has."""
        if checks == self.checks:
            return None
        pairs = range(0, min(len(checks), len(self.checks)), CHECK_BYTES)
        differs = (n for n in pairs if checks[n : n + CHECK_BYTES] != self.checks[n : n + CHECK_BYTES])
        return next(differs, min(len(checks), len(self.checks))) // CHECK_BYTES


def difference(here: Vocabulary, there: Vocabulary) -> tuple[int, str | None, str | None] | None:
    """(id, its word here, its word there) of the first id that differs; None where all are the same."""
    found = here.first_difference(there.checks)
    return None if found is None else (found, word(here.words, found), word(there.words, found))


def require_same(here: Vocabulary, there: Vocabulary, mine: str, theirs: str) -> None:
    """Raise UsageError, with the first token that differs, where two models, `mine` and `theirs`, speak of different tokens."""
    found = difference(here, there)
    if found is not None:
        number, a, b = found
        raise UsageError(f"token {number} is {b!r} in {theirs} and {a!r} in {mine}; a draft needs the same tokenizer")


def word(words: Sequence[str | None], number: int) -> str | None:
    """The word of an id; None where there is none."""
    return words[number] if number < len(words) else None
