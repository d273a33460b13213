# SPDX-License-Identifier: Apache-2.0
"""Element types and weights: what a tensor's numbers are, with their scales normalised once.

Knows nothing of ONNX, of files or of hardware; a quantized weight is a *type* here, never an operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Elem:
    """How one element is stored: `bits` wide, and quantized in groups of `group` along K (0: one scale per row)."""

    name: str
    bits: int
    quantized: bool
    group: int = 0

    def __str__(self) -> str:
        return self.name


F32 = Elem("f32", 32, quantized=False)
F16 = Elem("f16", 16, quantized=False)
I8 = Elem("i8", 8, quantized=True)


def grouped(bits: int, group: int) -> Elem:
    """The type `i4g32`, `i8g32`, ...: `bits` wide codes, a scale (and perhaps a minimum) for each `group` along K."""
    return Elem(f"i{bits}g{group}", bits, quantized=True, group=group)


@dataclass(frozen=True, eq=False)
class Weight:
    """One matrix, W[N, K]: N output features by K input features.

    name     of the ONNX initializer it came from
    elem     its type
    codes    [N, K], float32/float16 when not quantized, int8 or uint8 when quantized
    scale    float32 [N] for `i8`, [N, ceil(K/group)] for grouped types, None for floats
    minimum  float32 like `scale`, or None.  w = codes * scale + minimum
    """

    name: str
    elem: Elem
    codes: NDArray[np.generic]
    scale: NDArray[np.float32] | None = None
    minimum: NDArray[np.float32] | None = None

    @property
    def rows(self) -> int:
        return int(self.codes.shape[0])

    @property
    def cols(self) -> int:
        return int(self.codes.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and minima as stored densely (4-bit codes are two a byte)."""
        total = (self.codes.size * self.elem.bits + 7) // 8
        for extra in (self.scale, self.minimum):
            total += 0 if extra is None else extra.nbytes
        return total

    def dequantize(self) -> NDArray[np.float32]:
        """The matrix in float32, [N, K]."""
        w = self.codes.astype(np.float32)
        if self.scale is None:
            return w
        if self.elem.group:
            w *= np.repeat(self.scale, self.elem.group, axis=1)[:, : self.cols]
            if self.minimum is not None:
                w += np.repeat(self.minimum, self.elem.group, axis=1)[:, : self.cols]
            return w
        return w * self.scale[:, None]

    def take(self, rows: NDArray[np.integer[Any]] | slice) -> NDArray[np.float32]:
        """Some rows in float32, [len(rows), K]."""
        return self.only(rows, self.name).dequantize()

    def only(self, rows: NDArray[np.integer[Any]] | slice, name: str) -> Weight:
        """Some rows, or all in another order, as they are stored."""
        scale, minimum = (None if part is None else part[rows] for part in (self.scale, self.minimum))
        return Weight(name, self.elem, self.codes[rows], scale, minimum)

    def __str__(self) -> str:
        return f"{self.elem}[{self.rows}, {self.cols}]"
