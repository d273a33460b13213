# SPDX-License-Identifier: Apache-2.0
"""The DRAM behind the memory ports: one model, by which the cost model prices, the search chooses and every simulated memory answers.

All assumed; what a board measures belongs here and nowhere else.
"""

from __future__ import annotations

from typing import NamedTuple

from meadow.machine.units import BEAT_BYTES

EFFICIENCY = 0.9
"""Share of the peak that sequential reads of several ports get, refresh counted: 0.80 to 0.94 are published for such boards (Hummingbird, Li et al.)."""
REFRESH_NS, REFRESH_EVERY_NS = 350, 7800
"""Nothing comes for tRFC of an 8 Gb DDR4 chip, once in tREFI below 85 degrees (JESD79-4)."""
LATENCY_NS = (200, 400)
"""From a request on a port to its first beat: at least and at most."""


class Dram(NamedTuple):
    """The DRAM of a board.

    peak_gb_s  bandwidth by its data sheet, in 10^9 bytes per second
    """

    peak_gb_s: float

    @property
    def bytes_per_second(self) -> float:
        """What all ports together attain in the long run."""
        return self.peak_gb_s * 1e9 * EFFICIENCY

    def beats_per_cycle(self, clock_mhz: float) -> float:
        """The same in beats of all ports per cycle of a clock."""
        return self.bytes_per_second / BEAT_BYTES / (clock_mhz * 1e6)

    def between_refreshes(self, clock_mhz: float) -> float:
        """Beats per cycle of a clock while the DRAM does not refresh."""
        return self.beats_per_cycle(clock_mhz) / (1 - REFRESH_NS / REFRESH_EVERY_NS)
