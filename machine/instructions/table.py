# SPDX-License-Identifier: Apache-2.0
"""All instructions by opcode, and what is made of the table: encoding, decoding, the C++ twin and docs/isa.md."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import numpy as np

from meadow.machine import isa
from meadow.machine.design import Design
from meadow.machine.instructions.instruction import Extent, Field, Fields, Instruction, PackedBeats
from meadow.machine.instructions.linear import Linear
from meadow.machine.instructions.mix import Mix
from meadow.machine.instructions.next import Next
from meadow.machine.instructions.norm import ADDED, BIASED, CENTRED, Norm
from meadow.machine.instructions.options import OPTIONS
from meadow.machine.instructions.projection import MATRIX
from meadow.machine.instructions.quantize import Quantize
from meadow.machine.instructions.scores import Scores
from meadow.machine.instructions.softmax import Softmax
from meadow.machine.instructions.tphs import Tphs
from meadow.machine.isa import INSTRUCTION_BYTES, WORDS, Epilogue, Function, Opcode, Value, pack_slot
from meadow.machine.step import Slot, Step
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES

TABLE: dict[Opcode, Instruction] = {
    made.opcode: made for made in (Norm(), Quantize(), Linear(), Tphs(), Scores(), Softmax(), Mix(), Next())
}
"""Every instruction but END, which has no fields."""

VERSION = zlib.crc32(
    repr([isa.MEANING, WORDS, [(int(o), [(f.name, f.kind) for f in i.fields]) for o, i in TABLE.items()]]).encode()
)
"""Of the instructions: a digest of their fields, and of isa.MEANING.  A package or a fabric of another version is refused."""


def fields_of(opcode: Opcode) -> tuple[Field, ...]:
    """The fields of an instruction, in the order of its words."""
    return TABLE[opcode].fields if opcode in TABLE else ()


def extents(opcode: Opcode, f: Fields, design: Design, packed: PackedBeats) -> list[Extent]:
    """The memory of every operand of one instruction, in whole beats.  Raises ValueError for fields that no engine takes."""
    made = TABLE[opcode].extents(f, design, packed)
    return [replace(e, bytes=padded(e.bytes, BEAT_BYTES)) for e in made if e.bytes]


def encode(opcode: Opcode, values: dict[str, Value]) -> bytes:
    """One instruction.  Every field of its row without a default must be given, and no other; slots are already words."""
    fields = fields_of(opcode)
    values = {**{f.name: f.default for f in fields if f.default is not None}, **values}
    if set(values) != {f.name for f in fields}:
        wrong = set(values) ^ {f.name for f in fields}
        raise ValueError(f"{opcode.name}: fields {sorted(wrong)} are missing or not its own")
    words = [struct.pack("<I", int(opcode))]
    for field in fields:
        value = values[field.name]
        words.append(struct.pack("<f", value) if field.kind == "float" else struct.pack("<I", int(value)))
    return b"".join(words).ljust(INSTRUCTION_BYTES, b"\0")


def encode_step(step: Step) -> bytes:
    """The bytes of a step's instruction.  Raises ValueError while a slot is not placed."""
    values: dict[str, Value] = {}
    for key, value in step.operands.items():
        if isinstance(value, Slot):
            if not isinstance(value.space, int):
                raise ValueError(f"{step.name}: {key} is not placed yet")
            values[key] = pack_slot(value.space, value.offset)
        else:
            values[key] = value
    return encode(step.opcode, values)


def decode(data: bytes | memoryview) -> list[tuple[Opcode, dict[str, Value]]]:
    """The instructions of a program, up to and without END.  Raises ValueError for what is not a program."""
    found: list[tuple[Opcode, dict[str, Value]]] = []
    for start in range(0, len(data) - INSTRUCTION_BYTES + 1, INSTRUCTION_BYTES):
        words = struct.unpack_from(f"<{WORDS}I", data, start)
        try:
            opcode = Opcode(words[0])
        except ValueError:
            raise ValueError(f"opcode {words[0]} at byte {start} is not known") from None
        if opcode is Opcode.END:
            return found
        values: dict[str, Value] = {}
        for field, word in zip(fields_of(opcode), words[1:], strict=False):
            values[field.name] = float(np.uint32(word).view(np.float32)) if field.kind == "float" else word
        found.append((opcode, values))
    raise ValueError("the program has no END")


def cpp_decoder() -> str:
    """The C++ twin of the table: opcodes, epilogues and the index of each field's word."""
    lines = [
        "#pragma once",
        "// Word indices of each instruction's fields; printed from machine/instructions/.",
        "",
        "namespace isa {",
    ]
    lines += [f"constexpr uint32_t kVersion = {VERSION}u;", f"constexpr int kWords = {WORDS};", ""]
    lines += [f"constexpr int k{_camel(op.name)} = {int(op)};" for op in Opcode]
    lines += [""] + [f"constexpr int kEpilogue{_camel(e.name)} = {int(e)};" for e in Epilogue] + [""]
    lines += [f"constexpr int kFunction{_camel(f.name)} = {int(f)};" for f in Function]
    lines += [f"constexpr int k{_camel(n)} = {v};" for n, v in OPTIONS.items()]
    lines += [
        f"constexpr uint32_t kNorm{n} = {v};" for n, v in (("Centred", CENTRED), ("Biased", BIASED), ("Added", ADDED))
    ] + [""]
    lines += ["namespace matrix {  // from the first word of a streamed matrix on, in LINEAR and TPHS"]
    lines += [f"constexpr int {f.name} = {i};" for i, f in enumerate(MATRIX)] + ["}", ""]
    for op in Opcode:
        if fields := fields_of(op):
            lines.append(f"namespace {op.name.lower()} {{")
            lines += [f"constexpr int {f.name} = {i + 1};  // {f.kind}: {f.text}" for i, f in enumerate(fields)]
            lines += ["}", ""]
    return "\n".join([*lines, "}  // namespace isa", ""])


def markdown() -> str:
    """docs/isa.md."""
    lines = ["# The instruction set", "", (isa.__doc__ or "").split("\n\n", 1)[1].strip(), ""]
    for op in Opcode:
        lines += [f"## {op.name} ({int(op)})", ""]
        if fields := fields_of(op):
            lines += ["| word | field | kind | meaning |", "|---|---|---|---|"]
            lines += [
                f"| {i + 1} | {f.name} | {f.kind} | {f.text.replace('][', ']' + chr(92) + '[')} |"
                for i, f in enumerate(fields)
            ]
            lines.append("")
        else:
            lines += ["Ends a program.", ""]
    lines += ["## Epilogues of LINEAR", "", "| value | name |", "|---|---|"]
    lines += [f"| {int(e)} | {e.name} |" for e in Epilogue]
    lines += ["", "## Activations, in `options`", "", "| value | name |", "|---|---|"]
    lines += [f"| {int(f)} | {f.name} |" for f in Function]
    return "\n".join(lines) + "\n"


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
