# SPDX-License-Identifier: Apache-2.0
"""The C++ arithmetic against its numpy twin, bit for bit, corners included; and the shims against exact integers."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from meadow.compiler.engines.array import pack
from meadow.machine.arithmetic import int8 as ar
from meadow.machine.instructions.norm import norm
from meadow.machine.storage.rows import Layout

pytestmark = pytest.mark.csim
CORNERS = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.0**-126,
    1e-40,
    -1e-40,
    2.0**-101,
    2.0**-99,
    3e-30,
    65504.0,
    1e9,
    -1e9,
    2.0**40,
    0.5,
    127.0,
]


def driver(package: Path, folder: Path, *flags: str) -> ctypes.CDLL:
    library = folder / "driver.so"
    hls = package / "hls"
    command = [
        "g++",
        "-std=c++17",
        "-O2",
        "-march=native",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        "-fvisibility=default",
        "-fno-gnu-unique",
        "-Wno-unknown-pragmas",
        *flags,
        f"-I{hls / 'sim'}",
        f"-I{hls}",
        str(Path(__file__).with_name("driver.cpp")),
        "-o",
        str(library),
    ]
    subprocess.run(command, check=True)
    found = ctypes.CDLL(str(library))
    found.range_of.restype = ctypes.c_uint64
    found.unpack_prefix_words.restype = ctypes.c_int64
    return found


@pytest.fixture(scope="module")
def cpp(tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return driver(tiny_package, tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def cpp_plain(tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Without the SIMD lanes of the C simulation: the loops that are synthesized."""
    return driver(tiny_package, tmp_path_factory.mktemp("plain"), "-DMEADOW_PLAIN_LANES")


def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def rows(seed: int, count: int, cols: int) -> NDArray[np.float32]:
    """Random rows over many magnitudes, some of corners only, some zero."""
    random = np.random.default_rng(seed)
    x = random.normal(0, 1, (count, cols)) * 10.0 ** random.integers(-30, 8, (count, 1))
    x[0] = 0
    x[1] = random.choice(CORNERS, cols)
    x[2, :] = 1e-40
    x[3, 0] = 1e8
    return x.astype(np.float32)


def same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool((a.view(np.uint32) == b.view(np.uint32)).all()) if a.dtype == np.float32 else bool((a == b).all())


def test_exp_is_the_same_for_every_argument(cpp: ctypes.CDLL) -> None:
    out = np.zeros(ar.EXP_LIMIT + 1, np.uint16)
    cpp.exp2_all(pointer(out))
    assert (out == ar.exp2_negative(np.arange(ar.EXP_LIMIT + 1))).all()


@pytest.mark.parametrize("cols", [1, 7, 341, 352])
def test_quantized_rows_are_the_same(cols: int, cpp: ctypes.CDLL) -> None:
    x = rows(cols, 40, cols)
    codes, scale = np.zeros(x.shape, np.int8), np.zeros(len(x), np.float32)
    cpp.quantize(pointer(x), len(x), cols, pointer(codes), pointer(scale))
    expected = ar.quantize_rows(x)
    assert same(codes, expected[0]) and same(scale, expected[1])


def test_rows_are_quiet_below_the_same_peak(cpp: ctypes.CDLL) -> None:
    peaks = float(ar.QUIET) * np.array([0.25, 0.5, 0.999, 1, 1.001, 1.5, 2, 3, 3.999, 4, 8])
    x = (np.linspace(-1, 1, 33)[None, :] * peaks[:, None]).astype(np.float32)
    codes, scale = np.zeros(x.shape, np.int8), np.zeros(len(x), np.float32)
    cpp.quantize(pointer(x), len(x), 33, pointer(codes), pointer(scale))
    expected = ar.quantize_rows(x)
    assert same(codes, expected[0]) and same(scale, expected[1]) and not scale[0] and scale[-1]


@pytest.mark.parametrize("cols", [1, 7, 341, 352])
def test_norms_are_the_same(cols: int, cpp: ctypes.CDLL) -> None:
    x = rows(100 + cols, 40, cols)
    gain = np.random.default_rng(0).normal(1, 0.5, cols).astype(np.float32)
    out = np.zeros_like(x)
    eps = np.float32(1e-5)
    inverse = np.float32(1) / np.float32(cols)
    cpp.norm(
        pointer(x),
        pointer(gain),
        len(x),
        cols,
        ctypes.c_float(float(eps)),
        ctypes.c_float(float(inverse)),
        pointer(out),
    )
    assert same(out, norm(x, gain, eps))


