# SPDX-License-Identifier: Apache-2.0
"""Element types and weights: what a tensor's numbers are, with their scales normalised once.

Knows nothing of ONNX, of files or of hardware; a quantized weight is a *type* here, never an operation.
"""

from __future__ import annotations

from collections.abc import Callable
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


Rows = NDArray[np.integer[Any]] | slice


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
    def shape(self) -> tuple[int, int]:
        return int(self.codes.shape[0]), int(self.codes.shape[1])

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def cols(self) -> int:
        return self.shape[1]

    @property
    def size(self) -> int:
        """Elements."""
        return self.rows * self.cols

    def some_codes(self, rows: Rows) -> NDArray[np.generic]:
        """Codes of some rows, [len(rows), K]."""
        return self.codes[rows]

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and minima as stored densely (4-bit codes are two a byte)."""
        total = (self.size * self.elem.bits + 7) // 8
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

    def take(self, rows: Rows) -> NDArray[np.float32]:
        """Some rows in float32, [len(rows), K]."""
        return self.only(rows, self.name).dequantize()

    def only(self, rows: Rows, name: str) -> Weight:
        """Some rows, or all in another order, as they are stored."""
        scale, minimum = (None if part is None else part[rows] for part in (self.scale, self.minimum))
        return Weight(name, self.elem, self.some_codes(rows), scale, minimum)

    def __str__(self) -> str:
        return f"{self.elem}[{self.rows}, {self.cols}]"


class Deferred(Weight):
    """A matrix whose codes stay where they are stored until they are asked for, and are not kept after.

    make  codes of some rows, [len(rows), K]
    """

    def __init__(
        self,
        name: str,
        elem: Elem,
        shape: tuple[int, int],
        make: Callable[[Rows], NDArray[np.generic]],
        scale: NDArray[np.float32] | None,
        minimum: NDArray[np.float32] | None,
    ):
        found = {"name": name, "elem": elem, "_shape": shape, "_make": make, "scale": scale, "minimum": minimum}
        for key, value in found.items():
            object.__setattr__(self, key, value)

    @property
    def codes(self) -> NDArray[np.generic]:
        return self.some_codes(slice(None))

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape  # type: ignore[attr-defined]

    def some_codes(self, rows: Rows) -> NDArray[np.generic]:
        return self._make(rows)  # type: ignore[attr-defined]

    def only(self, rows: Rows, name: str) -> Weight:
        scale, minimum = (None if part is None else part[rows] for part in (self.scale, self.minimum))
        order = np.arange(self.rows)[rows]
        return Deferred(
            name, self.elem, (len(order), self.cols), lambda some: self.some_codes(order[some]), scale, minimum
        )
