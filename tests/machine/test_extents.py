# SPDX-License-Identifier: Apache-2.0
"""A program that reaches too far is refused, and one that is taken means the same to numpy and to C++."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
from pathlib import Path

import pytest

from meadow.machine import isa
from meadow.machine.errors import DeviceError, MeadowError
from meadow.machine.instructions import table
from meadow.machine.instructions.table import extents
from meadow.machine.package.read import load, manifest_digest
from meadow.runtime.session import Session

PROMPT = [5, 9, 200, 31, 7, 44, 18]


def change(folder: Path, step: int, word: int, value: int, program: str = "prefill") -> None:
    """Set a word of an instruction, and repair every digest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    code = bytearray((folder / "program.bin").read_bytes())
    at = manifest["entries"][program]["offset"] + step * isa.INSTRUCTION_BYTES + 4 * word
    code[at : at + 4] = struct.pack("<I", value & 0xFFFFFFFF)
    (folder / "program.bin").write_bytes(code)
    manifest["files"]["program.bin"] = hashlib.sha256(code).hexdigest()
    manifest["digest"] = manifest_digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def find(folder: Path, opcode: isa.Opcode, **fields: int) -> int:
    """The first step of the prefill program with these fields."""
    steps = table.decode(load(folder).program("prefill"))
    return next(n for n, (o, f) in enumerate(steps) if o is opcode and all(f[k] == v for k, v in fields.items()))


def word(opcode: isa.Opcode, field: str) -> int:
    return 1 + [f.name for f in table.fields_of(opcode)].index(field)


@pytest.fixture
def copy(tiny_package: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_package, tmp_path / "copy"))


def slot_near_the_end(folder: Path, kind: str) -> int:
    """A slot one beat before the end of the last chunk of `kind`."""
    chunk = [c for c in load(folder).chunks if c.kind == kind][-1]
    return isa.pack_slot(chunk.index, chunk.length - 16)


