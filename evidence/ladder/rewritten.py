# SPDX-License-Identifier: Apache-2.0
"""Rung 0 of a package whose weights were rewritten: the user's own file beside the file that `quantize` wrote of it.

Their logits differ by what rounding costs, so perplexity is compared, and tokens where rung 0 is sure.  A reader or quantizer
that wrote another function shows here, and nowhere else: all other rungs begin with the rewritten file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.package.read import Package

Logits = NDArray[np.floating[Any]]
ROWS = 64
"""Rows of logits that are held in FP64 at a time."""
CLEAR_GAP = 1.0
"""Rung 0 is sure of a token whose lead over the next is this many standard deviations of its logits.  Rounding flipped none
above 0.8 on SmolLM2 (INT8 per tensor 0.55, INT4 in groups of 128 0.80: docs/decisions/0019-rung-0-is-the-users-file.md)."""
MOST = {8: (0.35, 1.2), 4: (0.6, 1.5)}
"""By bits of the weights: noise of the logits in their standard deviations, and ratio of perplexities, at most.  Two bits rounded to
nearest have no bound: they are shown and not judged."""


@dataclass(frozen=True)
class Rewriting:
    """How far the rewritten file is from the user's own, over all tokens of all prompts.

    bits        of the narrowest weights
    noise       root mean square of the logits' difference, mean removed, in standard deviations of rung 0's logits
    perplexity  of rung 0 and of the rewritten file on the same tokens
    sure        tokens of which rung 0 is sure
    flipped     of these, the tokens that the rewritten file chooses otherwise
    """

    bits: int
    noise: float
    perplexity: tuple[float, float]
    tokens: int
    sure: int
    flipped: int

    def problems(self) -> list[str]:
        """In sentences; empty when the difference is what rounding costs, or is not judged."""
        if self.bits not in MOST:
            return []
        noise, ratio = MOST[self.bits]
        found = []
        what = f"the {self.bits}-bit weights that were compiled"
        if not self.noise <= noise:
            found.append(
                f"{what} compute something else than the user's file: logits differ by {self.noise:.2f} standard deviations, "
                f"at most {noise} comes of rounding"
            )
        before, after = self.perplexity
        if not after <= ratio * before:
            found.append(
                f"{what}: perplexity {after:.3f}, and {before:.3f} of the user's file; at most {ratio} times comes of rounding"
            )
        if self.flipped:
            found.append(
                f"{what} choose another token at {self.flipped} of {self.sure} places where the user's file is sure"
            )
        return found

    def __str__(self) -> str:
        judged = "" if self.bits in MOST else "; 2 bits by rounding are not judged"
        return (
            f"rewritten weights ({self.bits} bits) against the user's file: noise {self.noise:.3f} standard deviations of the logits, "
            f"perplexity {self.perplexity[1]:.3f} / {self.perplexity[0]:.3f} = {self.perplexity[1] / self.perplexity[0]:.4f}, "
            f"{self.sure - self.flipped} of {self.sure} sure tokens the same (measured, {self.tokens} tokens{judged})"
        )


def narrowest(package: Package) -> int:
    """Bits of the narrowest weights of a package."""
    found = [int(m[1]) for row in package.packing() if (m := re.match(r"i(\d+)", row["type"]))]
    return min(found, default=8)


def surprise(logits: Logits, tokens: list[int]) -> float:
    """Sum of -ln p(next token): logits [T, vocab] at the first T of `tokens`, of which all but the first are predicted."""
    rows = logits[: len(tokens) - 1].astype(np.float64)
    peak = rows.max(axis=1)
    total = np.log(np.exp(rows - peak[:, None]).sum(axis=1)) + peak
    return float((total - rows[np.arange(len(rows)), tokens[1:]]).sum())


def compare(user: OnnxModel, rewritten: OnnxModel, sequences: list[list[int]], bits: int) -> Rewriting:
    """Both files on the same tokens: each prompt with the answer that follows it."""
    squares = variance = before = after = 0.0
    tokens = sure = flipped = scored = 0
    for sequence in sequences:
        ours, theirs = user.prefill(sequence), rewritten.prefill(sequence)
        for start in range(0, len(sequence), ROWS):
            a, b = (rows[start : start + ROWS].astype(np.float64) for rows in (ours, theirs))
            difference = (b - a) - (b - a).mean(axis=1, keepdims=True)
            spread = a.std(axis=1)
            squares, variance = squares + float((difference**2).mean(axis=1).sum()), variance + float((spread**2).sum())
            top = np.partition(a, -2, axis=1)[:, -2:]
            clear = top[:, 1] - top[:, 0] > CLEAR_GAP * spread
            sure += int(clear.sum())
            flipped += int((clear & (a.argmax(axis=1) != b.argmax(axis=1))).sum())
            following = sequence[start : start + ROWS + 1]
            before, after = before + surprise(a, following), after + surprise(b, following)
        tokens, scored = tokens + len(sequence), scored + len(sequence) - 1
    perplexity = float(np.exp(before / max(scored, 1))), float(np.exp(after / max(scored, 1)))
    return Rewriting(bits, (squares / max(variance, 1e-30)) ** 0.5, perplexity, tokens, sure, flipped)
