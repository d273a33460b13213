# SPDX-License-Identifier: Apache-2.0
"""The instruction set: one table, from which the C++ decoder and docs/isa.md are printed too.

Encodes and decodes; executes nothing.  An instruction is 128 bytes, 32 little-endian words of 32 bits: the opcode,
then the fields of its row in order.  A slot is chunk << 24 | beat: a memory chunk and an offset in 16-byte beats.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

VERSION = 2
"""Of the encoding.  A package of another version is refused."""
WORDS = 32
INSTRUCTION_BYTES = WORDS * 4
CHUNK_SHIFT = 24
SMALLEST_EPSILON = 1e-30
"""Of a norm: below it a norm of zeros would divide by a flushed zero."""


class Opcode(IntEnum):
    END = 0
    NORM = 1
    QUANTIZE = 2
    LINEAR = 3
    TPHS = 4
    SCORES = 5
    SOFTMAX = 6
    CONTEXT = 7


class Epilogue(IntEnum):
    """What happens to the FP32 results of LINEAR."""

    STORE = 0
    ADD = 1
    GLU = 2
    HEADS = 3
    ROPE_HEADS = 4
    LOGITS = 5


@dataclass(frozen=True)
class Field:
    """One word of an instruction: `kind` is slot, int or float."""

    name: str
    kind: str
    text: str


def _weights() -> tuple[Field, ...]:
    return (
        *(Field(f"weights{p}", "slot", f"weights of port {p}: rows n = {p} mod ports") for p in range(4)),
        Field(
            "format",
            "int",
            "0 raw; 65536 prefix codes; bit 24: grouped weights (machine/storage/groups.py); else chunk size | packets a beat << 8",
        ),
        Field("directory", "slot", "packed: beats of each tile and port, uint32 [tiles][ports]"),
        Field("table", "slot", "packed: code table, or `chunk size` int8 an entry"),
        Field("entries", "int", "packed: entries of the table"),
        Field("weight_scale", "slot", "FP32 scale of each row, every tile's beginning at a beat"),
    )


def _activations() -> tuple[Field, ...]:
    return (
        Field("codes", "slot", "INT8 [tokens, cols padded to 32]; for grouped weights FP32 [tokens, cols padded to 4]"),
        Field("scale", "slot", "FP32 [tokens]; not for grouped weights"),
    )


def _grouped() -> tuple[Field, ...]:
    return (
        Field("reuse", "int", "grouped: 1 takes the activations that pacq_gemv has from the linear before"),
        Field("hold", "int", "grouped: 1 leaves them there for the next"),
    )


INSTRUCTIONS: dict[Opcode, tuple[Field, ...]] = {
    Opcode.END: (),
    Opcode.NORM: (
        Field("source", "slot", "FP32 [tokens, cols]"),
        Field("gain", "slot", "FP32 [cols]"),
        Field("codes", "slot", "out: INT8 [tokens, cols padded to 32], or FP32 [tokens, cols padded to 4]"),
        Field("scale", "slot", "out, INT8: FP32 [tokens]"),
        Field("floats", "int", "1 leaves the rows in FP32, 0 quantizes them"),
        Field("cols", "int", "elements a row"),
        Field("eps", "float", "added to the mean square"),
        Field("inverse", "float", "1 / cols"),
    ),
    Opcode.QUANTIZE: (
        Field("source", "slot", "FP32 [tokens, cols]"),
        Field("codes", "slot", "out: INT8 [tokens, cols padded to 32]"),
        Field("scale", "slot", "out: FP32 [tokens]"),
        Field("cols", "int", "elements a row"),
    ),
    Opcode.LINEAR: (
        *_activations(),
        *_weights(),
        *_grouped(),
        Field("rows", "int", "output features"),
        Field("cols", "int", "input features, padded to 32; of grouped weights as they are"),
        Field("tile_rows", "int", "output features a tile"),
        Field("epilogue", "int", "what happens to the results"),
        Field("target", "slot", "out: FP32 [tokens, stride], or INT8 [heads, capacity, head_dim padded to 16]"),
        Field("target_scale", "slot", "out, heads: FP32 [heads, capacity]"),
        Field("stride", "int", "FP32 elements between two rows of the target"),
        Field("capacity", "int", "heads: tokens that the target holds"),
        Field("append", "int", "heads: 1 writes at the position of the cache, 0 at token 0"),
        Field("head_dim", "int", "heads: elements a head"),
        Field("rope", "slot", "heads: int16 [context, 2, head_dim / 2], each row padded to a beat"),
        Field("first_row", "int", "where this part's rows begin in the target"),
    ),
    Opcode.TPHS: (
        *_activations(),
        *_weights(),
        *_grouped(),
        Field("cols", "int", "input features of Q, as for LINEAR"),
        Field("heads", "int", "query heads"),
        Field("kv_heads", "int", "key and value heads"),
        Field("head_dim", "int", "elements a head"),
        Field("keys", "slot", "INT8 [kv_heads, capacity, head_dim padded to 16]"),
        Field("key_scale", "slot", "FP32 [kv_heads, capacity]"),
        Field("values", "slot", "INT8, like keys"),
        Field("value_scale", "slot", "FP32, like key_scale"),
        Field("capacity", "int", "tokens that the cache holds"),
        Field("rope", "slot", "int16 [context, 2, head_dim / 2], each row padded to a beat"),
        Field("kappa", "float", "log2(e) / sqrt(head_dim)"),
        Field("target", "slot", "out: FP32 [tokens, stride]"),
        Field("stride", "int", "FP32 elements between two rows of the target"),
    ),
    Opcode.SCORES: (
        Field("queries", "slot", "INT8 [heads, block, head_dim padded to 16]"),
        Field("query_scale", "slot", "FP32 [heads, block]"),
        Field("keys", "slot", "INT8 [kv_heads, capacity, head_dim padded to 16]"),
        Field("key_scale", "slot", "FP32 [kv_heads, capacity]"),
        Field("heads", "int", "query heads"),
        Field("kv_heads", "int", "key and value heads"),
        Field("head_dim", "int", "elements a head"),
        Field("capacity", "int", "tokens that the cache holds"),
        Field("block", "int", "tokens that the query buffers hold"),
        Field("kappa", "float", "log2(e) / sqrt(head_dim)"),
        Field("target", "slot", "out: FP32 [heads, block, row]"),
        Field("row", "int", "elements between two rows of scores"),
    ),
    Opcode.SOFTMAX: (
        Field("scores", "slot", "FP32 [heads, block, row]"),
        Field("value_scale", "slot", "FP32 [kv_heads, capacity]"),
        Field("heads", "int", "query heads"),
        Field("kv_heads", "int", "key and value heads"),
        Field("capacity", "int", "tokens that the cache holds"),
        Field("block", "int", "tokens that the query buffers hold"),
        Field("row", "int", "elements between two rows of scores"),
        Field("target", "slot", "out: uint16 [heads, block, row]"),
        Field("divisor", "slot", "out: (FP32 total, int32 exponent, 0, 0) [heads, block]"),
    ),
    Opcode.CONTEXT: (
        Field("weights", "slot", "uint16 [heads, block, row]"),
        Field("divisor", "slot", "(FP32 total, int32 exponent, 0, 0) [heads, block]"),
        Field("values", "slot", "INT8 [kv_heads, capacity, head_dim padded to 16]"),
        Field("heads", "int", "query heads"),
        Field("kv_heads", "int", "key and value heads"),
        Field("head_dim", "int", "elements a head"),
        Field("capacity", "int", "tokens that the cache holds"),
        Field("block", "int", "tokens that the query buffers hold"),
        Field("row", "int", "elements between two rows of weights"),
        Field("target", "slot", "out: FP32 [tokens, stride]"),
        Field("stride", "int", "FP32 elements between two rows of the target"),
    ),
}

Value = int | float


def pack_slot(chunk: int, offset: int) -> int:
    """The word of a slot at byte `offset` of `chunk`.  Raises ValueError when it cannot be encoded."""
    if offset % 16 or not 0 <= offset >> 4 < 1 << CHUNK_SHIFT or not 0 <= chunk < 256:
        raise ValueError(f"slot {chunk}:{offset:#x} is not a whole beat within 256 chunks of 256 MiB")
    return chunk << CHUNK_SHIFT | offset >> 4


def unpack_slot(word: int) -> tuple[int, int]:
    """(chunk, byte offset) of a slot's word."""
    return word >> CHUNK_SHIFT, (word & ((1 << CHUNK_SHIFT) - 1)) << 4


