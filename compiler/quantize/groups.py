# SPDX-License-Identifier: Apache-2.0
"""Weights in groups of columns, rounded to nearest: 2 and 4 bits with a scale and a minimum per group, 8 bits with a scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LEVELS = 127
GROUP_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Fractions of a group's range that are tried."""


def round_to_groups(w: Floats, bits: int, group: int) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """Codes uint8 [N, K], scales and minima [N, ceil(K / group)], w ~ code * scale + minimum; both exact in FP16.

    The range of a group is its own, shrunk by that of GROUP_RATIOS which makes its squared error smallest.
    """
    rows, cols = w.shape
    groups = -(-cols // group)
    padded = np.pad(w, ((0, 0), (0, groups * group - cols)), mode="edge").reshape(rows, groups, group)
    top = np.float32((1 << bits) - 1)
    low, high = padded.min(axis=2), padded.max(axis=2)
    middle, reach = (high + low) / 2, (high - low) / 2
    best = np.full((rows, groups), np.inf, np.float32)
    codes = np.zeros(padded.shape, np.uint8)
    scale, minimum = np.zeros_like(low), np.zeros_like(low)
    for ratio in GROUP_RATIOS:
        s = (2 * reach * np.float32(ratio) / top).astype(np.float16).astype(np.float32)
        m = (middle - reach * np.float32(ratio)).astype(np.float16).astype(np.float32)
        found = np.clip(np.rint((padded - m[..., None]) / np.where(s == 0, 1, s)[..., None]), 0, top)
        error = ((found * s[..., None] + m[..., None] - padded) ** 2).sum(axis=2)
        better = error < best
        best[better], scale[better], minimum[better] = error[better], s[better], m[better]
        codes[better] = found[better].astype(np.uint8)
    return codes.reshape(rows, -1)[:, :cols], scale, minimum


def round_to_int8_groups(w: Floats, group: int) -> tuple[NDArray[np.int8], Floats]:
    """Codes int8 [N, K] and FP16-exact scales [N, ceil(K / group)], symmetric: what GGUF calls Q8_0."""
    rows, cols = w.shape
    groups = -(-cols // group)
    padded = np.pad(w, ((0, 0), (0, groups * group - cols))).reshape(rows, groups, group)
    scale = (np.abs(padded).max(axis=2) / np.float32(LEVELS)).astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(padded / np.where(scale == 0, 1, scale)[..., None]), -LEVELS, LEVELS)
    return codes.astype(np.int8).reshape(rows, -1)[:, :cols], scale
