# SPDX-License-Identifier: Apache-2.0
"""INT8 matrices column by column: they come back from their bytes, and designs that have the engine say what it lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meadow import boards
from meadow.compiler.engines.columns import ColumnsPlanner
from meadow.compiler.size.fit import fit
from meadow.compiler.sources.onnx.read import read
from meadow.machine.engines.columns import Columns
from meadow.machine.engines.pacq import Pacq
from meadow.machine.errors import DeviceError
from meadow.machine.package.read import load, manifest_digest, sha256
from meadow.machine.program import CHUNK_LIMIT
from meadow.machine.storage.columns import LISTED, STRIPE, WORD_FLAG, ColumnLayout, is_columns
from meadow.machine.storage.groups import GroupFormat
from meadow.machine.types import I8, Weight


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
    "numbers of both engines": (
        ["column_ports=4", "weight_ports=4"],
        "--set weight_ports and column_ports: a design has one engine for INT8 weights",
    ),
    "tiles that are no whole beats": (["column_ports=4", "tile_rows=20"], "column_gemm takes multiples of 16"),
    "a clock beside which none is made": (
        ["column_ports=4", "clock_mhz=350"],
        "column_clock_mhz is 300, which no MMCM",
    ),
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


CHOSEN: dict[str, tuple[tuple[str, ...], str, str]] = {
    "nothing": ((), "zcu102", "column_gemm"),
    "its tokens": (("column_tokens=8",), "zcu102", "4 ports x 16 rows x 8 tokens"),
    "one token": (("column_tokens=1",), "zcu102", "4 ports x 16 rows x 1 tokens"),
    "many tokens, small blocks": (("column_tokens=32", "block=8"), "zcu102", "x 32 tokens"),
    "a context of one token": (("column_ports=2", "context=1"), "zcu102", "column_gemm"),
    "a clock that goes with none of its": (("clock_mhz=350",), "zcu102", "weight ports x 32"),
    "tiles that it does not take": (("tile_rows=20",), "zcu102", "weight ports x 32"),
    "blocks that it does not take": (("block=64",), "zcu102", "weight ports x 32"),
    "no ports of its": (("column_ports=0",), "zcu102", "weight ports x 32"),
    "a board that is too small for it": ((), "ultra96v2", "weight port"),
}


@pytest.mark.parametrize("what", CHOSEN)
def test_the_engine_for_int8_weights_is_chosen_by_what_is_asked(what: str, tiny_int8: Path) -> None:
    """And where one of the two cannot do it, the other does."""
    settings, board, says = CHOSEN[what]
    numbers = {name: int(value) for name, _, value in (word.partition("=") for word in settings)}
    found = fit(read(tiny_int8), boards.load(board), numbers)
    assert says in str(found.design)


def test_parts_of_a_large_matrix_fit_a_chunk_of_memory() -> None:
    for rows, cols, tile in ((3584, 18944, 128), (8192, 24576, 1024), (151936, 896, 96), (49152, 576, 1024)):
        weight = Weight("w", I8, np.broadcast_to(np.int8(0), (rows, cols)), np.ones(1, np.float32))
        parts = ColumnsPlanner().parts(weight, Columns(ports=4), tile)
        assert sum(p.layout.rows for p in parts) == rows and all(p.first_row % tile == 0 for p in parts)
        assert all(p.layout.nbytes <= CHUNK_LIMIT for p in parts if isinstance(p.layout, ColumnLayout))


TAMPERED: dict[str, tuple[dict[str, Any], str]] = {
    "ports": ({"ports": 3}, "ports is 3, the design has 4"),
    "a longer stream": ({"streams": [[0, 0, 1 << 30]]}, "streams of"),
    "a shorter scale": ({"scale": [0, 0, 4]}, "scales of 4 bytes"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_row_of_another_matrix_is_refused(what: str, tiny_columns: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_columns, tmp_path / "p")
    file, manifest = tmp_path / "p" / "packing.json", json.loads((tmp_path / "p" / "manifest.json").read_text())
    rows = json.loads(file.read_text())
    change, said = TAMPERED[what]
    some = rows["matrices"][3] if isinstance(rows, dict) else rows[3]
    for key, value in change.items():
        some[key] = (
            value if key == "ports" else [*np.reshape(some[key], -1)[:2].tolist(), np.reshape(value, -1)[2].item()]
        )
    if "streams" in change:
        some["streams"] = [some["streams"]]
    file.write_text(json.dumps(rows))
    manifest["files"]["packing.json"] = sha256(file)
    manifest["digest"] = manifest_digest(manifest)
    (tmp_path / "p" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DeviceError, match=said):
        load(tmp_path / "p")


def test_a_design_says_what_it_is_made_of(tiny_columns: Path) -> None:
    package = load(tiny_columns)
    design = package.design
    engine = design.engine(Columns)
    assert design.beside is engine and not design.engine(Pacq).ports
    assert engine.identity(design) == (0x534C4F43, 4 | 8 << 16, 8 | engine.words(design) // 8 << 16)
    assert "column_gemm at 300 MHz with 4 ports x 16 rows x 8 tokens = 512 multipliers" in str(design)
    assert all(row["format"] == WORD_FLAG and len(row["streams"]) == 1 for row in package.packing())
