# SPDX-License-Identifier: Apache-2.0
"""Packing loses nothing, shrinks what has structure, and leaves the rest alone."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from meadow.compiler.engines.array import SCHEMES, Packed, pack, published_bytes
from meadow.compiler.engines.stored import entropy_bits
from meadow.machine.engines.array import Array
from meadow.machine.storage.coded import Coded, unpack_alike
from meadow.machine.storage.coded import unpack as unpack_streams
from meadow.machine.storage.packets import PACKETS, Packets
from meadow.machine.storage.prefix import Prefix
from meadow.machine.storage.prefix_code import bounded_lengths, canonical_codes, code_lengths, decoding_table
from meadow.machine.storage.rows import Layout
from meadow.machine.units import BEAT_BYTES, CODE_BITS, LANE_COLS


def unpack(packed: Packed) -> NDArray[np.int8]:
    """The matrix again, by the look-up unit's numpy twin."""
    layout = packed.layout
    if not packed.form.packed:
        (streams,) = packed.form.decode([packed.coded], layout)
    else:
        streams = unpack_streams(packed.form, packed.coded, layout)
    return layout.join(streams)[:, : layout.cols]


matrices = st.builds(
    lambda rows, cols, ports, spread, seed: (
        np.clip(np.rint(np.random.default_rng(seed).normal(0, spread, (rows, cols))), -127, 127).astype(np.int8),
        ports,
    ),
    st.integers(1, 150),
    st.integers(1, 90),
    st.sampled_from([1, 2, 4]),
    st.floats(0, 60),
    st.integers(0, 1 << 16),
)


@settings(max_examples=120, deadline=None)
@given(matrices, st.sampled_from(SCHEMES))
def test_packed_weights_unpack_to_the_same(matrix: tuple[NDArray[np.int8], int], scheme: str) -> None:
    codes, ports = matrix
    packed = pack(
        codes,
        Layout(codes.shape[0], codes.shape[1], ports, 64),
        scheme,
        units=Array(prefix_codes=1, lookup_entries=16384),
    )
    assert (unpack(packed) == codes).all()
    assert all(s.nbytes % BEAT_BYTES == 0 for s in packed.streams)


@pytest.mark.parametrize("form", PACKETS, ids=str)
def test_every_format_of_packets_comes_back(form: Packets, monkeypatch: pytest.MonkeyPatch) -> None:
    from meadow.machine.storage import packets as module

    monkeypatch.setattr(module, "PACKETS", (form,))
    codes = np.clip(np.rint(np.random.default_rng(7).laplace(0, 9, (130, 341))), -127, 127).astype(np.int8)
    packed = pack(
        codes,
        Layout(codes.shape[0], codes.shape[1], 4, 64),
        "frequency",
        units=Array(prefix_codes=1, lookup_entries=65536),
    )
    assert packed.form == form and (unpack(packed) == codes).all()


@pytest.mark.parametrize("scheme", ["prefix", "frequency"])
def test_every_byte_value_comes_back(scheme: str) -> None:
    codes = np.tile(np.arange(-128, 128, dtype=np.int16).astype(np.int8), (8, 4))
    packed = pack(
        codes, Layout(codes.shape[0], codes.shape[1], 2, 64), scheme, units=Array(prefix_codes=1, lookup_entries=65536)
    )
    assert packed.form.packed and (unpack(packed) == codes).all()


@pytest.mark.parametrize("value", [0, -128, 127])
def test_a_matrix_of_one_value_comes_back(value: int) -> None:
    codes = np.full((70, 64), value, np.int8)
    packed = pack(codes, Layout(codes.shape[0], codes.shape[1], 2, 64), "prefix")
    assert packed.form.packed and packed.coded.entries == 1 and (unpack(packed) == codes).all()


@pytest.mark.parametrize("cols", [576, 1536])
@pytest.mark.parametrize(("tile_rows", "share"), [(256, 0.98), (128, 0.97)])
def test_prefix_codes_come_near_the_entropy(cols: int, tile_rows: int, share: float) -> None:
    """Lanes are padded to the longest of their tile, so larger tiles lose less: two percent in 64 rows a port, three in 32."""
    codes = np.clip(np.rint(np.random.default_rng(2).laplace(0, 12, (576, cols))), -127, 127).astype(np.int8)
    packed = pack(codes, Layout(576, cols, 4, tile_rows))
    assert isinstance(packed.form, Prefix)
    assert packed.entropy < packed.bits_per_weight < packed.entropy / share


