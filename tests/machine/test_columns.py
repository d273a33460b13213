# SPDX-License-Identifier: Apache-2.0
"""INT8 matrices column by column: they come back from their bytes, and designs that have the engine say what it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meadow.machine.engines.columns import Columns
from meadow.machine.engines.pacq import Pacq
from meadow.machine.package.read import load
from meadow.machine.storage.columns import LISTED, STRIPE, WORD_FLAG, ColumnLayout, is_columns
from meadow.machine.storage.groups import GroupFormat


@given(st.integers(1, 5000), st.integers(1, 70), st.sampled_from((1, 2, 4)), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_columns_come_back_whatever_their_size(rows: int, cols: int, ports: int, seed: int) -> None:
    layout = ColumnLayout(rows, cols, ports)
    codes = np.random.default_rng(seed).integers(-128, 128, (rows, cols)).astype(np.int8)
    stream = layout.pack(codes)
    assert stream.nbytes == layout.nbytes == 16 * layout.port_beats * ports
    assert sum(layout.stripes) == layout.column_beats and all(0 < n <= STRIPE for n in layout.stripes)
    found = layout.unpack(stream)
    assert np.array_equal(found[:, :cols], codes) and not found[:, cols:].any()


def test_a_column_lies_in_one_piece() -> None:
    """So that the ports can leave out the others."""
    layout = ColumnLayout(40, 64, 4)
    codes = np.zeros((40, 64), np.int8)
    codes[:, 5] = np.arange(1, 41)
    stream = layout.pack(codes)
    assert np.flatnonzero(stream).tolist() == list(range(5 * 48, 5 * 48 + 40))


def test_a_stream_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a matrix of 1536 bytes has 1520"):
        ColumnLayout(40, 32, 2).unpack(np.zeros(1520, np.uint8))


@pytest.mark.parametrize("word", [0, 1, WORD_FLAG | 2, WORD_FLAG | 1 << 26, GroupFormat(4, 32, False, False).word])
def test_other_words_are_not_taken_for_columns(word: int) -> None:
    assert not is_columns(word) and is_columns(WORD_FLAG) and is_columns(WORD_FLAG | LISTED)


@pytest.mark.parametrize(
    ("live", "ports", "groups"), [(0, 4, 1), (1, 4, 1), (4, 4, 1), (5, 4, 2), (64, 4, 16), (3, 1, 3)]
)
def test_live_columns_come_in_whole_groups(live: int, ports: int, groups: int) -> None:
    codes = np.zeros(64, np.int8)
    codes[:live] = -1
    assert ColumnLayout(16, 64, ports).listed_groups(codes) == groups


REFUSED = {
    "a block of more tokens than it takes": (["column_tokens=8", "block=16"], "column_gemm takes 8 tokens at once"),
    "packed weights": (["column_ports=4"], "column_gemm reads weights as they are"),
    "more ports than the board has": (["column_ports=3"], "column_ports is 3; 0, 1, 2 or 4 are possible"),
    "a number of tokens that it is not built for": (["column_tokens=7"], "column_tokens is 7"),
    "a clock above what the fabric has": (["column_clock_mhz=700"], "column_clock_mhz is 700; 1 to 600 are possible"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_engine_lacks_is_said(what: str, tiny_int8: Path, tmp_path: Path, meadowc: Any) -> None:
    settings, message = REFUSED[what]
    numbers = ["column_ports=4", *settings] if not settings[0].startswith("column_ports") else settings
    options = [word for number in numbers for word in ("--set", number)]
    more = ["--packing", "prefix"] if what == "packed weights" else []
    result = meadowc("compile", tiny_int8, "--board", "zcu102", "-o", tmp_path / "made", *options, *more)
    assert result.code == 2 and message in result.err and not (tmp_path / "made").exists()


def test_a_model_of_grouped_weights_has_no_use_for_it(tiny_int4: Path, tmp_path: Path, meadowc: Any) -> None:
    options = ("--board", "zcu102", "-o", tmp_path / "made", "--set", "column_ports=4")
    result = meadowc("compile", tiny_int4, *options)
    assert result.code == 2 and "the model has no INT8 weights" in result.err


def test_a_design_says_what_it_is_made_of(tiny_columns: Path) -> None:
    package = load(tiny_columns)
    design = package.design
    engine = design.engine(Columns)
    assert design.beside is engine and not design.engine(Pacq).ports
    assert engine.identity(design) == (0x534C4F43, 4 | 8 << 16, 8 | engine.words(design) // 8 << 16)
    assert "column_gemm at 300 MHz with 4 ports x 16 rows x 8 tokens = 512 multipliers" in str(design)
    assert all(row["format"] == WORD_FLAG and len(row["streams"]) == 1 for row in package.packing())
