# SPDX-License-Identifier: Apache-2.0
"""cocotb: the FP32 units against numpy, bit for bit: random operands, ties, carries and cancellation."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

COUNT = 6000


def bits(value: Any) -> int:
    return int(np.float32(value).view(np.uint32))


def number(chance: random.Random, low: int = -60, high: int = 60) -> np.float32:
    """A normal number, often with a mantissa of few or of nearly all bits."""
    mantissa = chance.choice(
        (chance.randrange(1 << 23), 0, (1 << 23) - 1, 1 << chance.randrange(23), chance.randrange(8))
    )
    exponent = chance.randint(low, high) + 127
    return np.uint32(chance.randrange(2) << 31 | exponent << 23 | mantissa).view(np.float32)


def rounded(value: Fraction) -> np.float32:
    """To FP32 once, to nearest even; zero is +0."""
    if value == 0:
        return np.float32(0)
    exponent = math.floor(math.log2(abs(value)))
    exponent += (abs(value) >= Fraction(2) ** (exponent + 1)) - (abs(value) < Fraction(2) ** exponent)
    return np.float32(math.ldexp(float(round(value / Fraction(2) ** (exponent - 23))), exponent - 23))


async def compare(dut: Any, cases: list[tuple[dict[str, int], int]], output: str, latency: int) -> None:
    cocotb.start_soon(Clock(dut.clk_i, 4, "ns").start())  # type: ignore[arg-type]
    waiting: list[int] = []
    for inputs, wanted in [*cases, *[cases[-1]] * latency]:
        await FallingEdge(dut.clk_i)
        if len(waiting) == latency:
            assert int(getattr(dut, output).value) == waiting.pop(0)
        for name, value in inputs.items():
            getattr(dut, name).value = value
        waiting.append(wanted)


@cocotb.test(timeout_time=300, timeout_unit="us")
async def it_rounds_as_numpy_does(dut: Any) -> None:
    chance = random.Random(7)
    kind = dut._name
    cases: list[tuple[dict[str, int], int]] = []
    if kind == "half_to_float":
        cases = [({"half_i": h}, bits(np.uint16(h).view(np.float16))) for h in range(1 << 16) if h & 0x7C00 != 0x7C00]
        await compare(dut, cases, "float_o", 2)
    elif kind == "fixed_to_float":
        for n in range(COUNT):
            value = chance.randrange(-(1 << 63), 1 << 63) >> chance.randrange(63) if n else 0
            if n % 5 == 1:  # a tie, or next to one
                value = (chance.randrange(1 << 23, 1 << 24) << 10) + 512 + chance.randint(-1, 1)
            if n == 6:  # a tie, but for the very last bit
                value = 1 << 62 | 1 << 38 | 1
            cases.append(({"fixed_i": value & (1 << 64) - 1}, bits(rounded(Fraction(value, 1 << 24)))))
        await compare(dut, cases, "float_o", 6)
    else:
        for n in range(COUNT):
            reach = 60 if kind == "float_add" else 40
            a, b = number(chance, -reach, reach), number(chance, -reach, reach)
            if n % 3 == 0:  # near in magnitude: cancellation
                b = np.float32(-a * np.float32(1 + chance.choice((0, 2.0**-23, 2.0**-22, 2.0**-12, 0.5, 1))))
            if n % 7 == 0:
                b = np.float32(0) if n % 2 else b
                a = a if n % 2 else np.float32(0)
            if n % 3 == 1:  # far apart by the width of a mantissa
                b = np.float32(
                    a * np.float32(2.0 ** -chance.randint(22, 27)) * np.float32(1 + 2.0 ** -chance.randint(1, 23))
                )
            with np.errstate(over="ignore"):
                exact = a + b if kind == "float_add" else a * b
            cases.append(({"a_i": bits(a), "b_i": bits(b)}, bits(exact) if exact != 0 else 0))
        await compare(dut, cases, "sum_o" if kind == "float_add" else "product_o", 6 if kind == "float_add" else 5)
