# SPDX-License-Identifier: Apache-2.0
"""The words of the instruction set: opcodes, epilogues, slots.  instructions/ has what each instruction is.

An instruction is 128 bytes, 32 little-endian words of 32 bits: the opcode,
then the fields of its row in order.  A slot is chunk << 24 | beat: a memory chunk and an offset in 16-byte beats.
"""

from __future__ import annotations

from enum import IntEnum

MEANING = 2
"""Raised when an instruction means something else with the same fields (instructions/table.py: VERSION)."""
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
    MIX = 7
    NEXT = 8


class Epilogue(IntEnum):
    """What happens to the FP32 results of LINEAR."""

    STORE = 0
    ADD = 1
    GLU = 2
    HEADS = 3
    ROPE_HEADS = 4
    LOGITS = 5
    ACT = 6


class Function(IntEnum):
    """The activation of an MLP, of the results of LINEAR."""

    SILU = 0
    RELU = 1
    RELU2 = 2
    GELU_TANH = 3
    GELU = 4
    QUICK_GELU = 5


Value = int | float


def pack_slot(chunk: int, offset: int) -> int:
    """The word of a slot at byte `offset` of `chunk`.  Raises ValueError when it cannot be encoded."""
    if offset % 16 or not 0 <= offset >> 4 < 1 << CHUNK_SHIFT or not 0 <= chunk < 256:
        raise ValueError(f"slot {chunk}:{offset:#x} is not a whole beat within 256 chunks of 256 MiB")
    return chunk << CHUNK_SHIFT | offset >> 4


def unpack_slot(word: int) -> tuple[int, int]:
    """(chunk, byte offset) of a slot's word."""
    return word >> CHUNK_SHIFT, (word & ((1 << CHUNK_SHIFT) - 1)) << 4
