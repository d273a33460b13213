# SPDX-License-Identifier: Apache-2.0
"""Grouped weights come back from their streams, and what numpy multiplies is exact: against integers and fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from meadow.compiler.engines.pacq import group_format, pack_groups
from meadow.machine.arithmetic import fp16 as pacq
from meadow.machine.storage.groups import GROUPS, WIDTHS, GroupFormat, GroupLayout
from meadow.machine.types import Weight, grouped

formats = st.builds(GroupFormat, st.sampled_from(WIDTHS), st.sampled_from(GROUPS), st.booleans(), st.booleans())
layouts = st.builds(GroupLayout, st.integers(1, 150), st.integers(1, 300), st.sampled_from((1, 2, 4)), formats)


def random_matrix(
    layout: GroupLayout, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32] | None]:
    rng = np.random.default_rng(seed)
    kind = np.float32 if layout.form.wide else np.float16
    codes = rng.integers(0, 1 << layout.form.bits, (layout.rows, layout.cols)).astype(np.uint8)
    scale, minimum = (rng.normal(size=(layout.rows, layout.groups)).astype(kind).astype(np.float32) for _ in range(2))
    return codes, scale, minimum if layout.form.minimum else None


@given(layouts, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_grouped_weights_come_back_whatever_their_size(layout: GroupLayout, seed: int) -> None:
    codes, scale, minimum = random_matrix(layout, seed)
    streams = layout.pack(codes, scale, minimum)
    assert {s.nbytes for s in streams} == {16 * layout.port_beats}
    found = layout.unpack(streams)
    assert (found[0][:, : layout.cols] == codes).all() and (found[1] == scale).all()
    assert (found[0][:, layout.cols :] == layout.form.zero).all()
    assert minimum is None or np.array_equal(found[2], minimum)  # type: ignore[arg-type]


@given(formats)
def test_a_format_word_names_its_format(form: GroupFormat) -> None:
    assert GroupFormat.of_word(form.word) == form


@pytest.mark.parametrize(
    "word", [0, 1 << 16, 4 | 5 << 8, 1 << 24, 1 << 24 | 3 | 5 << 8, 1 << 24 | 4 | 3 << 8, 1 << 25 | 4 | 5 << 8]
)
def test_an_unknown_format_word_is_refused(word: int) -> None:
    with pytest.raises(ValueError, match="possible|no format"):
        GroupFormat.of_word(word)


def as_float(value: Fraction) -> np.float32:
    """Rounded once, to nearest even, for numbers of up to 53 bits."""
    return np.float32(value.numerator / value.denominator)


@given(st.builds(GroupLayout, st.integers(1, 5), st.integers(1, 70), st.just(1), formats), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_a_product_is_exact_in_its_groups_and_rounded_where_it_is_written(layout: GroupLayout, seed: int) -> None:
    codes, scale, minimum = random_matrix(layout, seed)
    rng = np.random.default_rng(seed)
    a = (rng.normal(size=layout.padded_cols) * np.exp2(rng.integers(-24, 12, layout.padded_cols))).astype(np.float16)
    a[layout.cols :] = 0
    form = layout.form
    full, *_ = layout.unpack(layout.pack(codes, scale, minimum))
    y = pacq.linear(a[None], pacq.grouped_matrix(full, form.zero, scale, minimum, form.group))
    for n in range(layout.rows):
        total = np.float32(0)
        for g in range(layout.groups):
            some = slice(g * form.group, (g + 1) * form.group)
            values = [Fraction(float(v)) for v in a[some]]
            exact = sum((v * (int(c) - form.zero) for v, c in zip(values, full[n, some], strict=True)), Fraction(0))
            term = as_float(exact) * scale[n, g]
            if minimum is not None:
                term = term + as_float(sum(values, Fraction(0))) * minimum[n, g]
            total = total + term
        assert total == y[0, n]


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
def test_limbs_add_up_and_are_short(values: list[float]) -> None:
    a = pacq.half(np.array(values, np.float32)).astype(np.float32)
    parts = pacq.limbs(a, 12)
    assert (np.sum([p.astype(np.float64) for p in parts], axis=0) == a).all()
    for part in parts:
        if part.any():
            unit = np.abs(part[part != 0]).min()
            assert np.abs(part).max() < 2.0**24 * unit


def test_fp16_saturates_and_keeps_subnormals() -> None:
    x = np.array([1e6, -1e6, 65519, 2.0**-24, 2.0**-25, 3 * 2.0**-26, 1 + 2.0**-11], np.float32)
    assert pacq.half(x).astype(np.float32).tolist() == [65504, -65504, 65504, 2.0**-24, 0, 2.0**-24, 1]


def test_a_matrix_is_streamed_in_the_least_that_says_the_same() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 16, (8, 64)).astype(np.uint8)
    half = rng.normal(size=(8, 2)).astype(np.float16).astype(np.float32)
    third = (half / np.float32(3)).astype(np.float32)
    made = {
        "middle": Weight("w", grouped(4, 32), codes, half, -8 * half),
        "minimum": Weight("w", grouped(4, 32), codes, half, half[::-1].copy()),
        "wide": Weight("w", grouped(4, 32), codes, third, -8 * third),
        "bytes": Weight("w", grouped(8, 32), codes.view(np.int8), half),
    }
    found = {name: group_format(w) for name, w in made.items()}
    assert found == {
        "middle": GroupFormat(4, 32, False, False),
        "minimum": GroupFormat(4, 32, True, False),
        "wide": GroupFormat(4, 32, False, True),
        "bytes": GroupFormat(8, 32, False, False),
    }
    for name, weight in made.items():
        layout = GroupLayout(8, 64, 2, found[name])
        back, scale, minimum = layout.unpack(pack_groups(weight, 0, layout).streams)
        least = (minimum if minimum is not None else -scale * np.float32(layout.form.zero))[:, :, None]
        w = back.reshape(8, 2, 32) * scale[:, :, None] + least
        assert np.allclose(w.reshape(8, 64), weight.dequantize(), rtol=1e-6)


def test_a_sum_of_more_than_53_bits_is_rounded_once() -> None:
    """Bytes in groups of 256, the largest activations and the least one: FP64 would round before FP32 does."""
    a = np.zeros(256, np.float16)
    a[:200], a[200] = 65504, 2048
    codes = np.zeros((1, 256), np.uint8)
    codes[0, :200] = 255
    for extra in range(1, 200):
        codes[0, 200] = extra
        for sign in (1, -1):
            a[201], codes[0, 201] = sign * 2.0**-24, 1
            exact = sum((Fraction(float(v)) * int(c) for v, c in zip(a, codes[0], strict=True)), Fraction(0))
            y = pacq.linear(a[None], pacq.grouped_matrix(codes, 0, np.ones((1, 1), np.float32), None, 256))
            low, high = sorted((np.nextafter(y[0, 0], np.float32(np.inf)), np.nextafter(y[0, 0], np.float32(-np.inf))))
            error = abs(Fraction(float(y[0, 0])) - exact)
            assert error <= min(abs(Fraction(float(low)) - exact), abs(Fraction(float(high)) - exact))
