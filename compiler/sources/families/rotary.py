# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: radians per position of every pair, with each way of stretching them to longer contexts.

Sources: RoFormer (Su et al., 2021); linear scaling (Chen et al., 2023); YaRN (Peng et al., 2023, sections 3.2 to 3.4); Llama 3.1's
model card; LongRoPE (Ding et al., 2024).  All in FP64, rounded to FP32 once, as an ONNX file holds them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Frequencies = NDArray[np.float64]


@dataclass(frozen=True)
class Turning:
    """Frequencies, the factor of cosine and sine, and the positions from which they are others (0: nowhere)."""

    frequencies: tuple[float, ...]
    factor: float = 1.0
    until: int = 0


def rounded(found: Frequencies, factor: float = 1.0, until: int = 0) -> Turning:
    return Turning(tuple(float(np.float32(v)) for v in found), float(np.float32(factor)), until)


def plain(turned: int, base: float) -> Frequencies:
    """Of `turned` elements of a head: base^(-2i / turned)."""
    return np.asarray(1.0 / base ** (np.arange(turned // 2) / (turned // 2)), np.float64)


def llama3(found: Frequencies, factor: float, low: float, high: float, original: float) -> Frequencies:
    """Wavelengths longer than original / low are stretched by `factor`, shorter than original / high not, between them in part."""
    wavelengths = 2 * np.pi / found
    part = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return np.asarray((1 - part) * found / factor + part * found)


def yarn(
    turned: int, base: float, factor: float, original: float, fast: float = 32, slow: float = 1, whole: bool = True
) -> Frequencies:
    """Pairs that turn more than `fast` times in `original` positions stay, fewer than `slow` times are stretched, between them a ramp."""

    def pair(turns: float) -> float:
        return turned * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair(fast), pair(slow)
    if whole:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, turned - 1)
    ramp = np.clip((np.arange(turned // 2) - low) / max(high - low, 0.001), 0, 1)
    found = plain(turned, base)
    return np.asarray(found / factor * ramp + found * (1 - ramp))


def yarn_factor(factor: float, scale: float = 1.0) -> float:
    """YaRN's factor of cosine and sine (its section 3.4, the square root of 1 / t)."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def longrope_factor(stretched: float, original: float) -> float:
    """LongRoPE's factor of cosine and sine, of a context that was `original` and is `stretched` times as long."""
    return 1.0 if stretched <= 1 else math.sqrt(1 + math.log(stretched) / math.log(original))


def divided(found: Frequencies, factors: Sequence[float]) -> Frequencies:
    return found / np.asarray(factors, np.float64)