def test_columns_that_differ_are_shared_among_the_lanes() -> None:
    """Every fourth column is wide: turned by an odd number of lanes a row, no lane keeps them."""
    spread = np.where(np.arange(576) % 4 == 0, 40, 4)
    codes = np.clip(np.rint(np.random.default_rng(3).laplace(0, spread, (1024, 576))), -127, 127).astype(np.int8)
    packed = pack(codes, Layout(1024, 576, 4, 256), "prefix")
    assert packed.form.packed and packed.bits_per_weight < packed.entropy / 0.98 and (unpack(packed) == codes).all()


def test_a_tile_that_no_lane_could_wait_for_is_stored_raw() -> None:
    """Words whose first column is wide in each row that meets lane 0: it would be far ahead of the others."""
    codes = np.zeros((64, 2048), np.int8)
    for row in range(64):
        codes[row, -5 * row % 32 :: 32] = np.random.default_rng(row).integers(-127, 128, 64)
    packed = pack(codes, Layout(64, 2048, 1, 64), "prefix")
    assert not packed.form.packed and (unpack(packed) == codes).all()


def test_the_published_steps_shrink_step_by_step_and_prefix_codes_more() -> None:
    random = np.random.default_rng(5)
    codes = np.clip(np.rint(random.laplace(0, 3, (512, 512)) * random.lognormal(0, 0.6, (512, 1))), -127, 127)
    codes = codes.astype(np.int8)
    sizes = [
        pack(codes, Layout(512, 512, 4, 128), scheme, units=Array(prefix_codes=1, lookup_entries=65536)).nbytes
        for scheme in ("naive", "packets", "frequency", "prefix")
    ]
    assert codes.size > sizes[0] > sizes[1] > sizes[2] > sizes[3]
    assert published_bytes(codes, "naive") > published_bytes(codes, "frequency") > sizes[3]


def test_the_published_arithmetic_is_that_of_the_paper() -> None:
    """Fact 10: 1,272 unique chunks of two have ids of 11 bits, 16 / 11 = 1.45 times less without the table."""
    pairs = np.stack([np.arange(1272) // 100, np.arange(1272) % 100], axis=1).astype(np.int8)
    codes = np.tile(pairs.reshape(-1), 400).reshape(400, -1)
    assert codes.size / (published_bytes(codes, "naive") - 2 * 1272) == pytest.approx(16 / 11)


def huffman(counts: NDArray[np.int64]) -> int:
    """Bits of an unlimited Huffman code, by the textbook."""
    import heapq

    heap = [int(n) for n in counts if n]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        pair = heapq.heappop(heap) + heapq.heappop(heap)
        total += pair
        heapq.heappush(heap, pair)
    return total


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=256, max_size=256), st.integers(8, CODE_BITS))
def test_code_lengths_are_those_of_the_best_bounded_code(values: list[int], longest: int) -> None:
    counts = np.array(values, np.int64)
    counts[:2] += 1
    lengths = bounded_lengths(counts, longest)
    used = counts > 0
    assert (lengths[used] >= 1).all() and (lengths <= longest).all() and (lengths[~used] == 0).all()
    assert (0.5 ** lengths[used].astype(float)).sum() == 1  # complete
    bits, best = int((counts * lengths).sum()), huffman(counts)
    assert bits >= best
    if bounded_lengths(counts, 64).max() <= longest:
        assert bits == best


symbol_counts = st.builds(
    lambda used, steep, seed: np.bincount(
        np.random.default_rng(seed).permutation(256)[:used],
        weights=np.ceil(1e6 * np.exp(-steep * np.random.default_rng(seed).random(used))),
        minlength=256,
    ).astype(np.int64),
    st.integers(1, 256),
    st.floats(0, 16),
    st.integers(0, 1 << 16),
)


@settings(max_examples=150, deadline=None)
@given(symbol_counts)
def test_two_tables_tell_the_length_of_every_code_and_cost_little(counts: NDArray[np.int64]) -> None:
    lengths = code_lengths(counts)
    codes, table, entries = canonical_codes(lengths)
    used = np.flatnonzero(counts)
    assert entries == len(used) and (lengths[used] > 0).all() and len(table) == 64 + 16 + 256
    found = decoding_table(table, entries)
    for symbol in used:
        length = int(lengths[symbol])
        first = int(codes[symbol]) << CODE_BITS - length
        windows = found[first : first + (1 << CODE_BITS - length)]
        assert (windows == (symbol | length << 8)).all()
    assert np.count_nonzero(found) == sum(1 << CODE_BITS - int(n) for n in lengths[used])
    bits, best = (
        int(lengths.astype(np.int64) @ counts),
        int(bounded_lengths(counts, CODE_BITS).astype(np.int64) @ counts),
    )
    assert best <= bits <= best + 0.1 * counts.sum()


