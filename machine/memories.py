# SPDX-License-Identifier: Apache-2.0
"""What a buffer on chip takes of block RAM and UltraRAM, by its shape: a bank of 2,049 words of 32 bits is more than its bits say."""

from __future__ import annotations

from typing import NamedTuple

HALVES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
"""Depth and width of half a BRAM36 with a port to read and a port to write (UG573, "Block RAM Resources")."""
ULTRA = (4096, 72)
"""Depth and width of an UltraRAM block (UG573, "UltraRAM Resources")."""
SHALLOW = 64
"""Words of a bank that are kept in LUTs."""


class Memory(NamedTuple):
    """`banks` memories of `depth` words of `width` bits each."""

    banks: int
    depth: int
    width: int

    @property
    def bits(self) -> int:
        return self.banks * self.depth * self.width

    @property
    def bram36(self) -> float:
        """Block RAMs of 36 Kb; a half can serve another memory."""
        if self.depth <= SHALLOW:
            return 0.0
        return self.banks * min(-(-self.width // w) * -(-self.depth // d) for d, w in HALVES) / 2

    @property
    def uram(self) -> int:
        """UltraRAM blocks."""
        return self.banks * -(-self.depth // ULTRA[0]) * -(-self.width // ULTRA[1])
