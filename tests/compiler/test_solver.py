# SPDX-License-Identifier: Apache-2.0
"""The solver against least squares, a reference of Qronos and exhaustive search; and the grids against what the engines store."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from meadow.compiler.quantize.grid import GroupGrid, RowGrid
from meadow.compiler.quantize.groups import round_to_groups, round_to_int8_groups
from meadow.compiler.quantize.solver import DAMP, Gram, asymmetry, factor, polish, shifted, sweep
from meadow.compiler.quantize.walk import gram_of

Doubles = NDArray[np.float64]
NOTHING = 1e-14
"""A damping that changes nothing: the problems of these tests are positive."""


class Whole:
    """A grid of integers times a step, without limits."""

    unit = 0

    def __init__(self, step: float, first: Doubles | None = None):
        self.step, self.first = step, first

    def fit(self, first: int, w: Doubles) -> None:
        raise AssertionError("it has no parameters")

    def round(self, column: int, w: Doubles) -> Doubles:
        if column == 0 and self.first is not None:
            return self.first
        return np.rint(w / self.step) * self.step

    def refit(self, first: int, q: Doubles, slope: Doubles, h: Doubles) -> None:
        """The step stays."""

    def weight(self, name: str, rows: slice) -> Any:
        raise AssertionError("nobody asks")


def problem(seed: int, cols: int = 24, rows: int = 5, tokens: int = 80) -> tuple[Doubles, Doubles, Doubles]:
    """(w [N, K], x [tokens, K] on the device, target [tokens, K] of the float model)."""
    random = np.random.default_rng(seed)
    mix = random.normal(size=(cols, cols)) / cols**0.5 + np.eye(cols)
    target = random.normal(size=(tokens, cols)) @ mix
    return random.normal(size=(rows, cols)), target + 0.2 * random.normal(size=target.shape), target


def gram(x: Doubles, target: Doubles) -> Gram:
    return Gram(x.T @ x, (target - x).T @ x)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_columns_not_rounded_yet_are_the_least_squares_optimum_after_every_step(seed: int, beta: float) -> None:
    """beta = 1 towards the float model's output, beta = 0 towards that of W on the device's own inputs."""
    w, x, target = problem(seed)
    goal = (target if beta else x) @ w.T
    g = gram(x, target)
    found = factor(g, NOTHING)
    (start,) = shifted(w, g, found, [beta])
    before = np.ascontiguousarray(start.T)
    q = sweep(before, Whole(0.25), found.upper)
    for j in range(w.shape[1]):
        rest = goal - x[:, :j] @ q[:j]
        best, *_ = np.linalg.lstsq(x[:, j:], rest, rcond=None)
        assert np.abs(best[0] - before[j]).max() < 1e-9, j


@pytest.mark.parametrize("seed", range(10))
def test_but_for_the_first_column_the_codes_are_those_of_qronos(seed: int) -> None:
    """Qronos rounds column 1 against the true target with the others as they were, solves the others anew, and goes on as gptq."""
    w, x, target = problem(seed)
    goal, step = target @ w.T, 0.25
    others = goal - x[:, 1:] @ w[:, 1:].T
    first = np.rint((x[:, 0] @ others) / (x[:, 0] @ x[:, 0]) / step) * step
    wanted = [first]
    for j in range(1, w.shape[1]):
        rest = goal - x[:, :j] @ np.array(wanted)
        best, *_ = np.linalg.lstsq(x[:, j:], rest, rcond=None)
        wanted.append(np.rint(best[0] / step) * step)
    g = gram(x, target)
    found = factor(g, NOTHING)
    (start,) = shifted(w, g, found, [1.0])
    q = sweep(np.ascontiguousarray(start.T), Whole(step, first), found.upper)
    assert (q == np.array(wanted)).all()


def test_the_share_of_the_asymmetry_is_its_closed_form() -> None:
    """P[q, F] = C[q, F] (H_FF)^-1, for F behind q."""
    w, x, target = problem(3)
    g = gram(x, target)
    found = factor(g, NOTHING)
    p = asymmetry(g, found, 1.0)
    assert np.abs(np.tril(p)).max() < 1e-12
    for q in range(w.shape[1] - 1):
        rest = slice(q + 1, None)
        assert np.abs(p[q, rest] - g.c[q, rest] @ np.linalg.inv(g.h[rest, rest])).max() < 1e-9


def test_without_correlations_every_method_rounds_to_nearest() -> None:
    random = np.random.default_rng(1)
    w, h = random.normal(size=(40, 6)), np.diag(random.uniform(1, 2, 40))
    g = Gram(h, np.zeros_like(h))
    found = factor(g)
    nearest = sweep(w.copy(), Whole(0.1), None)
    assert (sweep(w.copy(), Whole(0.1), found.upper) == nearest).all()
    assert (sweep(w.copy(), Whole(0.1), found.upper, asymmetry(g, found, 1.0)) == nearest).all()


@pytest.mark.parametrize("cols", [5, 32, 33, 100])
def test_blocks_change_nothing(cols: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from meadow.compiler.quantize import solver

    w, x, target = problem(2, cols=cols, tokens=4 * cols)
    g = gram(x, target)
    found = factor(g)
    p = asymmetry(g, found, 0.25)
    results = []
    for block in (1, 7, 32, 1000):
        monkeypatch.setattr(solver, "BLOCK", block)
        start = np.ascontiguousarray(w.T)
        q = sweep(start, Whole(0.05), found.upper, p)
        results.append((q, start))
    for q, start in results[1:]:
        assert np.abs(start - results[0][1]).max() < 1e-9 and np.abs(q - results[0][0]).max() < 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_methods_is_that_of_their_aims(seed: int) -> None:
    """By the output against the float model: shift at most gptq, gptq at most nearest, on coarse grids and many rows."""
    w, x, target = problem(seed, rows=64)
    g = gram(x, target)
    found = factor(g)
    errors = {}
    for name, beta, upper in (("nearest", 0.0, None), ("gptq", 0.0, found.upper), ("shift", 1.0, found.upper)):
        (start,) = shifted(w, g, found, [beta])
        q = sweep(np.ascontiguousarray(start.T), Whole(0.5), upper)
        errors[name] = float(g.error(q.T, w).sum() + ((target @ w.T) ** 2).sum())
        assert abs(errors[name] - ((x @ q - target @ w.T) ** 2).sum()) < 1e-6 * errors[name]
    assert errors["shift"] < errors["gptq"] < errors["nearest"]


def test_what_is_not_positive_is_damped_more_and_told() -> None:
    x = np.random.default_rng(2).normal(size=(4, 8))
    x[:, 3] = 0
    g = gram(x, x)
    found = factor(g, 1e-17)
    assert found.damp > 1e-17 and np.isfinite(found.upper).all()
    assert list(np.flatnonzero(g.dead)) == [3]
    w = np.random.default_rng(0).normal(size=(8, 3))
    q = sweep(w.copy(), Whole(0.5), factor(g, DAMP).upper)
    assert (q[3] == np.rint(w[3] / 0.5) * 0.5).all(), "a dead column is rounded to nearest"
    with pytest.raises(ValueError, match="is not positive"):
        factor(Gram(np.full((3, 3), np.nan), np.zeros((3, 3))))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([2, 3, 4, 8]),
    st.sampled_from([16, 32]),
    st.integers(1, 70),
    st.integers(1, 9),
)
def test_a_grid_of_groups_rounds_to_nearest_as_the_plain_rounding_does(
    seed: int, bits: int, group: int, cols: int, rows: int
) -> None:
    w = np.random.default_rng(seed).normal(size=(rows, cols)).astype(np.float32)
    grid = GroupGrid(rows, cols, bits, group)
    q = sweep(np.ascontiguousarray(w.T, np.float64), grid, None)
    made = grid.weight("w", slice(0, rows))
    assert np.abs(made.dequantize() - q.T).max() <= 1e-6 * max(1.0, float(np.abs(w).max()))
    if bits == 8:
        codes, scale = round_to_int8_groups(w, group)
        assert (made.codes == codes).all() and made.scale is not None and (made.scale == scale).all()
    else:
        plain, scale, minimum = round_to_groups(w, bits, group)
        assert made.scale is not None and (made.scale == scale).all() and made.minimum is not None
        assert (made.minimum == minimum).all() and made.codes.max() < 1 << bits
        assert (
            np.mean(made.codes == plain) > 0.99 and np.abs(made.codes.astype(int) - plain).max() <= 1
        )  # ties, in FP32
        assert made.elem.bits == (4 if bits == 3 else bits)


def test_a_grid_of_rows_keeps_its_scales() -> None:
    w = np.random.default_rng(0).normal(size=(7, 20))
    scale = (np.abs(w).max(axis=1) / 127).astype(np.float32)
    grid = RowGrid(scale, 20)
    q = sweep(np.ascontiguousarray(w.T), grid, None)
    made = grid.weight("w", slice(2, 5))
    assert made.rows == 3 and np.allclose(made.dequantize(), q.T[2:5], atol=1e-6) and np.abs(made.codes).max() <= 127


def test_sums_over_tokens_are_those_of_one_product() -> None:
    random = np.random.default_rng(5)
    x, target = random.normal(size=(2, 1300, 24)).astype(np.float32)
    g = gram_of(x, target)
    wide = x.astype(np.float64)
    assert np.allclose(g.h, wide.T @ wide, rtol=1e-5, atol=1e-3)
    assert np.allclose(g.c, (target.astype(np.float64) - wide).T @ wide, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_polishing_lowers_the_error_in_every_pass_and_keeps_codes_and_values_together(seed: int, bits: int) -> None:
    w, x, target = problem(seed, cols=70, rows=16, tokens=300)
    found = factor(gram(x, target))
    goal = np.ascontiguousarray(w.T)
    grid = GroupGrid(16, 70, bits, 32)
    q = sweep(goal.copy(), grid, found.upper)
    errors = []
    for _ in range(4):
        off = q - goal
        errors.append((off * (found.h @ off)).sum(axis=0))
        q = polish(q, goal, grid, found.h, 1)
        made = grid.weight("w", slice(0, 16)).dequantize().T
        assert np.abs(made - q).max() < 1e-6
    for before, after in pairwise(errors):
        assert (after <= before * (1 + 1e-9)).all()
    assert errors[-1].sum() < 0.999 * errors[0].sum() or bits == 8


def test_polishing_reaches_what_no_single_code_betters() -> None:
    w, x, target = problem(1, cols=12, rows=3, tokens=60)
    found = factor(gram(x, target))
    goal = np.ascontiguousarray(w.T)
    grid = RowGrid(np.full(3, 0.5, np.float32), 12)
    q = polish(sweep(goal.copy(), grid, found.upper), goal, grid, found.h, 20)

    def error(values: Doubles) -> Doubles:
        return ((values - goal) * (found.h @ (values - goal))).sum(axis=0)

    best = error(q)
    for j in range(12):
        for step in (-0.5, 0.5):
            other = q.copy()
            other[j] += step
            assert (error(other) >= best - 1e-9).all()
