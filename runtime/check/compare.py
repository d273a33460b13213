# SPDX-License-Identifier: Apache-2.0
"""compare: a device beside the emulator, layer by layer, to see where they part.

Runs the prefill program in pieces that end where a layer ends; what is in between is in memory and can be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from meadow.machine.errors import UsageError
from meadow.machine.isa import INSTRUCTION_BYTES
from meadow.runtime.display import Shown

if TYPE_CHECKING:
    from meadow.runtime.session import Session

TOKENS = (1, 8, 15, 22, 29)


@dataclass(frozen=True)
class Difference:
    """The residual stream [tokens, dim] after a layer, on a device and on the emulator.

    first  (token, element) of the first that differs, or None
    """

    layer: int
    equal: bool
    max_abs: float
    cosine: float
    first: tuple[int, int] | None

    def __str__(self) -> str:
        if self.equal:
            return f"layer {self.layer}: same bits"
        return (
            f"layer {self.layer}: differs from {self.first} on, by {self.max_abs:g} at most, cosine {self.cosine:.6f}"
        )


def compare(
    session: Session, healthy: Session, tokens: list[int] | None = None, layers: int | None = None
) -> Shown[Difference]:
    """One row per layer, up to `layers` of them (all for None), beside `healthy`, a Session on the emulator.

    The session is reset before and after.

    Raises UsageError for more tokens than a block holds.
    """
    vocab = int(session.package.model["vocab"])
    prompt = [t % vocab for t in TOKENS] if tokens is None else tokens
    if not all(isinstance(t, int) and 0 <= t < vocab for t in prompt):
        raise UsageError(f"tokens are {prompt!r}; a list of numbers below {vocab} is possible")
    if layers is not None and layers < 1:
        raise UsageError(f"layers is {layers}; 1 or more, or None for all")
    if not 1 <= len(prompt) <= session.package.design.block:
        raise UsageError(f"{len(prompt)} tokens; 1 to {session.package.design.block} are one block")
    borders = [0, *session.package.layer_ends("prefill")][: None if layers is None else layers + 1]
    found = []
    session.reset()
    for layer, (begin, end) in enumerate(pairwise(borders)):
        rows = [_piece(each, begin, end, prompt, first=layer == 0) for each in (session, healthy)]
        found.append(_difference(layer, *rows))
    session.reset()
    return Shown(found, ("layer", "", "seen"), lambda d: (str(d.layer), "ok" if d.equal else "FAILED", str(d)))


def _piece(session: Session, begin: int, end: int, tokens: list[int], first: bool) -> NDArray[np.float32]:
    """The residual stream [tokens, dim] after the steps from `begin` up to `end`."""
    package = session.package
    code = np.frombuffer(package.program("prefill"), np.uint8)[begin * INSTRUCTION_BYTES : end * INSTRUCTION_BYTES]
    session.loaded.run_code(code, tokens, embed=first)
    return session.loaded.take("x", 0, len(tokens))


def _difference(layer: int, found: NDArray[np.float32], wanted: NDArray[np.float32]) -> Difference:
    wrong = np.argwhere(found.view(np.uint32) != wanted.view(np.uint32))
    a, b = found.astype(np.float64).reshape(-1), wanted.astype(np.float64).reshape(-1)
    with np.errstate(all="ignore"):
        cosine = float(a @ b / np.sqrt((a @ a) * (b @ b)))
        largest = float(np.nan_to_num(np.abs(a - b), nan=np.inf).max())
    place = (int(wrong[0][0]), int(wrong[0][1])) if wrong.size else None
    return Difference(layer, not wrong.size, largest, cosine, place)
