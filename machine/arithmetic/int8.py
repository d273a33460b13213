# SPDX-License-Identifier: Apache-2.0
"""The one written arithmetic: every rounding, saturation, table and accumulation, in numpy.

docs/arithmetic.md says the same in words, hls/arithmetic.hpp in C++; the three must agree bit for bit.
Knows nothing of programs, memory or layouts.

The rules: sums that hardware does in parallel are exact integers; the only floating-point operations are single
FP32 additions, subtractions, multiplications, divisions and square roots, each rounded to nearest even (as IEEE 754
and AMD's floating-point cores do); where `flush` is called subnormal results become 0 and overflows saturate, so that
no infinity and no NaN is ever kept.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.int8]

SMALLEST_NORMAL = np.float32(2.0**-126)
LARGEST = np.finfo(np.float32).max
QUIET = np.float32(2.0**-100)
"""A row whose largest magnitude is below this counts as zero: its scale is 0 and its codes are 0."""
LEVELS = np.float32(127)
ONE_PROBABILITY = 65535
"""The integer that stands for a probability (before division) of 1."""
EXP_FRACTION_BITS = 10
EXP_LIMIT = 17 << EXP_FRACTION_BITS
"""Exponents of two at and below -17 are 0 in 16 bits."""
LOG2E = np.float32(1.4426950408889634)
ROPE_ONE = 1 << 14
CACHED = 1 << 16
"""Elements that are taken through several passes at a time, so that they stay in the cache."""
LARGEST_SUM = 2.0**31
"""No sum of products of INT8 is larger: they are kept in 32 bits."""
EXACT_FP32 = 1 << 24
"""Integers up to here, and every sum that stays below, are exact in FP32: FP32 BLAS then computes exact sums."""


def exp2_table() -> NDArray[np.uint16]:
    """round(65535 * 2^(-f / 1024)) for f = 0 .. 1023: the fraction part of EXP, one 1024 x 16 ROM."""
    fraction = np.arange(1 << EXP_FRACTION_BITS) / (1 << EXP_FRACTION_BITS)
    return np.rint(ONE_PROBABILITY * np.exp2(-fraction)).astype(np.uint16)


def _exp2_all() -> NDArray[np.uint16]:
    """exp2_negative for every argument 0 .. EXP_LIMIT: the ROM and the shifter in one array, for numpy's sake."""
    u = np.arange(EXP_LIMIT + 1)
    shift = u >> EXP_FRACTION_BITS
    entry = exp2_table().astype(np.int64)[u & ((1 << EXP_FRACTION_BITS) - 1)]
    return ((entry + ((1 << shift) >> 1)) >> shift).astype(np.uint16)


_EXP2 = _exp2_all()
_EXP2_FLOAT = _EXP2.astype(np.float32)


CAP_SMALL, CAP_CUBIC, CAP_QUINTIC = np.float32(0.25), np.float32(-1 / 3), np.float32(2 / 15)
"""Of the cap on scores: tanh(z) is z - z^3 / 3 + 2 z^5 / 15 below 1/4, which is closer there than the table is."""


def exp2_negative(u: NDArray[np.int32]) -> NDArray[np.uint16]:
    """65535 * 2^(-u / 1024), rounded half up after the ROM; u in 0 .. EXP_LIMIT."""
    return _EXP2[u]


def saturate(x: Floats) -> Floats:
    """Infinities become the largest finite number of their sign, and a NaN the largest: what is kept is a number."""
    found = np.asarray(x, np.float32)
    if np.isfinite(found).all():
        return found
    return np.where(found == -np.inf, -LARGEST, np.where(np.isfinite(found), found, LARGEST)).astype(np.float32)


def flush(x: Floats) -> Floats:
    """Subnormals become zeros of the same sign, and what is too large saturates.  `x` itself where it has neither, which is nearly
    always."""
    found = saturate(x)
    bits = found.view(np.uint32) << np.uint32(1)
    bits -= np.uint32(1)  # zeros wrap to the largest number
    subnormal = bits < np.uint32(0x00FFFFFF)
    return np.where(subnormal, found * np.float32(0), found) if subnormal.any() else found


