# SPDX-License-Identifier: Apache-2.0
"""The types of GGUF tensors: one function each, which gives codes, scales and minima exactly as they are stored.

Blocks are those of ggml-common.h.  Codes of 5 and 6 bits take 8, and those of 3 bits take 4: lossless, and wider than in the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.types import F16, F32, Deferred, Elem, Rows, Weight, grouped

GROUP = 32
"""Weights of a block of Q8_0, Q4_0 and their sisters (QK8_0)."""
SUPER = 256
"""Weights of a block of the k-quants (QK_K), which have scales of groups of 16 or 32 within it."""
Bytes = NDArray[np.uint8]
Scales = tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]
"""Scale and minimum of each group, [rows, blocks, groups] each."""
AT_ONCE = 1 << 20
"""Weights that are unpacked at a time: what unpacking needs besides is a few times as much."""
NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""The values of the codes of IQ4_NL (kvalues_iq4nl)."""


@dataclass(frozen=True)
class Format:
    """One type.

    elem         of the weights; its group has one scale
    values       weights of a block
    block_bytes  of a block; 0 for floats, which have none
    halves       bytes of a block at which an FP16 number begins
    codes        of the bytes of blocks [rows, blocks, block_bytes], or the floats themselves
    scales       of the same: scale, and minimum or None
    """

    elem: Elem
    block_bytes: int
    halves: tuple[int, ...]
    codes: Callable[[NDArray[Any]], NDArray[np.generic]]
    scales: Callable[[Bytes], Scales] = lambda blocks: (None, None)
    values: int = GROUP

    def finite(self, data: NDArray[np.generic]) -> bool:
        """Whether all floats, or all FP16 numbers of the blocks, are finite."""
        if not self.block_bytes:
            return bool(np.isfinite(self.codes(data)).all())
        blocks = data.view(np.uint8).reshape(-1, self.block_bytes)
        return all(bool(np.isfinite(_half(blocks, start)).all()) for start in self.halves)

    def weight(
        self, name: str, data: NDArray[np.generic], rows: int, cols: int, release: Callable[[], None] = lambda: None
    ) -> Weight:
        """The matrix [rows, cols] of a tensor's data; codes of blocks are unpacked when they are asked for.

        release  called when some of the data was read, which may leave memory then
        """
        if not self.block_bytes:
            return Weight(name, self.elem, self.codes(data).reshape(rows, cols))
        blocks = data.view(np.uint8).reshape(rows, cols // self.values, self.block_bytes)
        step = max(1, AT_ONCE // cols)

        def some(chosen: Rows) -> NDArray[np.generic]:
            part = blocks[chosen]
            found = [self.codes(part[at : at + step]).reshape(-1, cols) for at in range(0, max(len(part), 1), step)]
            release()
            return np.concatenate(found) if len(found) != 1 else np.ascontiguousarray(found[0])

        parts = [self.scales(blocks[at : at + step]) for at in range(0, rows, step)]
        release()
        scale, minimum = (
            None if column[0] is None else np.concatenate(column).astype(np.float32, copy=False).reshape(rows, -1)
            for column in zip(*parts, strict=True)
        )
        return Deferred(name, self.elem, (rows, cols), some, scale, minimum)


def _half(blocks: NDArray[np.uint8], start: int) -> NDArray[np.float32]:
    """The FP16 number at byte `start` of each block."""
    raw = np.ascontiguousarray(blocks[..., start : start + 2])
    return raw.view(np.float16)[..., 0].astype(np.float32)


def _nibbles(blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """4-bit codes: the lower halves of all bytes, then the upper ones."""
    return np.concatenate([blocks & 15, blocks >> 4], axis=-1)


def _as_they_are(data: NDArray[Any]) -> NDArray[Any]:
    return data


def _bfloats(data: NDArray[Any]) -> NDArray[np.float32]:
    """The upper halves of FP32 numbers."""
    words = np.ascontiguousarray(data).view(np.uint16).astype(np.uint32) << np.uint32(16)
    return words.view(np.float32)


# -- scales: one FP16 number, or two, or 6-bit and 8-bit numbers of groups that these scale --------------------------------


def _scale(blocks: Bytes) -> Scales:
    """value = code * scale."""
    return _half(blocks, 0), None


def _scale_and_minimum(blocks: Bytes) -> Scales:
    """code * scale + minimum."""
    return _half(blocks, 0), _half(blocks, 2)


def _around_eight(scale: NDArray[np.float32]) -> Scales:
    """(code - 8) * scale."""
    return scale, (scale * np.float32(-8)).astype(np.float32)


def _scales_q2_k(blocks: Bytes) -> Scales:
    """code * (d * scale) - dmin * minimum, by groups of 16."""
    d, least, both = _half(blocks, 80), _half(blocks, 82), blocks[..., :16]
    scale, minimum = d[..., None] * (both & 15).astype(np.float32), least[..., None] * (both >> 4).astype(np.float32)
    return scale, -minimum


def _scales_q3_k(blocks: Bytes) -> Scales:
    """(code - 4) * (d * scale), by groups of 16: codes are stored 4 higher, so that their zero is 8."""
    packed = blocks[..., 96:108]
    low = np.concatenate([packed[..., :8] & 15, packed[..., :8] >> 4], axis=-1)
    upper = (packed[..., None, 8:] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3).reshape(low.shape)
    whole = (low | upper << np.uint8(4)).astype(np.int8) - np.int8(32)
    return _around_eight(_half(blocks, 108)[..., None] * whole.astype(np.float32))


def _scales_k4(blocks: Bytes) -> Scales:
    """code * (d * scale) - dmin * minimum, by groups of 32: 8 scales and minima of 6 bits in 12 bytes (get_scale_min_k4)."""
    a, b, c = blocks[..., 4:8], blocks[..., 8:12], blocks[..., 12:16]
    scale = np.concatenate([a & 63, (c & 15) | (a >> 6) << np.uint8(4)], axis=-1).astype(np.float32)
    minimum = np.concatenate([b & 63, (c >> 4) | (b >> 6) << np.uint8(4)], axis=-1).astype(np.float32)
    return _half(blocks, 0)[..., None] * scale, -(_half(blocks, 2)[..., None] * minimum)


def _scales_q6_k(blocks: Bytes) -> Scales:
    """(code - 32) * (d * scale), by groups of 16."""
    return _half(blocks, 208)[..., None] * blocks[..., 192:208].view(np.int8).astype(np.float32), None


# -- codes ------------------------------------------------------------------------------------------------------------------


def _signed_bytes(blocks: Bytes) -> NDArray[np.int8]:
    return np.ascontiguousarray(blocks[..., 2:]).view(np.int8)


def _fifth_bits(blocks: Bytes, start: int) -> Bytes:
    """The fifth bit of each of 32 codes, as 0 or 16."""
    bits = np.unpackbits(blocks[..., start : start + 4], axis=-1, bitorder="little")
    return np.left_shift(bits, 4, dtype=np.uint8)


def _q5_0(blocks: Bytes) -> NDArray[np.int8]:
    """code - 16."""
    return (_nibbles(blocks[..., 6:]) | _fifth_bits(blocks, 2)).view(np.int8) - np.int8(16)


def _q5_1(blocks: Bytes) -> Bytes:
    return _nibbles(blocks[..., 8:]) | _fifth_bits(blocks, 4)


def _iq4_nl(blocks: Bytes) -> NDArray[np.int8]:
    """The values of the codes."""
    return NL[_nibbles(blocks[..., 2:])]


def _pairs(codes: Bytes) -> Bytes:
    """2-bit codes of 64 bytes: of each half of 32, all lowest pairs of bits, then the next."""
    halves = codes.reshape(*codes.shape[:-1], 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    return np.bitwise_and(halves, 3, dtype=np.uint8).reshape(*codes.shape[:-1], SUPER)


def _nibbles_k(codes: Bytes) -> Bytes:
    """4-bit codes of 128 bytes: of each 32, the lower halves, then the upper ones."""
    return _nibbles(codes.reshape(*codes.shape[:-1], 4, 32)).reshape(*codes.shape[:-1], SUPER)


def _q3_k(blocks: Bytes) -> Bytes:
    """4 higher than in the file."""
    high = blocks[..., None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    made = _pairs(blocks[..., 32:96]) + (high.reshape(*blocks.shape[:-1], SUPER) << np.uint8(2)) + np.uint8(4)
    return made.astype(np.uint8, copy=False)


def _q5_k(blocks: Bytes) -> Bytes:
    high = (blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1) << np.uint8(4)
    made = _nibbles_k(blocks[..., 48:]) | high.reshape(*blocks.shape[:-1], SUPER)
    return made.astype(np.uint8, copy=False)


def _q6_k(blocks: Bytes) -> NDArray[np.int8]:
    """code - 32."""
    low = blocks[..., :128].reshape(*blocks.shape[:-1], 2, 64)
    high = blocks[..., 128:192].reshape(*blocks.shape[:-1], 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    codes = _nibbles(low).reshape(high.shape) | high << np.uint8(4)
    return codes.reshape(*blocks.shape[:-1], SUPER).view(np.int8) - np.int8(32)


FORMATS = {
    "F32": Format(F32, 0, (), _as_they_are),
    "F16": Format(F16, 0, (), _as_they_are),
    "BF16": Format(F32, 0, (), _bfloats),
    "Q8_0": Format(grouped(8, GROUP), 34, (0,), _signed_bytes, _scale),
    "Q4_0": Format(grouped(4, GROUP), 18, (0,), lambda b: _nibbles(b[..., 2:]), lambda b: _around_eight(_half(b, 0))),
    "Q4_1": Format(grouped(4, GROUP), 20, (0, 2), lambda b: _nibbles(b[..., 4:]), _scale_and_minimum),
    "Q5_0": Format(grouped(8, GROUP), 22, (0,), _q5_0, _scale),
    "Q5_1": Format(grouped(8, GROUP), 24, (0, 2), _q5_1, _scale_and_minimum),
    "IQ4_NL": Format(grouped(8, GROUP), 18, (0,), _iq4_nl, _scale),
    "Q2_K": Format(grouped(2, 16), 84, (80, 82), lambda b: _pairs(b[..., 16:80]), _scales_q2_k, SUPER),
    "Q3_K": Format(grouped(4, 16), 110, (108,), _q3_k, _scales_q3_k, SUPER),
    "Q4_K": Format(grouped(4, GROUP), 144, (0, 2), lambda b: _nibbles_k(b[..., 16:]), _scales_k4, SUPER),
    "Q5_K": Format(grouped(8, GROUP), 176, (0, 2), _q5_k, _scales_k4, SUPER),
    "Q6_K": Format(grouped(8, 16), 210, (208,), _q6_k, _scales_q6_k, SUPER),
}
"""Every type that is read, by its name in gguf.GGMLQuantizationType."""
