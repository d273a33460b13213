# SPDX-License-Identifier: Apache-2.0
"""INT8 by rounding to nearest: one scale per row or per tensor, symmetric."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LEVELS = 127
CLIP_RATIOS = tuple(np.arange(1.0, 0.35, -0.05))
"""Fractions of the largest magnitude tried as the range of a per-tensor scale."""


def round_to_nearest(w: Floats, granularity: str, power: Floats | None = None) -> tuple[NDArray[np.int8], Floats]:
    """INT8 codes [N, K] and scales [N], w ~ codes * scale, symmetric.

    `channel`: each row's largest magnitude becomes 127.  `tensor`: one scale, that of CLIP_RATIOS which makes the
    output error on the calibration text smallest (error of a column weighted by the mean square `power` of its input);
    without `power` the largest magnitude becomes 127.
    """
    peak = np.abs(w).max(axis=1) if granularity == "channel" else np.full(1, np.abs(w).max(), np.float32)
    scale = np.where(peak == 0, np.float32(1), (peak / np.float32(LEVELS)).astype(np.float32))
    if granularity == "tensor" and power is not None:
        errors = []
        for ratio in CLIP_RATIOS:
            s = scale * np.float32(ratio)
            difference = np.clip(np.rint(w / s), -LEVELS, LEVELS) * s - w
            errors.append(float(np.einsum("nk,nk,k->", difference, difference, power, dtype=np.float64, optimize=True)))
        scale = (scale * np.float32(CLIP_RATIOS[int(np.argmin(errors))])).astype(np.float32)
    codes = np.clip(np.rint(w / scale[:, None]), -LEVELS, LEVELS).astype(np.int8)
    return codes, np.broadcast_to(scale, (w.shape[0],)).astype(np.float32)