def quantize_rows(x: Floats) -> tuple[Bytes, Floats]:
    """INT8 codes [..., n] and scales [...] of the last axis of x: code = rint(x * (127 / peak)), scale = peak / 127."""
    peak = np.abs(x).max(axis=-1)
    quiet = peak < QUIET
    safe = np.where(quiet, np.float32(1), peak)
    inverse = np.where(quiet, np.float32(0), LEVELS / safe)
    scale = np.where(quiet, np.float32(0), safe / LEVELS)
    codes = np.clip(np.rint(x * inverse[..., None]), -127, 127)
    return codes.astype(np.int8), scale.astype(np.float32)


def blocks_for_exact_sums(codes: Bytes) -> int:
    """Into how many pieces K must be cut so that every partial sum of a row times INT8 activations is below 2^24."""
    rows, cols = codes.shape
    pieces = 1
    while pieces < cols:
        edges = np.linspace(0, cols, pieces + 1).astype(int)[:-1]
        largest = 0
        for start in range(0, rows, 4096):
            magnitudes = np.abs(codes[start : start + 4096].astype(np.int16))
            largest = max(largest, int(np.add.reduceat(magnitudes, edges, axis=1, dtype=np.int32).max()))
        if largest * 127 < EXACT_FP32:
            return pieces
        pieces += 1
    return pieces


def int8_products(a: Floats, w: Floats, pieces: int) -> Floats:
    """The exact integer sums a[T, K] @ w[N, K].T, converted once to FP32.

    a and w hold INT8 codes as FP32; `pieces` (from blocks_for_exact_sums) keeps each BLAS call exact.
    """
    if pieces == 1:
        return a @ w.T
    edges = np.linspace(0, a.shape[1], pieces + 1).astype(int)
    total = np.zeros((a.shape[0], w.shape[0]), np.float64)
    for start, stop in pairwise(edges):
        total += a[:, start:stop] @ w[:, start:stop].T
    return total.astype(np.float32)


def rescale(sums: Floats, a_scale: Floats, w_scale: Floats) -> Floats:
    """FP32 results [T, N] of integer sums: sum * (a_scale[t] * w_scale[n])."""
    out = np.empty_like(sums)
    # Where no product of scales is subnormal, no sum's is either; and where the largest is far from overflow, none saturates.
    most = float(np.abs(a_scale).max(initial=0)) * float(np.abs(w_scale).max(initial=0)) * LARGEST_SUM
    normal = _smallest(a_scale) * _smallest(w_scale) >= SMALLEST_NORMAL and most < LARGEST
    step = max(1, CACHED // max(1, sums.shape[1]))
    for start in range(0, len(sums), step):
        some = slice(start, start + step)
        scale = a_scale[some, None] * w_scale[None, :]
        np.multiply(sums[some], scale if normal else flush(scale), out=out[some])
    return out if normal else flush(out)


def _smallest(scale: Floats) -> np.float32:
    """The least magnitude that is not zero; 1 when all are."""
    magnitude = np.abs(scale)
    return np.min(magnitude, where=magnitude > 0, initial=np.float32(1))


def rope_table(inv_freq: NDArray[np.float64], context: int) -> NDArray[np.int16]:
    """cos and sin of every position and pair, int16 with 14 fraction bits: [context, 2, head_dim / 2]."""
    angle = np.arange(context, dtype=np.float64)[:, None] * inv_freq[None, :]
    return np.rint(np.stack([np.cos(angle), np.sin(angle)], axis=1) * ROPE_ONE).astype(np.int16)


def rope(x: Floats, table: NDArray[np.int16]) -> Floats:
    """Rotate the halves of each head: x [T, heads, head_dim], table [T, 2, head_dim / 2]."""
    factor = table.astype(np.float32) * np.float32(1 / ROPE_ONE)
    cos, sin = factor[:, None, 0, :], factor[:, None, 1, :]
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    return flush(np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1))


def score_scale(scale: float) -> np.float32:
    """log2(e) * scale, as 1 / sqrt(head_dim) is: scores are exponents of two from here on."""
    return np.float32(np.float64(1.4426950408889634) * np.float64(scale))


def scores(products: Floats, q_scale: Floats, k_scale: Floats, kappa: np.float32, cap: float = 0.0) -> Floats:
    """y[T, J] = (q . k) * ((q_scale[t] * kappa) * k_scale[j]); products [T, J] are exact integers in FP32.

    cap  of the scores, in powers of two; 0 for none
    """
    y = saturate(products * flush(flush(q_scale * kappa)[:, None] * k_scale[None, :]))
    return capped(y, np.float32(cap)) if cap else y


