# SPDX-License-Identifier: Apache-2.0
"""The types of GGUF tensors: one function each, which gives codes, scales and minima exactly as they are stored.

Blocks are those of ggml-common.h: an FP16 scale, an FP16 minimum where there is one, and the codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.types import F16, F32, Elem, Weight, grouped

GROUP = 32
"""Weights of a block of Q8_0, Q4_0 and Q4_1 (QK8_0 and its sisters)."""
Parts = tuple[NDArray[np.generic], NDArray[np.float32] | None, NDArray[np.float32] | None]
"""Codes, scale, and minimum of each block: [rows, blocks, values], [rows, blocks], [rows, blocks]."""


@dataclass(frozen=True)
class Format:
    """One type.

    elem         of the weights
    block_bytes  of a block; 0 for floats, which have none
    halves       bytes of a block at which an FP16 number begins
    unpack       the bytes of the blocks [rows, blocks, block_bytes] to their parts
    """

    elem: Elem
    block_bytes: int
    halves: tuple[int, ...]
    unpack: Callable[[NDArray[Any]], Parts]

    def finite(self, data: NDArray[np.generic]) -> bool:
        """Whether all floats, or all FP16 numbers of the blocks, are finite."""
        if not self.block_bytes:
            return bool(np.isfinite(data).all())
        blocks = data.view(np.uint8).reshape(-1, self.block_bytes)
        return all(bool(np.isfinite(_half(blocks, start)).all()) for start in self.halves)

    def weight(self, name: str, data: NDArray[np.generic], rows: int, cols: int) -> Weight:
        """The matrix [rows, cols] of a tensor's data."""
        if not self.block_bytes:
            return Weight(name, self.elem, data.reshape(rows, cols))
        blocks = data.view(np.uint8).reshape(rows, cols // self.elem.group, self.block_bytes)
        codes, scale, minimum = self.unpack(blocks)
        return Weight(name, self.elem, np.ascontiguousarray(codes).reshape(rows, cols), scale, minimum)


def _half(blocks: NDArray[np.uint8], start: int) -> NDArray[np.float32]:
    """The FP16 number at byte `start` of each block."""
    raw = np.ascontiguousarray(blocks[..., start : start + 2])
    return raw.view(np.float16)[..., 0].astype(np.float32)


def _nibbles(blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """4-bit codes: the lower halves of all bytes, then the upper ones."""
    return np.concatenate([blocks & 15, blocks >> 4], axis=-1)


def _floats(data: NDArray[Any]) -> Parts:
    return data, None, None


def _q8_0(blocks: NDArray[np.uint8]) -> Parts:
    """code * scale, with signed codes."""
    return np.ascontiguousarray(blocks[..., 2:]).view(np.int8), _half(blocks, 0), None


def _q4_0(blocks: NDArray[np.uint8]) -> Parts:
    """(code - 8) * scale."""
    scale = _half(blocks, 0)
    return _nibbles(blocks[..., 2:]), scale, (scale * np.float32(-8)).astype(np.float32)


def _q4_1(blocks: NDArray[np.uint8]) -> Parts:
    """code * scale + minimum."""
    return _nibbles(blocks[..., 4:]), _half(blocks, 0), _half(blocks, 2)


FORMATS = {
    "F32": Format(F32, 0, (), _floats),
    "F16": Format(F16, 0, (), _floats),
    "Q8_0": Format(grouped(8, GROUP), 34, (0,), _q8_0),
    "Q4_0": Format(grouped(4, GROUP), 18, (0,), _q4_0),
    "Q4_1": Format(grouped(4, GROUP), 20, (0, 2), _q4_1),
}
"""Every type that is read, by its name in gguf.GGMLQuantizationType."""