def test_the_search_finds_the_best_code_that_two_tables_tell() -> None:
    """Against every way to split the symbols between the tables, by the best code of each."""
    counts = np.zeros(256, np.int64)
    counts[:12] = [900, 500, 300, 200, 150, 90, 50, 30, 20, 9, 4, 1]
    found = int(code_lengths(counts).astype(np.int64) @ counts)
    assert found == brute(sorted(counts[:12].tolist(), reverse=True))


def brute(counts: list[int]) -> int:
    """Bits of the best code: lengths of the first table fill 60 of its 64 entries, the others at most the escape's 64."""

    @cache
    def least(at: int, entries: int, second: bool) -> float:
        if at == len(counts):
            return 0 if second or entries == 0 else float("inf")
        best = least(at, 64, True) if not second and entries == 0 else float("inf")
        for length in range(5 if second else 1, CODE_BITS + 1):
            below = length - (10 if second else 6)
            units, end = max(1, 1 << max(0, -below)), at + (1 << max(0, below))
            if units <= entries and (end <= len(counts) or second):
                best = min(best, length * sum(counts[at:end]) + least(min(end, len(counts)), entries - units, second))
        return best

    whole = np.zeros(256, np.int64)
    whole[: len(counts)] = counts
    return int(min(least(0, 60, False), int(bounded_lengths(whole, 6).astype(np.int64) @ whole)))


def test_codes_are_canonical_and_free_of_prefixes() -> None:
    lengths = code_lengths(np.bincount(np.random.default_rng(1).geometric(0.03, 10**5) % 256, minlength=256))
    codes, _, entries = canonical_codes(lengths)
    texts = sorted(f"{codes[s]:0{lengths[s]}b}" for s in np.flatnonzero(lengths))
    assert entries == len(texts)
    assert not any(b.startswith(a) for a, b in itertools.pairwise(texts))


def test_random_bytes_are_stored_raw() -> None:
    codes = np.random.default_rng(4).integers(-128, 128, (256, 512)).astype(np.int8)
    packed = pack(codes, Layout(256, 512, 4, 64), units=Array(prefix_codes=1, lookup_entries=16384))
    assert not packed.form.packed and packed.bits_per_weight == 8


def test_a_format_that_the_engine_cannot_unpack_is_not_used() -> None:
    codes = np.rint(np.random.default_rng(2).laplace(0, 3, (576, 576))).astype(np.int8)
    assert not pack(
        codes, Layout(576, 576, 4, 64), "frequency", units=Array(prefix_codes=1, lookup_entries=16)
    ).form.packed
    assert not pack(codes, Layout(576, 576, 4, 64), "auto", units=Array()).form.packed


def test_time_on_the_bus_is_the_slower_of_fetching_and_unpacking() -> None:
    """Weights of half a bit leave the bus idle: the unit gives LANE_COLS weights per cycle, no more."""
    codes = (np.random.default_rng(3).random((256, 512)) < 0.1).astype(np.int8)
    packed = pack(codes, Layout(256, 512, 4, 64))
    assert packed.bits_per_weight < 2 and packed.unpack_cycles == 64 * 512 // LANE_COLS
    assert packed.bus_cycles == packed.unpack_cycles > packed.fetch_cycles


