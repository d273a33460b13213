# SPDX-License-Identifier: Apache-2.0
"""cocotb: pacq_mac on every FP16 value and every code, against exact rational numbers."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

LANES = 16
LATENCY = 5
UNIT = Fraction(1, 1 << 24)


def value_of(half: int) -> Fraction:
    """What an FP16 bit pattern stands for; infinities and NaN count as the largest finite value of their sign."""
    if half & 0x7C00 == 0x7C00:
        return Fraction(-65504 if half & 0x8000 else 65504)
    return Fraction(float(np.uint16(half).view(np.float16)))


@cocotb.test(timeout_time=300, timeout_unit="us")
async def every_value_times_every_code_is_exact(dut: Any) -> None:
    """65,536 values, each times the 16 codes of four bits, on sums that are already there."""
    cocotb.start_soon(Clock(dut.clk_i, 4, "ns").start())  # type: ignore[arg-type]
    dut.codes_i.value = sum(code << 4 * code for code in range(LANES))
    chance = random.Random(1)
    before = [chance.randrange(-(1 << 46), 1 << 46) for _ in range(LANES)]
    dut.sums_i.value = sum((b & (1 << 48) - 1) << 48 * lane for lane, b in enumerate(before))
    waiting: list[int] = []
    for half in [*range(1 << 16), *[0] * LATENCY]:
        await FallingEdge(dut.clk_i)
        if len(waiting) == LATENCY:
            found = int(dut.sums_o.value)
            exact = value_of(waiting.pop(0)) / UNIT
            assert exact.denominator == 1
            for code in range(LANES):
                wanted = before[code] + exact.numerator * (code - 8)
                assert found >> 48 * code & (1 << 48) - 1 == wanted & (1 << 48) - 1
        dut.half_i.value = half
        waiting.append(half)