def test_silu_is_the_same(cpp: ctypes.CDLL) -> None:
    random = np.random.default_rng(9)
    gate = np.concatenate([random.normal(0, 6, 20000), CORNERS, np.linspace(-20, 20, 4001)]).astype(np.float32)
    up = random.normal(0, 3, gate.size).astype(np.float32)
    out = np.zeros_like(gate)
    cpp.silu(pointer(gate), pointer(up), gate.size, pointer(out))
    assert same(out, ar.silu_times(gate, up))


def test_rescaling_is_the_same(cpp: ctypes.CDLL) -> None:
    random = np.random.default_rng(4)
    total = random.integers(-(2**31), 2**31, 20000).astype(np.int32)
    a = (10.0 ** random.uniform(-25, 5, total.size)).astype(np.float32)
    w = (10.0 ** random.uniform(-25, 3, total.size)).astype(np.float32)
    out = np.zeros(total.size, np.float32)
    cpp.rescale_all(pointer(total), pointer(a), pointer(w), total.size, pointer(out))
    expected = ar.flush(total.astype(np.float32) * ar.flush(a * w))
    assert same(out, expected)


def test_rotation_is_the_same(cpp: ctypes.CDLL) -> None:
    table = ar.rope_table(1.0 / 10000 ** (np.arange(16) / 16), 60)
    x = rows(5, 60, 32)
    out = x.copy()
    flat = np.ascontiguousarray(table.reshape(60, 32))
    cpp.rope(pointer(out), pointer(flat), 60, 32)
    assert same(out, ar.rope(x[:, None, :], table)[:, 0])


def test_flushing_is_the_same(cpp: ctypes.CDLL) -> None:
    x = np.array(CORNERS, np.float32)
    out = np.zeros_like(x)
    cpp.flush_all(pointer(x), x.size, pointer(out))
    assert same(out, ar.flush(x))


def test_rounding_takes_every_tie_to_even(cpp: ctypes.CDLL) -> None:
    """By the bits: against exact numbers, at every half up to 2^17 and around powers of two up to 2^22."""
    halves = np.arange(-(1 << 18), (1 << 18) + 1) / 2
    powers = np.concatenate([2.0**e + np.arange(-8, 9) / 4 for e in range(-30, 22)])
    near = np.nextafter(halves.astype(np.float32), np.float32(np.inf))
    x = np.concatenate([halves, powers, -powers, near, [0.0, -0.0, 1e-40]]).astype(np.float32)
    out = np.zeros(x.size, np.int32)
    cpp.round_all(pointer(x), x.size, pointer(out))
    assert same(out, np.rint(x.astype(np.float64)).astype(np.int32))


def test_two_tokens_in_one_slice_have_exact_sums(cpp: ctypes.CDLL) -> None:
    """Extremes of every sign, and a quarter of a million random ones: the fields of a cascade of eight stay apart."""
    random = np.random.default_rng(3)
    extremes = np.array([-127, 127, 0, 1, -1], np.int8)
    a = np.concatenate([random.integers(-127, 128, (6000, 32)), random.choice(extremes, (2000, 32))]).astype(np.int8)
    b = np.concatenate([random.integers(-127, 128, (6000, 32)), random.choice(extremes, (2000, 32))]).astype(np.int8)
    w = np.concatenate([random.integers(-128, 128, (6000, 32)), random.choice([-128, 127], (2000, 32))]).astype(np.int8)
    for row, (x, y, z) in enumerate([(127, 127, -128), (-127, 127, -128), (127, -127, -128), (-127, -127, -128)]):
        a[row], b[row], w[row] = x, y, z
    low, high = np.zeros(len(a), np.int32), np.zeros(len(a), np.int32)
    cpp.dot_pairs(pointer(a), pointer(b), pointer(w), len(a), pointer(low), pointer(high))
    exact = w.astype(np.int32)
    assert same(low, (a.astype(np.int32) * exact).sum(axis=1).astype(np.int32))
    assert same(high, (b.astype(np.int32) * exact).sum(axis=1).astype(np.int32))