L, N, T = isa.Opcode.LINEAR, isa.Opcode.NORM, isa.Opcode.TPHS
WRONG = {
    "a target that begins inside and ends outside": (
        L,
        {"epilogue": 1},
        "target",
        "end of pinned",
        "lies outside of its memory",
    ),
    "rows written into the weights": (
        L,
        {"epilogue": 1},
        "target",
        "in weights",
        "target lies in weights, not in activations or pinned",
    ),
    "a cache written into the constants": (
        L,
        {"epilogue": 3},
        "target",
        "in constants",
        "target lies in constants, not in kv",
    ),
    "weights read from the cache": (L, {"epilogue": 1}, "weights0", "in kv", "weights0 lies in kv, not in weights"),
    "a gain read from the weights": (N, {}, "gain", "in weights", "gain lies in weights, not in constants"),
    "a scale that reaches into nothing": (
        N,
        {},
        "scale",
        "end of activations",
        "written over|lies outside of its memory",
    ),
    "another inverse": (N, {}, "inverse", 0x3F800000, "inverse is 1.0, not 1 / 128"),
    "an epsilon of NaN": (N, {}, "eps", 0x7FC00000, "eps is nan"),
    "an infinite kappa": (T, {}, "kappa", 0x7F800000, "kappa is inf"),
    "a stride too short": (L, {"epilogue": 1}, "stride", 64, "in a stride of 64"),
    "an epilogue that is none": (L, {"epilogue": 1}, "epilogue", 17, "epilogue 17 is not known"),
    "a capacity below the context": (L, {"epilogue": 3}, "capacity", 64, "capacity is 64"),
    "activations kept by the array": (L, {"epilogue": 1}, "reuse", 1, "only grouped weights keep activations"),
    "rows that are no whole heads": (L, {"epilogue": 3}, "rows", 40, "not whole heads"),
    "a table with fewer entries": (L, {"epilogue": 1}, "entries", 3, "entries is 3, the matrix has"),
    "weights that begin a beat later": (
        L,
        {"epilogue": 1},
        "weights0",
        "in weights",
        "weights0 is not where a matrix begins|read otherwise",
    ),
    "tiles that are no heads": (L, {"epilogue": 3}, "tile_rows", 64, "are not heads"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_operand_is_checked_to_its_end_and_for_its_kind_of_memory(name: str, copy: Path) -> None:
    opcode, fields, field, value, said = WRONG[name]
    if isinstance(value, str):
        where, _, kind = value.rpartition(" ")
        chunk = next(c for c in load(copy).chunks if c.kind == kind)
        value = slot_near_the_end(copy, kind) if where.startswith("end") else isa.pack_slot(chunk.index, 0)
    assert isinstance(value, int)
    change(copy, find(copy, opcode, **fields), word(opcode, field), value)
    with pytest.raises(DeviceError, match=said):
        load(copy)


def test_a_step_may_not_write_over_what_it_reads(copy: Path) -> None:
    step = find(copy, N)
    steps = table.decode(load(copy).program("prefill"))
    change(copy, step, word(N, "codes"), int(steps[step][1]["source"]))
    with pytest.raises(DeviceError, match="codes is written over source"):
        load(copy)


OPTIONAL = {
    isa.Opcode.LINEAR: {"bias", "gain"},
    isa.Opcode.TPHS: {"bias", "gain"},
    isa.Opcode.NORM: {"bias"},
    isa.Opcode.NEXT: {"table1", "table2", "table3"},
}
"""Slots of what the model of these tests has not."""


def test_every_slot_of_every_instruction_has_an_extent(tiny_package: Path) -> None:
    package = load(tiny_package)
    seen: dict[isa.Opcode, set[str]] = {}
    for program in package.manifest["entries"]:
        for opcode, fields in table.decode(package.program(program)):
            found = {e.field for e in extents(opcode, fields, package.design, package.packed_beats)}
            seen[opcode] = seen.get(opcode, set()) | found
    for opcode, found in seen.items():
        slots = {f.name for f in table.fields_of(opcode) if f.kind == "slot"}
        absent = {f"weights{p}" for p in range(package.design.number("weight_ports"), 4)}
        assert found == slots - absent - OPTIONAL.get(opcode, set()), opcode


def outcome(folder: Path, device: str) -> str:
    """The digest, or "refused" by the loader or the device."""
    try:
        with Session(folder, device) as session:
            session.prefill(PROMPT, logits="all")
            return session.digest
    except MeadowError:
        return "refused"


@pytest.mark.csim
def test_numpy_and_cpp_take_the_same_values(copy: Path) -> None:
    """One word of a program is changed at random, with its digests repaired, again and again."""
    random_ = random.Random(4)
    whole = (copy / "program.bin").read_bytes()
    steps = table.decode(load(copy).program("prefill"))
    manifest = (copy / "manifest.json").read_text()
    ran = 0
    for _ in range(120):
        (copy / "program.bin").write_bytes(whole)
        (copy / "manifest.json").write_text(manifest)
        step = random_.randrange(len(steps))
        opcode = steps[step][0]
        field = random_.choice(table.fields_of(opcode))
        at = word(opcode, field.name)
        before = struct.unpack_from("<I", whole, step * isa.INSTRUCTION_BYTES + 4 * at)[0]
        value = random_.choice(
            (
                0,
                1,
                before + 1,
                before - 1,
                before ^ 1 << random_.randrange(32),
                before * 2,
                before // 2,
                random_.getrandbits(32),
            )
        )
        change(copy, step, at, value)
        a = outcome(copy, "emulator")
        b = outcome(copy, "csim")
        assert a == b, f"{opcode.name}.{field.name} of step {step}: {before:#x} became {value & 0xFFFFFFFF:#x}"
        ran += a != "refused"
    assert ran >= 5, "some changes are still programs"
