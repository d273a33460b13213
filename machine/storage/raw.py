# SPDX-License-Identifier: Apache-2.0
"""raw: weights as they are, a byte each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meadow.machine.storage.coded import Coded, Format, Units
from meadow.machine.storage.rows import Layout
from meadow.machine.units import BEAT_BYTES, LANE_COLS


@dataclass(frozen=True)
class Raw(Format):
    """No table, no directory."""

    schemes = ("raw",)
    packed = False

    @property
    def word(self) -> int:
        return 0

    def room(self, units: Units) -> int:
        return 1

    def unpack_words(self, words: int, beats: int) -> int | None:
        return words * LANE_COLS // BEAT_BYTES

    def unpack_cycles(self, layout: Layout, directory: NDArray[np.uint32]) -> int:
        return layout.raw_beats

    def expected_bytes(self, layout: Layout, bits: float, entries: int) -> int | None:
        return layout.raw_beats * BEAT_BYTES

    def decode(self, several: Sequence[Coded], layout: Layout) -> list[NDArray[np.int8]]:
        return [np.stack([s.view(np.int8) for s in coded.streams]) for coded in several]


FORMATS = (Raw(),)


def coded(streams: NDArray[np.int8]) -> Coded:
    """[ports, rows, cols] as they are."""
    bytes_of = tuple(s.reshape(-1).view(np.uint8) for s in streams)
    return Coded(bytes_of, np.zeros((0, 0), np.uint32), np.zeros(0, np.uint8), 0)
