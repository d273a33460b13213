# SPDX-License-Identifier: Apache-2.0
"""cocotb: array_grid on tiles of every mode with idle cycles between their beats, the extremes too, against exact integers."""

from __future__ import annotations

import os
import random
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge

ROWS, PAIRS, FLOATS, HIGH, BLOCK_ROWS, BLOCK_PAIRS = (
    int(os.environ.get(f"MEADOW_{name}", default))
    for name, default in (("ROWS", 5), ("PAIRS", 3), ("FLOATS", 1), ("HIGH", 36), ("BLOCK_ROWS", 2), ("BLOCK_PAIRS", 2))
)
LOW = 32
APART = ROWS + -(-ROWS // BLOCK_ROWS)
"""Cycles between two tiles' ends, at least."""
INT8, PROBABILITY, FP16 = range(3)


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value


def exact(half: np.ndarray[Any, np.dtype[np.uint16]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """FP16 bits in units of 2^-24; infinities and NaN as the largest value of their sign."""
    exponent = half >> 10 & 31
    mantissa = np.where(exponent == 31, 0x7FF, np.where(exponent > 0, 0x400, 0) + (half & 0x3FF)).astype(np.int64)
    shift = np.clip(exponent.astype(np.int64) - 1, 0, 29)
    return np.where(half >> 15 == 1, -1, 1) * (mantissa << shift)


def operands(mode: int, extreme: int, beats: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """values uint16 [beats, PAIRS, 8], weights int8 [beats, ROWS, 8]."""
    values = rng.integers(0, 1 << 16, (beats, PAIRS, 8)).astype(np.uint16)
    weights = rng.integers(-127, 128, (beats, ROWS, 8)).astype(np.int8)
    if mode == INT8 and extreme:
        values[:] = (0x7F7F, 0x8181, 0x7F80)[extreme - 1]  # 127 and 127, -127 and -127, -128 and 127
    if mode == PROBABILITY and extreme:
        values[:] = 0xFFFF
    if mode == FP16:
        weights = rng.integers(-8, 8, weights.shape).astype(np.int8)
        if extreme:
            values[:] = (0x7BFF, 0xFBFF, 0x7C01)[extreme - 1]  # the largest, the smallest, NaN
    if extreme:
        weights[:] = (-8, 7)[extreme % 2] if mode == FP16 else (-127, 127)[extreme % 2]
    return values, weights


def sums(mode: int, values: Any, weights: Any) -> list[list[tuple[int, ...]]]:
    """For each row and pair what shall come out: two tokens' sums, or one."""
    w = weights.astype(object)
    if mode == INT8:
        tokens = [(values & 0xFF).astype(np.uint8).astype(np.int8), (values >> 8).astype(np.uint8).astype(np.int8)]
        parts = [np.einsum("bpk,brk->rp", t.astype(object), w) for t in tokens]
        return [[(int(parts[0][r, p]), int(parts[1][r, p])) for p in range(PAIRS)] for r in range(ROWS)]
    a = values.astype(np.int64) if mode == PROBABILITY else exact(values)
    whole = np.einsum("bpk,brk->rp", a.astype(object), w)
    return [[(int(whole[r, p]),) for p in range(PAIRS)] for r in range(ROWS)]


@cocotb.test(timeout_time=200, timeout_unit="us")
async def tiles_of_every_mode_are_exact_whatever_comes(dut: Any) -> None:
    cocotb.start_soon(Clock(dut.clk_i, 4, "ns").start())  # type: ignore[arg-type]
    rng, chance = np.random.default_rng(7), random.Random(7)
    dut.rst_i.value = 1
    dut.valid_i.value = 0
    for _ in range(40):
        await FallingEdge(dut.clk_i)
    dut.rst_i.value = 0
    history: list[int] = []
    left: list[int] = []

    async def listen() -> None:
        while True:
            await RisingEdge(dut.clk_i)
            value = dut.sums_o.value
            history.append(int(value) if value.is_resolvable else -1)
            if int(dut.leave_o.value):
                left.append(len(history) - 1)

    cocotb.start_soon(listen())
    wanted: list[tuple[int, Any]] = []
    modes = (INT8, PROBABILITY, FP16) if FLOATS else (INT8, PROBABILITY)
    since = APART
    for number in range(72):
        mode, extreme = modes[number % len(modes)], number // len(modes) % 6
        extreme = extreme if extreme < 4 else 0
        beats = chance.choice((1, 2, 5, 17)) if number % 5 else 40
        values, weights = operands(mode, extreme, beats, rng)
        wanted.append((mode, sums(mode, values, weights)))
        for beat in range(beats):
            last = beat == beats - 1
            while chance.random() < 0.2 or (last and since < APART):
                dut.valid_i.value = 0
                dut.begin_i.value, dut.end_i.value = chance.randrange(2), chance.randrange(2)
                dut.values_i.value = chance.getrandbits(PAIRS * 128)
                since += 1
                await FallingEdge(dut.clk_i)
            dut.valid_i.value, dut.mode_i.value = 1, mode
            dut.begin_i.value, dut.end_i.value = int(beat == 0), int(last)
            dut.values_i.value = int.from_bytes(values[beat].tobytes(), "little")
            dut.weights_i.value = int.from_bytes(weights[beat].tobytes(), "little")
            since = 1 if last else since + 1
            await FallingEdge(dut.clk_i)
    dut.valid_i.value = 0
    for _ in range(60):
        await FallingEdge(dut.clk_i)
    assert len(left) == len(wanted)
    for at, (mode, tile) in zip(left, wanted, strict=True):
        for r in range(ROWS):
            for p in range(PAIRS):
                word = history[at + r + r // BLOCK_ROWS + p // BLOCK_PAIRS] >> p * (LOW + HIGH)
                low, high = signed(word & (1 << LOW) - 1, LOW), signed(word >> LOW & (1 << HIGH) - 1, HIGH)
                found = (low, high) if mode == INT8 else ((high << 18) + low,)
                assert found == tile[r][p], f"mode {mode}, row {r}, pair {p}: {found}, not {tile[r][p]}"
