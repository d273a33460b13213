# SPDX-License-Identifier: Apache-2.0
"""Packages: the same bytes every time, up to date when they are, and refused when damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY

from meadow import boards
from meadow.compiler.emit.emit import BuildPlan, check_pragmas, emit
from meadow.compiler.pipeline import Options, compile_model
from meadow.compiler.sources.onnx.read import read
from meadow.machine import isa
from meadow.machine.errors import DeviceError, UnsupportedModel, UsageError
from meadow.machine.instructions import table
from meadow.machine.package.read import load, manifest_digest, sha256
from meadow.runtime import Session


@pytest.fixture
def copy(tiny_package: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_package, tmp_path / "copy"))


def test_compiling_twice_gives_the_same_bytes(tiny_package: Path, tiny_int8: Path) -> None:
    again = tiny_package.parent / "again"
    compile_model(tiny_int8, boards.load("zcu102"), again, TINY)
    shutil.rmtree(again)
    compile_model(tiny_int8, boards.load("zcu102"), again, TINY)
    for path in sorted(p for p in tiny_package.rglob("*") if p.is_file() and p.name != "manifest.json"):
        assert path.read_bytes() == (again / path.relative_to(tiny_package)).read_bytes(), path
    assert load(again).verify_files() == []


def test_compiling_again_is_up_to_date_and_other_options_are_not(tiny_int8: Path, tmp_path: Path) -> None:
    board, target = boards.load("zcu102"), tmp_path / "p"
    assert not compile_model(tiny_int8, board, target, Options())["up_to_date"]
    assert compile_model(tiny_int8, board, target, Options())["up_to_date"]
    assert not compile_model(tiny_int8, board, target, Options(dataflow="gemm"))["up_to_date"]


def test_the_embedding_is_the_heads_own_rows(tiny_package: Path, tiny_int8: Path) -> None:
    weight = next(iter(read(tiny_int8).weights.values()))
    table = load(tiny_package).embedding()
    assert weight.scale is not None
    assert table.scale is not None
    every = np.arange(weight.rows)
    assert (table.codes[every] == weight.codes).all() and (table.scale[every][:, 0] == weight.scale).all()
    assert (table.rows(np.array([3, 900])) == weight.dequantize()[[3, 900]]).all()


def test_a_package_has_exactly_these_files(tiny_package: Path, golden: Any) -> None:
    rows = [str(p.relative_to(tiny_package)) for p in sorted(tiny_package.rglob("*")) if p.is_file()]
    golden.check("\n".join(rows) + "\n")
    assert sorted(load(tiny_package).manifest["files"]) == sorted(set(rows) - {"manifest.json", ".meadow"})


def test_a_package_knows_the_formats_it_was_written_in(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["format_version"] = 0
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DeviceError, match="of package version 0 .* this meadow reads 10"):
        load(copy)


@pytest.mark.parametrize("damage", ["{", "[]", '{"format_version": 2, "isa_version": 1}'])
def test_a_damaged_manifest_is_refused(damage: str, copy: Path) -> None:
    (copy / "manifest.json").write_text(damage)
    with pytest.raises(DeviceError, match="compile the model again"):
        load(copy)


def test_a_truncated_weights_file_is_refused(copy: Path) -> None:
    data = (copy / "weights.bin").read_bytes()
    (copy / "weights.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(DeviceError, match="truncated"):
        load(copy)


def test_a_changed_weight_is_found(copy: Path) -> None:
    data = bytearray((copy / "weights.bin").read_bytes())
    place = load(copy).packing()[-1]["streams"][0]
    data[load(copy).manifest["chunks"][place[0]]["file_offset"] + place[1] + 5] ^= 1
    (copy / "weights.bin").write_bytes(data)
    assert load(copy).verify_files() == ["weights.bin"]
    with pytest.raises(DeviceError, match=r"weights.bin changed since it was compiled"):
        Session(copy)


def test_a_changed_design_is_found(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["design"]["token_lanes"] = 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DeviceError, match="was changed or damaged"):
        load(copy)


def test_a_path_out_of_the_package_is_refused(copy: Path) -> None:
    with pytest.raises(DeviceError, match="leads outside"):
        load(copy).file("../secret")


def test_a_folder_that_is_no_package_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="meadowc compile"):
        load(tmp_path)


def test_float_weights_are_refused_with_the_command_that_helps(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"meadowc quantize \S+tiny -o \S+tiny-int8 --weights int8") as caught:
        compile_model(tiny, boards.load("zcu102"), tmp_path / "p", Options())
    assert "29 of 29 matrices cannot run (is f16)" in str(caught.value) and not (tmp_path / "p").exists()


def test_the_constants_of_the_design_are_printed_like_this(tiny_package: Path, golden: Any) -> None:
    design = load(tiny_package).design
    files = emit(design, "VERSION", boards.load(design.board)).files
    golden.check(files["hls/config.hpp"], "-config")
    golden.check(files["hls/top.cpp"], "-top")


def test_generated_files_say_so(tiny_package: Path) -> None:
    for name in ("config.hpp", "top.cpp", "isa.hpp"):
        first = (tiny_package / "hls" / name).read_text().splitlines()[0]
        assert first.startswith("// Generated by meadow ") and first.endswith("Do not edit.")


def test_a_misspelt_pragma_is_caught() -> None:
    with pytest.raises(UsageError, match=r"x.cpp:2: #pragma HLS PIPEPLINE is not a known pragma"):
        check_pragmas(BuildPlan({"x.cpp": "int a;\n#pragma HLS PIPEPLINE II=1\n"}))


def test_the_manifest_names_its_source(tiny_package: Path, tiny_int8: Path) -> None:
    source = load(tiny_package).manifest["source"]
    assert (tiny_package / source["path"]).resolve() == (tiny_int8 / "model.onnx").resolve()
    origin = load(tiny_package).manifest["origin"]
    assert (tiny_package / origin["path"]).resolve() == (tiny_int8.parent / "tiny" / "model.onnx").resolve()
    assert np.unique([len(source["sha256"]), len(origin["sha256"])]).tolist() == [64]


def with_field(package: Path, opcode: isa.Opcode, field: str, value: int) -> None:
    """Change a field of the first such instruction, and every digest so that only the change is wrong."""
    manifest = json.loads((package / "manifest.json").read_text())
    data = bytearray((package / "program.bin").read_bytes())
    word = 1 + [f.name for f in table.fields_of(opcode)].index(field)
    for start in range(0, len(data), isa.INSTRUCTION_BYTES):
        if int.from_bytes(data[start : start + 4], "little") == opcode:
            data[start + 4 * word : start + 4 * word + 4] = value.to_bytes(4, "little")
            break
    (package / "program.bin").write_bytes(data)
    manifest["files"]["program.bin"] = sha256(package / "program.bin")
    manifest["digest"] = manifest_digest(manifest)
    (package / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("opcode", "field", "value"),
    [
        (isa.Opcode.LINEAR, "tile_rows", 0),
        (isa.Opcode.LINEAR, "rows", 0),
        (isa.Opcode.LINEAR, "cols", 0),
        (isa.Opcode.LINEAR, "cols", 33),
        (isa.Opcode.LINEAR, "tile_rows", 3),
        (isa.Opcode.TPHS, "cols", 33),
        (isa.Opcode.TPHS, "heads", 0),
        (isa.Opcode.TPHS, "head_dim", 0),
        (isa.Opcode.LINEAR, "format", 7),
        (isa.Opcode.LINEAR, "entries", 300),
        (isa.Opcode.LINEAR, "entries", 0),
        (isa.Opcode.NORM, "cols", 0),
    ],
)
def test_a_program_that_would_stop_or_misuse_the_engine_is_refused(
    opcode: isa.Opcode, field: str, value: int, copy: Path
) -> None:
    with_field(copy, opcode, field, value)
    with pytest.raises(DeviceError, match=r"step \d+ of \w+ \(\w+\): "):
        load(copy)


def test_a_checksum_finds_a_matrix_whose_bytes_changed(copy: Path) -> None:
    package = load(copy)
    row = package.packing()[3]
    chunk, offset, length = row["streams"][0]
    at = package.manifest["chunks"][chunk]["file_offset"] + offset + length // 2
    data = bytearray((copy / "weights.bin").read_bytes())
    data[at] ^= 4
    (copy / "weights.bin").write_bytes(data)
    with pytest.raises(DeviceError, match=f"the weights of {row['name']} are damaged \\(their checksum differs\\)"):
        load(copy).matrix(row)
