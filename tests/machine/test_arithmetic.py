# SPDX-License-Identifier: Apache-2.0
"""The written arithmetic against exact rational numbers and against numpy's own functions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meadow.machine.arithmetic import int8 as ar
from meadow.machine.instructions.norm import norm

finite = st.floats(min_value=-(2.0**40), max_value=2.0**40, width=32, allow_nan=False)


def test_every_entry_of_the_exp_table_is_correctly_rounded() -> None:
    for f, entry in enumerate(ar.exp2_table()):
        exact = 65535 * 2.0 ** (-f / 1024)
        assert abs(int(entry) - exact) <= 0.5


def test_exp_falls_from_one_to_nothing() -> None:
    values = ar.exp2_negative(np.arange(ar.EXP_LIMIT + 1)).astype(int)
    assert values[0] == 65535 and values[-1] == 0
    assert (np.diff(values) <= 0).all()
    exact = 65535 * np.exp2(-np.arange(ar.EXP_LIMIT + 1) / 1024)
    assert np.abs(values - exact).max() <= 1


@given(st.lists(finite, min_size=1, max_size=40))
def test_quantized_rows_are_within_half_a_step(row: list[float]) -> None:
    x = np.array([row], np.float32)
    codes, scale = ar.quantize_rows(x)
    assert np.abs(codes).max() <= 127
    peak = float(np.abs(x).max())
    if peak < float(ar.QUIET):
        assert scale[0] == 0 and not codes.any()
        return
    step = peak / 127
    error = [abs(Fraction(float(v)) - int(c) * Fraction(step)) for v, c in zip(x[0], codes[0], strict=True)]
    assert max(error) <= Fraction(step) * Fraction(1001, 2000)
    assert np.abs(codes).max() == 127


def test_subnormals_are_flushed_and_keep_their_sign() -> None:
    tiny = np.array([1e-40, -1e-40, 2.0**-126, 0.0, 1.0], np.float32)
    flushed = ar.flush(tiny)
    assert flushed.tolist() == [0.0, -0.0, 2.0**-126, 0.0, 1.0]
    assert np.signbit(flushed).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(("rows", "cols"), [(5, 32), (7, 1536), (3, 4000)])
def test_int8_products_are_exact_integers_even_at_the_extremes(rows: int, cols: int) -> None:
    codes = np.full((rows, cols), 127, np.int8)
    a = np.full((2, cols), -127, np.float32)
    found = ar.int8_products(a, codes.astype(np.float32), ar.blocks_for_exact_sums(codes))
    assert (found == np.float32(-127 * 127 * cols)).all()


def test_small_weights_need_no_pieces_and_large_ones_do() -> None:
    assert ar.blocks_for_exact_sums(np.ones((4, 8000), np.int8)) == 1
    assert ar.blocks_for_exact_sums(np.full((4, 8000), 127, np.int8)) == 8


def test_norm_is_close_to_the_real_one() -> None:
    random = np.random.default_rng(3)
    x = random.normal(0, 5, (6, 576)).astype(np.float32)
    x[2] *= 1000
    x[3, 7] = 40000
    gain = random.normal(1, 0.2, 576).astype(np.float32)
    exact = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-5) * gain
    assert np.abs(norm(x, gain, np.float32(1e-5)) - exact).max() < 1e-4 * np.abs(exact).max()


def test_a_row_of_zeros_stays_zero_through_norm_and_quantization() -> None:
    zeros = np.zeros((1, 64), np.float32)
    assert not norm(zeros, np.ones(64, np.float32), np.float32(1e-6)).any()
    codes, scale = ar.quantize_rows(zeros)
    assert not codes.any() and scale[0] == 0


def test_softmax_weights_fold_the_scales_of_the_values() -> None:
    random = np.random.default_rng(5)
    y = random.normal(0, 3, (4, 50)).astype(np.float32)
    v_scale = random.uniform(0.01, 0.3, 50).astype(np.float32)
    values = random.integers(-127, 128, (50, 16))
    visible = np.arange(50)[None, :] <= np.array([0, 9, 30, 49])[:, None]
    w, total, exponent = ar.softmax(y, v_scale, visible)
    found = ar.mix(w.astype(np.float64) @ values, total, exponent)
    p = np.where(visible, np.exp2(y - np.where(visible, y, -np.inf).max(axis=1, keepdims=True)), 0)
    exact = (p * v_scale) @ values / p.sum(axis=1, keepdims=True)
    assert w.max() <= 65535 and (w[~visible] == 0).all()
    assert np.abs(found - exact).max() < 2e-3 * np.abs(exact).max()


def test_silu_is_close_to_the_real_one_over_the_whole_range() -> None:
    gate = np.linspace(-40, 40, 20001).astype(np.float32)
    found = ar.silu_times(gate, np.ones_like(gate))
    exact = gate / (1 + np.exp(-gate.astype(np.float64)))
    assert np.abs(found - exact).max() < 1e-3


def test_rope_turns_pairs_without_changing_their_length() -> None:
    table = ar.rope_table(1.0 / 10000 ** (np.arange(16) / 16), 64)
    x = np.random.default_rng(1).normal(size=(64, 3, 32)).astype(np.float32)
    turned = ar.rope(x, table)
    length = lambda a: np.hypot(a[..., :16], a[..., 16:])  # noqa: E731
    assert np.allclose(length(turned), length(x), rtol=2e-4)  # type: ignore[no-untyped-call]
    assert (turned[0] == x[0]).all()
