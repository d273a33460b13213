# SPDX-License-Identifier: Apache-2.0
"""Packing loses nothing, shrinks what has structure, and leaves the rest alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from meadow.compiler.design import BEAT_BYTES
from meadow.compiler.layout import Layout
from meadow.compiler.pack import Packed, entropy_bits, pack
from meadow.compiler.unpack import FORMATS, Format, unpack_stream


def unpack(packed: Packed) -> NDArray[np.int8]:
    """The matrix again, by the look-up unit's numpy twin."""
    layout = packed.layout
    if packed.form is None:
        streams = np.stack([s.view(np.int8) for s in packed.streams])
    else:
        weights = np.array([layout.tile_port_rows(t) * layout.padded_cols for t in range(layout.tiles)])
        streams = np.stack([
            unpack_stream(s, packed.directory[:, p], weights, packed.table, packed.form)
            for p, s in enumerate(packed.streams)
        ])  # fmt: skip
    return layout.join(streams)[:, : layout.cols]


matrices = st.builds(
    lambda rows, cols, ports, spread, seed: (
        np.clip(np.rint(np.random.default_rng(seed).normal(0, spread, (rows, cols))), -127, 127).astype(np.int8), ports
    ),
    st.integers(1, 150), st.integers(1, 90), st.sampled_from([1, 2, 4]), st.floats(0, 60), st.integers(0, 1 << 16),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(matrices, st.sampled_from(["auto", "raw", "always"]))
def test_what_is_packed_comes_back(matrix: tuple[NDArray[np.int8], int], scheme: str) -> None:
    codes, ports = matrix
    packed = pack(codes, Layout(*codes.shape, ports, 64), 16384, scheme)
    assert (unpack(packed) == codes).all()
    assert all(s.nbytes % BEAT_BYTES == 0 for s in packed.streams)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_every_format_comes_back(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    from meadow.compiler import pack as module

    monkeypatch.setattr(module, "FORMATS", (form,))
    codes = np.clip(np.rint(np.random.default_rng(7).laplace(0, 9, (130, 341))), -127, 127).astype(np.int8)
    packed = pack(codes, Layout(*codes.shape, 4, 64), 65536, "always")
    assert packed.form == form and (unpack(packed) == codes).all()


def test_every_byte_value_comes_back() -> None:
    codes = np.tile(np.arange(-128, 128, dtype=np.int16).astype(np.int8), (8, 4))
    packed = pack(codes, Layout(*codes.shape, 2, 64), 65536, "always")
    assert (unpack(packed) == codes).all()


def test_weights_with_few_levels_shrink_towards_their_entropy() -> None:
    codes = np.rint(np.random.default_rng(2).laplace(0, 3, (576, 576))).astype(np.int8)
    packed = pack(codes, Layout(576, 576, 4, 64), 16384)
    assert packed.form is not None
    assert packed.entropy < packed.bits_per_weight < 1.25 * packed.entropy


def test_random_bytes_are_stored_raw() -> None:
    codes = np.random.default_rng(4).integers(-128, 128, (256, 512)).astype(np.int8)
    packed = pack(codes, Layout(256, 512, 4, 64), 16384)
    assert packed.form is None and packed.bits_per_weight == 8


def test_a_table_that_does_not_fit_is_not_used() -> None:
    codes = np.rint(np.random.default_rng(2).laplace(0, 3, (576, 576))).astype(np.int8)
    packed = pack(codes, Layout(576, 576, 4, 64), 16, "always")
    assert packed.form is None


def test_a_flipped_bit_does_not_come_back_as_it_was() -> None:
    codes = np.rint(np.random.default_rng(2).laplace(0, 3, (64, 64))).astype(np.int8)
    packed = pack(codes, Layout(64, 64, 1, 64), 16384, "always")
    packed.streams[0][40] ^= 0x10
    try:
        assert (unpack(packed) != codes).any()
    except ValueError as error:
        assert "stream" in str(error) or "table" in str(error)


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
        packed = pack(np.clip(np.rint(values), -127, 127).astype(np.int8), Layout(192, 576, 4, 64), 16384)
        form = str(packed.form) if packed.form is not None else "raw"
        lines.append(f"{name}: {form}, {len(packed.table)} entries, {packed.bits_per_weight:.3f} bits a weight, "
                     f"entropy {packed.entropy:.3f}")  # fmt: skip
    golden.check("\n".join(lines) + "\n")
