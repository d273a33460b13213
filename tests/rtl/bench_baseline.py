# SPDX-License-Identifier: Apache-2.0
"""cocotb: the conventional dot product that pacq_dot is measured against works, and how far it is from the exact sum."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

LANES, TILES, BEATS, LATENCY = 4, 6, 16, 27


@cocotb.test(timeout_time=40, timeout_unit="us")
async def its_error_is_that_of_fp32_sums(dut: Any) -> None:
    """Groups of 128 columns, FP16 activations of normal distribution, uniform INT4 weights; pacq_dot's sums are exact."""
    cocotb.start_soon(Clock(dut.clk_i, 4, "ns").start())  # type: ignore[arg-type]
    rng = np.random.default_rng(2)
    groups = 20
    a = rng.normal(size=(groups, TILES, BEATS, 8)).astype(np.float16)
    codes = rng.integers(0, 16, (groups, TILES, BEATS, 8, LANES))
    exact = np.einsum("gtbk,gtbkl->gtl", a.astype(np.float64), codes.astype(np.float64) - 8)
    found = np.zeros_like(exact)
    order = [(g, b, t) for g in range(groups) for b in range(BEATS) for t in range(TILES)]
    for cycle in range(len(order) + LATENCY):
        await FallingEdge(dut.clk_i)
        if cycle >= LATENCY and order[cycle - LATENCY][1] == BEATS - 1:
            g, _, t = order[cycle - LATENCY]
            sums = int(dut.sums_o.value)
            found[g, t] = [np.uint32(sums >> 32 * n & 0xFFFFFFFF).view(np.float32) for n in range(LANES)]
        if cycle < len(order):
            g, b, t = order[cycle]
            dut.first_i.value = int(b == 0)
            dut.halves_i.value = int.from_bytes(a[g, t, b].tobytes(), "little")
            dut.codes_i.value = sum(int(c) << 4 * n for n, c in enumerate(codes[g, t, b].reshape(-1)))
    error = float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))
    rounded = float(np.sqrt(np.mean((exact.astype(np.float32) - exact) ** 2) / np.mean(exact**2)))
    dut._log.info(
        "error of a group's sum, root mean square: conventional %.1e, exact and rounded once %.1e", error, rounded
    )
    assert rounded < error < 1e-6
