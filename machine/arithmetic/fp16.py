# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of FP16 activations times grouped integer weights: what pacq_gemv computes, in numpy.

docs/arithmetic.md says the same in words, hls/sim/pacq.hpp in C++, rtl/pacq_*.v in Verilog; all agree bit for bit.
Knows nothing of streams; storage/groups.py has those.

For each output n and group g, over the group's columns k:

    S = sum of a[k] * (code[n, k] - zero)       exact: products of FP16 with small integers, multiples of 2^-24
    A = sum of a[k]                             exact, shared by all outputs
    y = y + (scale * fp32(S) + minimum * fp32(A))      groups in ascending order from +0, each operation rounded once to FP32
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
LARGEST_HALF = np.float32(65504)
LIMB_BITS = 24
"""Integers up to 2^24 are exact in FP32, and so are sums that stay below: what FP32 BLAS may add."""
EXACT_FP64 = 1 << 13
"""Up to this many columns times the largest code, sums of FP16 values (40 bits and 24 behind the point) have at most 53 bits."""
SUMS_AT_ONCE = 1 << 22
"""FP32 sums that are held at a time."""


def half(x: Floats) -> Halves:
    """FP16, rounded to nearest even with subnormals kept, saturated at +-65504; a NaN counts as the largest of its sign."""
    held = np.clip(x, -LARGEST_HALF, LARGEST_HALF)
    if np.isnan(held).any():
        held = np.where(np.isnan(held), np.copysign(LARGEST_HALF, x), held)
    return held.astype(np.float16)


class GroupedMatrix(NamedTuple):
    """A matrix as numpy multiplies it.

    codes    FP32 [groups, group, N], code - zero
    scale    FP32 [groups, N]
    minimum  FP32 [groups, N], or None
    largest  no code is larger in magnitude
    """

    codes: Floats
    scale: Floats
    minimum: Floats | None
    largest: float


def grouped_matrix(
    codes: NDArray[np.uint8], zero: int, scale: Floats, minimum: Floats | None, group: int
) -> GroupedMatrix:
    """From codes [N, groups * group], scale [N, groups] and minimum."""
    n = len(codes)
    centred = codes.reshape(n, -1, group).transpose(1, 2, 0).astype(np.float32)
    if zero:
        centred -= np.float32(zero)
    scales = np.ascontiguousarray(scale.T)
    minima = None if minimum is None else np.ascontiguousarray(minimum.T)
    return GroupedMatrix(centred, scales, minima, float(max(1, codes.max(initial=0) - zero, zero)))


def limbs(a: Floats, width: int) -> list[Floats]:
    """a as a sum of parts, each a multiple of some 2^p and below 2^(p + width) in magnitude: few bits each, so that sums of
    their products stay exact in FP32.  Exact for FP16 values: multiples of 2^-24 below 2^16."""
    top = int(np.frexp(np.abs(a).max(initial=0))[1])
    parts = []
    rest = a
    while True:
        step = np.float32(2.0 ** max(top - width, -24))
        part = np.trunc(rest / step) * step  # powers of two: exact
        parts.append(part)
        rest = rest - part
        if not rest.any():
            return parts
        top -= width


def group_sums(a: Floats, codes: Floats, largest: float) -> Floats:
    """The exact sums S, rounded once to FP32: [groups, T, N] of a [T, groups, group] (FP16 values) and codes [groups, group, N]."""
    groups, group, n = codes.shape
    tokens = len(a)
    width = LIMB_BITS - int(np.ceil(np.log2(group * largest)))
    parts = limbs(a, max(width, 1))
    if len(parts) == 1:
        return np.matmul(parts[0].swapaxes(0, 1), codes)
    stacked = np.stack(parts).transpose(2, 0, 1, 3).reshape(groups, len(parts) * tokens, group)
    products = np.matmul(np.ascontiguousarray(stacked), codes).reshape(groups, len(parts), tokens, n)
    if group * largest > EXACT_FP64:
        units = (products.astype(np.float64) * 2.0**24).astype(np.int64).sum(axis=1)
        return units.astype(np.float32) * np.float32(2.0**-24)
    total = products[:, 0].astype(np.float64)
    for index in range(1, len(parts)):
        total += products[:, index]  # exact: multiples of 2^-24 below 2^29, since EXACT_FP64
    return total.astype(np.float32)


def linear(a: Halves, m: GroupedMatrix) -> Floats:
    """y [T, N] of FP16 activations a [T, groups * group]."""
    groups, group, n = m.codes.shape
    x = a.astype(np.float32).reshape(len(a), groups, group)
    y = np.zeros((len(a), n), np.float32)
    step = max(1, SUMS_AT_ONCE // (groups * n))
    for start in range(0, len(a), step):
        some = x[start : start + step]
        terms = group_sums(some, m.codes, m.largest)
        terms *= m.scale[:, None, :]
        if m.minimum is not None:
            shared = some.astype(np.float64).sum(axis=2).astype(np.float32)  # [T, groups]
            terms += shared.T[:, :, None] * m.minimum[:, None, :]
        out = y[start : start + step]
        for g in range(groups):
            out += terms[g]
    return y
