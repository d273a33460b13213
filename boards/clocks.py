# SPDX-License-Identifier: Apache-2.0
"""Clocks of the fabric: what an MMCM makes exactly of the one clock that the processor gives.

The processor's PLL divides to 187.5 MHz where 200 are asked for (1500 / 8), so one clock of 100 MHz (1500 / 15) comes from it and
a Clocking Wizard (PG065) makes the others.  Limits of MMCME4, the narrowest of its speed grades: DS925, "MMCM switching
characteristics".
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import NamedTuple

SOURCE_MHZ = 100
"""pl_clk0, which the wizard takes."""
PLL_MHZ, PLL_DIVIDERS = 1500, (15, 1)
"""IOPLL of the boards' presets, and how SOURCE_MHZ comes of it."""
OSCILLATOR_MHZ = (800, 1600)
SMALLEST_PHASE_MHZ = 10
"""Of the phase detector: SOURCE_MHZ over the input's divider."""
EIGHTHS = 8
"""Steps of a multiplier, and of the first output's divider."""
MULTIPLIERS = (2, 128)
DIVIDERS = 128
"""Largest of an output; only the first can have eighths."""


class Mmcm(NamedTuple):
    """Settings of an MMCM: `multiply` and the first of `divide` in eighths, the rest whole."""

    input_divider: int
    multiply: Fraction
    divide: tuple[Fraction, ...]

    @property
    def clocks_mhz(self) -> tuple[Fraction, ...]:
        oscillator = SOURCE_MHZ * self.multiply / self.input_divider
        return tuple(oscillator / by for by in self.divide)


@cache
def mmcm(clocks_mhz: tuple[int, ...]) -> Mmcm | None:
    """The settings that make these clocks exactly; None where there are none.  Whole numbers and a fast oscillator jitter least."""
    low, high = OSCILLATOR_MHZ
    steps = (EIGHTHS, *(1 for _ in clocks_mhz[1:]))
    found: list[tuple[bool, Fraction, int, Mmcm]] = []
    for input_divider in range(1, SOURCE_MHZ // SMALLEST_PHASE_MHZ + 1):
        for multiply in range(MULTIPLIERS[0] * EIGHTHS, MULTIPLIERS[1] * EIGHTHS + 1):
            above, below = SOURCE_MHZ * multiply, EIGHTHS * input_divider  # the oscillator
            if not low * below <= above <= high * below:
                continue
            if any(above * step % (below * mhz) for mhz, step in zip(clocks_mhz, steps, strict=True)):
                continue
            oscillator = Fraction(above, below)
            divide = tuple(oscillator / mhz for mhz in clocks_mhz)
            if all(1 <= by <= DIVIDERS for by in divide):
                whole = multiply % EIGHTHS == 0 and divide[0].denominator == 1
                made = Mmcm(input_divider, Fraction(multiply, EIGHTHS), divide)
                found.append((whole, oscillator, -input_divider, made))
    return max(found)[3] if found else None


def nearest(mhz: int, beside: tuple[int, ...] = ()) -> int:
    """The largest whole clock up to `mhz` that is made exactly together with those `beside`; 0 where there is none."""
    return next((some for some in range(mhz, 0, -1) if mmcm((*beside, some))), 0)
