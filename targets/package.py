# SPDX-License-Identifier: Apache-2.0
"""A package as a target: another board, emulated or real, verifies. Bit for bit what it would say alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meadow.runtime.session import Session
from meadow.runtime.text.tokenizer import Tokenizer
from meadow.targets.target import Ask, Early, Rows


class PackageTarget:
    """One session for all boards: what its cache holds of a text is not computed again."""

    exits: tuple[int, ...] = ()
    kept_bytes = 0
    tau = 1.0  # of no exits

    def __init__(self, package: Path, device: str = "emulator"):
        self.session = Session(package, device, progress=lambda done, total: None)
        model = self.session.package.model
        self.name = self.session.package.name
        self.vocab, self.layers, self.context = int(model["vocab"]), int(model["layers"]), self.session.context
        self.tokenizer: Tokenizer | None = self.session.tokenizer if self.session.has_tokenizer else None
        self.ends = self.tokenizer.end_tokens if self.tokenizer is not None else frozenset()

    def verify(self, asks: Sequence[Ask], early: Early | None = None) -> list[Rows]:
        """One after another: a package runs one text at a time."""
        return [self._one([*ask.text, *ask.drafts], ask.rows) for ask in asks]

    def _one(self, tokens: list[int], rows: int) -> Rows:
        first = len(tokens) - rows  # the last token of the text
        self.session.resume(tokens[: first + 1])  # up to that token at most: all logits behind it are wanted
        at = self.session.position
        if at < first:
            self.session.prefill(tokens[at:first])
        return np.asarray(self.session.prefill(tokens[first:], "all"))

    def close(self) -> None:
        self.session.close()
