# SPDX-License-Identifier: Apache-2.0
"""cocotb: pacq_dot on random and directed groups with idle cycles between their beats, against exact integers."""

from __future__ import annotations

import random
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge

LANES = 8
KINDS = ("random", "cancelling", "subnormal", "largest", "mixed", "zero")


def halves_of(kind: str, count: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float16]]:
    """`count` FP16 activations."""
    if kind == "subnormal":
        return (rng.integers(-1023, 1024, count) * 2.0**-24).astype(np.float16)
    if kind == "largest":
        return np.where(rng.random(count) < 0.5, np.float16(65504), np.float16(-65504))
    if kind == "cancelling":
        half = (rng.normal(size=count // 2) * 1000).astype(np.float16)
        return np.concatenate([half, -half])
    if kind == "mixed":
        return (rng.normal(size=count) * np.exp2(rng.integers(-24, 15, count))).astype(np.float16)
    return np.zeros(count, np.float16) if kind == "zero" else rng.normal(size=count).astype(np.float16)


@cocotb.test(timeout_time=40, timeout_unit="us")
async def sums_of_groups_are_exact_whatever_comes(dut: Any) -> None:
    """Groups of 16 to 256 columns, every kind of activation, worst codes too."""
    cocotb.start_soon(Clock(dut.clk_i, 4, "ns").start())  # type: ignore[arg-type]
    rng, chance = np.random.default_rng(3), random.Random(3)
    dut.rst_i.value = 1
    dut.valid_i.value = 0
    for _ in range(20):
        await FallingEdge(dut.clk_i)
    dut.rst_i.value = 0
    wanted: list[list[int]] = []
    found: list[list[int]] = []

    async def listen() -> None:
        while True:
            await RisingEdge(dut.clk_i)
            if int(dut.valid_o.value):
                sums = int(dut.sums_o.value)
                lanes = [sums >> 56 * n & (1 << 56) - 1 for n in range(LANES)]
                found.append([v - (1 << 56) if v >> 55 else v for v in lanes])

    cocotb.start_soon(listen())
    for number in range(90):
        beats = chance.choice((2, 4, 8, 16, 32)) if number else 32
        kind = KINDS[number % len(KINDS)]
        a = halves_of(kind, 8 * beats, rng)
        codes = rng.integers(0, 16, (8 * beats, LANES))
        if kind == "largest":
            codes = np.where((a > 0)[:, None], 15, np.zeros_like(codes)) if number % 2 else np.zeros_like(codes)
        exact = np.round(a.astype(np.float64) * 2.0**24).astype(np.int64)
        wanted.append(
            [sum(int(e) * (int(c) - 8) for e, c in zip(exact, codes[:, n], strict=True)) for n in range(LANES)]
        )
        for beat in range(beats):
            while chance.random() < 0.3:
                dut.valid_i.value = 0
                dut.first_i.value = chance.randrange(2)
                dut.last_i.value = chance.randrange(2)
                await FallingEdge(dut.clk_i)
            dut.valid_i.value = 1
            dut.first_i.value = int(beat == 0)
            dut.last_i.value = int(beat == beats - 1)
            some = slice(8 * beat, 8 * beat + 8)
            dut.halves_i.value = int.from_bytes(a[some].tobytes(), "little")
            dut.codes_i.value = sum(int(c) << 4 * n for n, c in enumerate(codes[some].reshape(-1)))
            await FallingEdge(dut.clk_i)
        dut.valid_i.value = 0
    for _ in range(30):
        await FallingEdge(dut.clk_i)
    assert found == wanted
