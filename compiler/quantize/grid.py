# SPDX-License-Identifier: Apache-2.0
"""Grids: which values a matrix may take in a format of the engines, fitted to columns as a solver reaches them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.quantize.groups import round_to_groups, round_to_int8_groups
from meadow.compiler.quantize.nearest import LEVELS
from meadow.machine.types import I8, Weight, grouped

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Grid(Protocol):
    """The values of one or more matrices that are stacked, [K, N]: column by column of K, each for all N rows.

    unit  columns whose parameters are fitted together, when the first of them is reached; 0 where they are known before
    """

    unit: int

    def fit(self, first: int, w: Doubles) -> None:
        """Fit the parameters of columns `first` .. `first + len(w)`, now [columns, N]."""

    def refit(self, first: int, q: Doubles, slope: Doubles, h: Doubles) -> Doubles | None:
        """Parameters of the columns from `first` on that are better for the codes they have: the columns' new values.

        q      [columns, N] as they are; slope  half the error's derivative by each; h  its second derivative, [columns, columns]
        """

    def round(self, column: int, w: Doubles) -> Doubles:
        """The nearest value of the grid to each row of a column, [N]; its codes are kept."""

    def weight(self, name: str, rows: slice) -> Weight:
        """What was rounded, as the rows of one matrix."""


class RowGrid:
    """INT8 with a scale per row, [N], which is known before.  Symmetric."""

    unit = 0

    def __init__(self, scale: Floats, cols: int):
        self.scale = scale
        self._step = scale.astype(np.float64)
        self.codes = np.zeros((cols, len(scale)), np.int8)

    def fit(self, first: int, w: Doubles) -> None:
        """Nothing to fit."""

    def refit(self, first: int, q: Doubles, slope: Doubles, h: Doubles) -> None:
        """The scale stays: it is the row's, or the matrix's."""

    def round(self, column: int, w: Doubles) -> Doubles:
        codes = np.clip(np.rint(w / self._step), -LEVELS, LEVELS)
        self.codes[column] = codes
        return codes * self._step

    def weight(self, name: str, rows: slice) -> Weight:
        return Weight(name, I8, np.ascontiguousarray(self.codes[:, rows].T), self.scale[rows])


class GroupGrid:
    """Groups of columns with a scale, and below 8 bits a minimum, that are exact in FP16: what pacq_gemv takes.

    bits    of a code; 3 are stored in 4
    """

    def __init__(self, rows: int, cols: int, bits: int, group: int):
        self.bits, self.unit = bits, group
        groups = -(-cols // group)
        self.scale = np.zeros((groups, rows), np.float32)
        self.minimum = None if bits == 8 else np.zeros((groups, rows), np.float32)
        self.codes = np.zeros((cols, rows), np.int8 if bits == 8 else np.uint8)
        self._low, self._high = (-LEVELS, LEVELS) if bits == 8 else (0, (1 << bits) - 1)

    def fit(self, first: int, w: Doubles) -> None:
        g, now = first // self.unit, np.ascontiguousarray(w.T, np.float32)
        if self.minimum is None:
            self.scale[g] = round_to_int8_groups(now, self.unit)[1][:, 0]
        else:
            _, scale, minimum = round_to_groups(now, self.bits, self.unit)
            self.scale[g], self.minimum[g] = scale[:, 0], minimum[:, 0]
        self._take(g)

    def _take(self, g: int) -> None:
        self._step = np.where(self.scale[g] == 0, 1, self.scale[g]).astype(np.float64)
        self._base = 0.0 if self.minimum is None else self.minimum[g].astype(np.float64)

    def refit(self, first: int, q: Doubles, slope: Doubles, h: Doubles) -> Doubles:
        """Least squares in scale and minimum of each row, each then rounded to FP16; a row stays where that makes it no better."""
        g = first // self.unit
        codes = self.codes[first : first + len(q)].astype(np.float64)
        hc = h @ codes
        cc, cs = (codes * hc).sum(axis=0), (codes * slope).sum(axis=0)
        if self.minimum is None:
            ds, dm = -cs / np.maximum(cc, 1e-300), np.zeros_like(cs)
        else:
            c1, oo, os = hc.sum(axis=0), float(h.sum()), slope.sum(axis=0)
            det = cc * oo - c1 * c1
            fine = det > 1e-9 * cc * oo
            det = np.where(fine, det, 1.0)
            ds = np.where(fine, -(oo * cs - c1 * os) / det, 0.0)
            dm = np.where(fine, -(cc * os - c1 * cs) / det, 0.0)
        scale, minimum = self.scale[g].copy(), None if self.minimum is None else self.minimum[g].copy()
        new = (scale + ds).astype(np.float16).astype(np.float32)
        base = minimum if minimum is None else (minimum + dm).astype(np.float16).astype(np.float32)
        moved = codes * new + (0.0 if base is None else base)
        change = moved - q
        gain = 2 * (change * slope).sum(axis=0) + (change * (h @ change)).sum(axis=0)
        better = (gain < 0) & (new > 0) & np.isfinite(new)
        self.scale[g] = np.where(better, new, scale)
        if self.minimum is not None and base is not None and minimum is not None:
            self.minimum[g] = np.where(better, base, minimum)
        self._take(g)
        return np.where(better, moved, q)

    def round(self, column: int, w: Doubles) -> Doubles:
        if column % self.unit == 0:
            self._take(column // self.unit)
        codes = np.clip(np.rint((w - self._base) / self._step), self._low, self._high)
        self.codes[column] = codes
        return codes * self.scale[column // self.unit] + self._base

    def weight(self, name: str, rows: slice) -> Weight:
        minimum = None if self.minimum is None else np.ascontiguousarray(self.minimum[:, rows].T)
        elem = grouped(4 if self.bits == 3 else self.bits, self.unit)
        codes = np.ascontiguousarray(self.codes[:, rows].T)
        return Weight(name, elem, codes, np.ascontiguousarray(self.scale[:, rows].T), minimum)
