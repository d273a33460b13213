# SPDX-License-Identifier: Apache-2.0
"""The solver: rounds matrices column by column so that their output, on the inputs that the device has, stays near the float model's.

One sweep serves four methods.  With X the input on the device and Xt the float model's, both [K, tokens], H = X X^T and
C = (Xt - X) X^T:

  rtn    each weight to the nearest value; H and C are not looked at
  gptq   the error of a column goes to the columns behind it (Frantar et al., 2023): least ||Q X - W X||
  gptaq  the same, and a column's share of W (Xt - X) goes there too (Li et al., 2025: GPTAQ, equation 16)
  shift  gptq on W (I + beta C H^-1): for beta = 1 least ||Q X - W Xt|| over the columns not rounded yet, exactly
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.quantize.grid import Grid

Doubles = NDArray[np.float64]
DAMP = 0.01
"""Of the mean of H's diagonal that is added to it."""
TRIES = 3
"""Times that the damping is made ten times larger where H is not positive."""
BLOCK = 32
"""Columns after which the columns behind them are corrected, at least."""


@dataclass(frozen=True)
class Gram:
    """What is known of the inputs of a matrix: H and C, [K, K], sums over tokens."""

    h: Doubles
    c: Doubles

    def __add__(self, other: Gram) -> Gram:
        return Gram(self.h + other.h, self.c + other.c)

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Columns that no token reached."""
        return np.diag(self.h) == 0

    def error(self, q: Doubles, w: Doubles) -> Doubles:
        """||q X - w Xt||^2 - ||w Xt||^2 of each row, for matrices [N, K]."""
        target = self.h + self.c  # Xt X^T
        return np.asarray(((q @ self.h - 2 * (w @ target)) * q).sum(axis=1))


@dataclass(frozen=True)
class Factor:
    """A damped H, ready for sweeps: itself, its inverse, upper = chol(H^-1)^T, and the damping that it took."""

    h: Doubles
    inverse: Doubles
    upper: Doubles
    damp: float


def factor(gram: Gram, damp: float = DAMP) -> Factor:
    """The factor of a Gram.  Columns that no token reached take no error and give none.

    Raises ValueError where H is not positive with a thousand times the damping.
    """
    mean = float(np.diag(gram.h).mean()) or 1.0
    for attempt in range(TRIES + 1):
        used = damp * 10**attempt
        h = gram.h.copy()
        h[np.diag_indices_from(h)] += used * mean
        dead = gram.dead
        h[dead, dead] = mean
        try:
            np.linalg.cholesky(h)
            inverse = np.linalg.inv(h)
            inverse = (inverse + inverse.T) / 2
            upper = np.linalg.cholesky(inverse).T
        except np.linalg.LinAlgError:
            continue
        if np.isfinite(upper).all():
            return Factor(h, inverse, upper, used)
    raise ValueError(f"H of {len(gram.h)} columns is not positive, even with {used:g} of its mean added")


def shifted(w: Doubles, gram: Gram, found: Factor, betas: Sequence[float]) -> list[Doubles]:
    """W (I + beta C H^-1) for each beta, [N, K]."""
    towards = w @ (gram.c @ found.inverse)
    return [w + beta * towards for beta in betas]


def asymmetry(gram: Gram, found: Factor, alpha: float) -> Doubles:
    """P of gptaq: alpha triu(C L, 1) L^T with H^-1 = L L^T."""
    return np.asarray(alpha * np.triu(gram.c @ found.upper.T, 1) @ found.upper)


def sweep(w: Doubles, grid: Grid, upper: Doubles | None, p: Doubles | None = None) -> Doubles:
    """Round `w` [K, N] to `grid`, in place of which its columns are left corrected; returns what was rounded, [K, N].

    upper  chol(H^-1)^T; None rounds to nearest
    p      of gptaq
    """
    cols = len(w)
    q = np.empty_like(w)
    block = max(BLOCK, grid.unit)
    for a in range(0, cols, block):
        b = min(a + block, cols)
        errors, before = np.zeros((b - a, w.shape[1])), np.empty((b - a, w.shape[1]))
        for j in range(a, b):
            if grid.unit and j % grid.unit == 0:
                grid.fit(j, w[j : min(j + grid.unit, cols)])
            before[j - a] = w[j]
            q[j] = grid.round(j, w[j])
            if upper is None:
                continue
            errors[j - a] = (w[j] - q[j]) / upper[j, j]
            if j + 1 < b:
                w[j + 1 : b] -= upper[j, j + 1 : b, None] * errors[j - a]
                if p is not None:
                    w[j + 1 : b] += p[j, j + 1 : b, None] * before[j - a]
        if upper is not None and b < cols:
            w[b:] -= upper[a:b, b:].T @ errors
            if p is not None:
                w[b:] += p[a:b, b:].T @ before
    return q


def polish(q: Doubles, target: Doubles, grid: Grid, h: Doubles, passes: int) -> Doubles:
    """Rounded matrices [K, N] after `passes` rounds of coordinate descent on (q - target)^T H (q - target): the parameters of each group
    anew by least squares, then each code to the best where all others stay.  What the sweep could not know, since it goes one way.
    """
    cols, block = len(q), max(BLOCK, grid.unit)
    diagonal = np.diag(h)
    for _ in range(passes):
        slope = h @ (q - target)
        for a in range(0, cols, block):
            b = min(a + block, cols)
            before = q[a:b].copy()
            for first in range(a, b, grid.unit or block):
                last = min(first + (grid.unit or block), b)
                moved = grid.refit(first, q[first:last], slope[first:last], h[first:last, first:last])
                if moved is not None:
                    slope[a:b] += h[a:b, first:last] @ (moved - q[first:last])
                    q[first:last] = moved
            for j in range(a, b):
                step = -q[j]
                q[j] = grid.round(j, q[j] - slope[j] / diagonal[j])
                step += q[j]
                slope[a:b] += h[a:b, j, None] * step
            change = q[a:b] - before
            slope[b:] += h[b:, a:b] @ change
    return q