def probability(distance: Floats) -> Floats:
    """65535 * 2^-distance by the EXP table, for distances from 0 on."""
    u = np.minimum(np.rint(distance * np.float32(1 << EXP_FRACTION_BITS)), np.float32(EXP_LIMIT))
    return _EXP2_FLOAT.take(u.astype(np.int32))


def capped(y: Floats, cap: np.float32) -> Floats:
    """cap * tanh(y / cap): a polynomial below CAP_SMALL, the EXP table and one division above."""
    inverse, twice = np.float32(1) / cap, np.float32(2) * LOG2E / cap
    magnitude = np.abs(y)
    z = magnitude * inverse
    s = z * z
    small = z * (np.float32(1) + s * (CAP_CUBIC + s * CAP_QUINTIC))
    p = probability(magnitude * twice)
    one = np.float32(ONE_PROBABILITY)
    t = np.where(z < CAP_SMALL, small, (one - p) / (one + p)).astype(np.float32)
    return flush(np.copysign(t * cap, y))


def softmax(y: Floats, v_scale: Floats, visible: NDArray[np.bool_]) -> tuple[Floats, Floats, NDArray[np.intc]]:
    """MAX, EXP and the folding of V's scales, over the last axis.

    y        [T, J] scores, in powers of two
    v_scale  [J] scale of each value row
    visible  [T, J] which keys a token may see (at least one)
    Returns (w [T, J] integers up to 65535 as FP32, total [T] as FP32, exponent [T]): the result of a head for a token is
    (sum_j w_j v_j) / total * 2^exponent.
    """
    peak = np.max(y, axis=-1, where=visible, initial=np.float32(-np.inf))
    with np.errstate(invalid="ignore"):
        u = peak[:, None] - y
        u *= np.float32(1 << EXP_FRACTION_BITS)
        np.rint(u, out=u)
    np.minimum(u, np.float32(EXP_LIMIT), out=u)
    np.copyto(u, np.float32(EXP_LIMIT), where=~visible)
    w = _EXP2_FLOAT.take(u.astype(np.int32))
    total = w.sum(axis=-1, dtype=np.float64).astype(np.float32)  # exact: integers below 2^53
    largest = np.max(np.broadcast_to(v_scale, y.shape), axis=-1, where=visible, initial=np.float32(0))
    exponent = np.frexp(largest)[1].astype(np.intc)
    for e in np.unique(exponent):  # nearly always one or two powers for all tokens
        folded = flush(np.ldexp(v_scale, -e).astype(np.float32))
        rows = exponent == e
        if rows.all():
            w *= folded
        else:
            w[rows] *= folded
    np.rint(w, out=w)
    np.copyto(w, np.float32(0), where=~visible)
    return w, total, exponent


def mix(sums: NDArray[np.float64], total: Floats, exponent: NDArray[np.intc]) -> Floats:
    """DIV: exact integer sums [T, head_dim] over the sum of probabilities, times 2^exponent."""
    return flush(np.ldexp(sums.astype(np.float32) / total[:, None], exponent[:, None]).astype(np.float32))


def silu_times(gate: Floats, up: Floats) -> Floats:
    """silu(gate) * up, the sigmoid made of the EXP table and one division."""
    out = np.empty(gate.shape, np.float32)
    step = max(1, CACHED // max(1, int(np.prod(gate.shape[1:]))))
    for start in range(0, len(gate), step):
        g = gate[start : start + step]
        u = np.abs(g)
        u *= LOG2E
        u *= np.float32(1 << EXP_FRACTION_BITS)
        np.rint(u, out=u)
        np.minimum(u, np.float32(EXP_LIMIT), out=u)
        p = _EXP2_FLOAT.take(u.astype(np.int32))
        below = p + np.float32(ONE_PROBABILITY)
        np.copyto(p, np.float32(ONE_PROBABILITY), where=g >= 0)
        p /= below
        p *= g
        p *= up[start : start + step]
        out[start : start + step] = flush(p)
    return out


def add(x: Floats, y: Floats) -> Floats:
    """The residual sum."""
    return flush(x + y)
