# SPDX-License-Identifier: Apache-2.0
"""Codes of 2, 4 or 8 bits as MatMulNBits stores them, and zero points that mean a minimum exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meadow.machine.types import Weight


def packed_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [..., n] of 2, 4 or 8 bits, as many as fit in a byte, the first in its lowest bits (MatMulNBits' order)."""
    each = 8 // bits
    padding = [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % each)]
    codes = np.pad(codes, padding) if codes.shape[-1] % each else codes
    out = np.zeros((*codes.shape[:-1], codes.shape[-1] // each), np.uint8)
    for n in range(each):
        out |= codes[..., n::each] << np.uint8(bits * n)
    return out


def unpacked_codes(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of `packed_codes`."""
    each = 8 // bits
    out = np.empty((*packed.shape[:-1], packed.shape[-1] * each), np.uint8)
    for n in range(each):
        out[..., n::each] = packed >> np.uint8(bits * n) & np.uint8((1 << bits) - 1)
    return out


def integer_zero_points(weight: Weight) -> NDArray[np.uint8] | None:
    """The zero points [N, groups] of which -zero * scale is the minimum bit for bit; None where there are none."""
    assert weight.scale is not None and weight.minimum is not None
    safe = np.where(weight.scale == 0, np.float32(1), weight.scale)
    zero = np.clip(np.rint(-weight.minimum / safe), 0, (1 << weight.elem.bits) - 1).astype(np.uint8)
    same = bool((-zero.astype(np.float32) * weight.scale == weight.minimum).all())
    return zero if same and weight.codes.dtype == np.uint8 else None