def encode(opcode: Opcode, values: dict[str, Value]) -> bytes:
    """One instruction.  Every field of its row must be given, and no other; slots are already words."""
    fields = INSTRUCTIONS[opcode]
    if set(values) != {f.name for f in fields}:
        wrong = set(values) ^ {f.name for f in fields}
        raise ValueError(f"{opcode.name}: fields {sorted(wrong)} are missing or not its own")
    words = [struct.pack("<I", int(opcode))]
    for field in fields:
        value = values[field.name]
        words.append(struct.pack("<f", value) if field.kind == "float" else struct.pack("<I", int(value)))
    return b"".join(words).ljust(INSTRUCTION_BYTES, b"\0")


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
        for field, word in zip(INSTRUCTIONS[opcode], words[1:], strict=False):
            values[field.name] = float(np.uint32(word).view(np.float32)) if field.kind == "float" else word
        found.append((opcode, values))
    raise ValueError("the program has no END")


def cpp_decoder() -> str:
    """The C++ twin of this table: opcodes, epilogues and the index of each field's word."""
    lines = [
        "#pragma once",
        "// Word indices of each instruction's fields; printed from machine/isa.py.",
        "",
        "namespace isa {",
    ]
    lines += [f"constexpr int kVersion = {VERSION};", f"constexpr int kWords = {WORDS};", ""]
    lines += [f"constexpr int k{_camel(op.name)} = {int(op)};" for op in Opcode]
    lines += [""] + [f"constexpr int kEpilogue{_camel(e.name)} = {int(e)};" for e in Epilogue] + [""]
    for op, fields in INSTRUCTIONS.items():
        if fields:
            lines.append(f"namespace {op.name.lower()} {{")
            lines += [f"constexpr int {f.name} = {i + 1};  // {f.kind}: {f.text}" for i, f in enumerate(fields)]
            lines += ["}", ""]
    return "\n".join([*lines, "}  // namespace isa", ""])


def markdown() -> str:
    """docs/isa.md."""
    lines = ["# The instruction set", "", (__doc__ or "").split("\n\n", 1)[1].strip(), ""]
    for op, fields in INSTRUCTIONS.items():
        lines += [f"## {op.name} ({int(op)})", ""]
        if fields:
            lines += ["| word | field | kind | meaning |", "|---|---|---|---|"]
            lines += [f"| {i + 1} | {f.name} | {f.kind} | {f.text} |" for i, f in enumerate(fields)]
            lines.append("")
        else:
            lines += ["Ends a program.", ""]
    lines += ["## Epilogues of LINEAR", "", "| value | name |", "|---|---|"]
    lines += [f"| {int(e)} | {e.name} |" for e in Epilogue]
    return "\n".join(lines) + "\n"


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