def test_a_stored_row_keeps_what_lies_before_it_in_its_beat(cpp: ctypes.CDLL) -> None:
    before = np.arange(1000, 1256, dtype=np.float32)
    for first in range(9):
        for count in (1, 2, 3, 4, 5, 7, 8, 9, 16, 33):
            x, after = np.arange(1, count + 1, dtype=np.float32), np.zeros(256, np.float32)
            cpp.store_row(pointer(x), first, count, pointer(before), pointer(after))
            end = -(-(first + count) // 4) * 4
            assert same(after[:first], before[:first]) and same(after[first : first + count], x)
            assert not after[first + count : end].any() and same(after[end:], before[end:])


@pytest.mark.parametrize("spread", [0.3, 2, 12, 45])
@pytest.mark.parametrize("library", ["cpp", "cpp_plain"])
def test_prefix_codes_unpack_a_beat_a_cycle(library: str, spread: float, request: pytest.FixtureRequest) -> None:
    """Nearly: the queue fills first, and 32 weights per cycle are the most that come out."""
    found = request.getfixturevalue(library)
    weights = np.clip(np.rint(np.random.default_rng(8).laplace(0, spread, (64, 768))), -127, 127).astype(np.int8)
    packed = pack(weights, Layout(64, 768, 1, 64), "prefix")
    beats, words = packed.streams[0].nbytes // 16, weights.size // 32
    out = np.zeros(weights.shape, np.int8)
    cycles = found.unpack_prefix_words(
        pointer(packed.streams[0]), beats, words, 768 // 32, pointer(packed.coded.table), pointer(out)
    )
    assert same(out, weights)
    assert max(beats, words) <= cycles <= 1.01 * max(beats, words) + 16


@pytest.mark.parametrize("library", ["cpp", "cpp_plain"])
def test_a_stream_that_ends_early_is_caught_by_the_prefix_decoder(library: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(library)
    weights = np.rint(np.random.default_rng(8).laplace(0, 9, (32, 64))).astype(np.int8)
    packed = pack(weights, Layout(32, 64, 1, 64), "prefix")
    out = np.zeros(weights.shape, np.int8)
    beats = packed.streams[0].nbytes // 16 - 2
    made = found.unpack_prefix_words(
        pointer(packed.streams[0]), beats, 64, 2, pointer(packed.coded.table), pointer(out)
    )
    assert made == -1


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**128 - 1), st.integers(0, 127), st.integers(1, 64), st.integers(0, 2**64 - 1))
def test_ranges_of_a_beat_are_those_of_exact_integers(
    cpp: ctypes.CDLL, value: int, lo: int, width: int, bits: int
) -> None:
    hi = min(127, lo + width - 1)
    mask = (1 << (hi - lo + 1)) - 1
    out = (ctypes.c_uint64 * 2)()
    u64 = ctypes.c_uint64
    found = cpp.range_of(u64(value & (2**64 - 1)), u64(value >> 64), hi, lo, u64(bits), out)
    assert found == (value >> lo) & mask
    assert out[0] | out[1] << 64 == (value & ~(mask << lo)) | ((bits & mask) << lo)


def test_a_stream_read_when_empty_or_left_with_data_is_an_error(cpp: ctypes.CDLL) -> None:
    assert cpp.stream_errors() == 3


def test_accesses_that_wrap_around_are_refused_too(cpp: ctypes.CDLL) -> None:
    u64 = ctypes.c_uint64
    allowed = [(0, 256), (4080, 1), (4096, 0)]
    refused = [(0, 257), (4096, 1), (8, 1), (2**64 - 16, 1), (0, 2**60), (16, 2**64 - 1), (2**64 - 16, 2)]
    assert all(cpp.refuses(u64(a), u64(n)) == 0 for a, n in allowed)
    assert all(cpp.refuses(u64(a), u64(n)) == 1 for a, n in refused)


def test_norms_are_the_same_at_every_exponent(cpp: ctypes.CDLL) -> None:
    """Below 2^-45 and above 2^60 a row's exponent is clamped, in both."""
    random = np.random.default_rng(12)
    x = (random.uniform(-1, 1, (130, 33)) * np.exp2(np.arange(-66, 64))[:, None]).astype(np.float32)
    gain = random.normal(1, 0.5, 33).astype(np.float32)
    out = np.zeros_like(x)
    inverse = np.float32(1) / np.float32(33)
    cpp.norm(pointer(x), pointer(gain), len(x), 33, ctypes.c_float(1e-30), ctypes.c_float(float(inverse)), pointer(out))
    assert same(out, norm(x, gain, np.float32(1e-30)))