@pytest.mark.parametrize("scheme", ["prefix", "frequency"])
def test_a_flipped_bit_does_not_come_back_as_it_was(scheme: str) -> None:
    codes = np.rint(np.random.default_rng(2).laplace(0, 3, (64, 64))).astype(np.int8)
    for bit in range(0, 512, 37):
        packed = pack(codes, Layout(64, 64, 1, 64), scheme, units=Array(prefix_codes=1, lookup_entries=16384))
        packed.streams[0][bit // 8] ^= 1 << bit % 8
        try:
            assert (unpack(packed) != codes).any()
        except ValueError as error:
            assert "stream" in str(error) or "table" in str(error)


def test_a_stream_that_is_cut_short_is_refused() -> None:
    codes = np.rint(np.random.default_rng(2).laplace(0, 3, (64, 64))).astype(np.int8)
    packed = pack(codes, Layout(64, 64, 1, 64), "prefix")
    short = (packed.coded.directory - 4).astype(np.uint32)
    with pytest.raises(ValueError, match="stream of port 0"):
        unpack_streams(
            packed.form,
            Coded(packed.streams, short, packed.coded.table, packed.coded.entries),
            packed.layout,
        )
    cut = (packed.streams[0][: -4 * BEAT_BYTES],)
    with pytest.raises(ValueError, match="fewer weights"):
        unpack_streams(packed.form, Coded(cut, short, packed.coded.table, packed.coded.entries), packed.layout)


@pytest.mark.parametrize("scheme", ["prefix", "frequency"])
def test_tables_and_directories_that_do_not_fit_are_refused(scheme: str) -> None:
    codes = np.rint(np.random.default_rng(2).laplace(0, 3, (200, 64))).astype(np.int8)
    packed = pack(codes, Layout(200, 64, 2, 64), scheme, units=Array(prefix_codes=1, lookup_entries=16384))
    whole = Coded(packed.streams, packed.coded.directory, packed.coded.table, packed.coded.entries)
    weights = packed.layout
    moved = packed.coded.directory.copy()
    moved[0] -= 4
    moved[1] += 4
    assert packed.form.packed
    for damage in (
        {"entries": 0},
        {"entries": 10**6},
        {"table": packed.coded.table[:10]},
        {"directory": packed.coded.directory[:0]},
        {"directory": np.vstack([packed.coded.directory, packed.coded.directory[:1] * 0])},
        {"directory": packed.coded.directory[:, :1]},
        {"directory": moved},
    ):
        with pytest.raises(ValueError, match="table|directory|stream"):
            unpack_streams(packed.form, whole._replace(**damage), weights)


def test_matrices_that_are_unpacked_together_come_back_as_alone() -> None:
    layout = Layout(150, 96, 2, 64)
    several = [
        np.clip(np.rint(np.random.default_rng(n).laplace(0, 2 + 9 * n, (150, 96))), -127, 127).astype(np.int8)
        for n in range(4)
    ]
    several.append(np.full((150, 96), -3, np.int8))
    packed = [pack(codes, layout, "prefix") for codes in several]
    stored = [Coded(p.streams, p.coded.directory, p.coded.table, p.coded.entries) for p in packed]
    for codes, streams in zip(several, unpack_alike(packed[0].form, stored, layout), strict=True):
        assert (layout.join(streams)[:, :96] == codes).all()


def test_entropy_is_that_of_the_definition() -> None:
    assert entropy_bits(np.array([1, 1, 2, 2, 3, 3, 4, 4], np.int8)) == 2
    assert entropy_bits(np.zeros(100, np.int8)) == 0


@given(st.integers(1, 300), st.integers(1, 100), st.sampled_from([1, 2, 4]), st.sampled_from([32, 64]))
def test_splitting_over_ports_joins_again(rows: int, cols: int, ports: int, tile_rows: int) -> None:
    layout = Layout(rows, cols, ports, tile_rows)
    codes = np.random.default_rng(rows * cols).integers(-128, 128, (rows, cols)).astype(np.int8)
    streams = layout.split(codes)
    assert streams.shape == (ports, layout.port_rows, layout.padded_cols)
    assert (layout.join(streams)[:, :cols] == codes).all()
    assert (streams[0, 0, :cols] == codes[0]).all()
    assert sum(layout.tile_port_rows(t) for t in range(layout.tiles)) == layout.port_rows


def test_what_packing_makes_of_two_kinds_of_weights(golden: Any) -> None:
    random = np.random.default_rng(11)
    kinds = {"laplace 3": random.laplace(0, 3, (192, 576)), "gauss 30": random.normal(0, 30, (192, 576))}
    lines = []
    for name, values in kinds.items():
        packed = pack(np.clip(np.rint(values), -127, 127).astype(np.int8), Layout(192, 576, 4, 64))
        form = str(packed.form) if packed.form.packed else "raw"
        lines.append(
            f"{name}: {form}, {packed.coded.entries} entries, {packed.bits_per_weight:.3f} bits per weight, "
            f"entropy {packed.entropy:.3f}"
        )
    golden.check("\n".join(lines) + "\n")
