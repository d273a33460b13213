# SPDX-License-Identifier: Apache-2.0
"""Instructions come back as they went in, and what is printed from the table is what is in the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meadow.machine import isa
from meadow.machine.instructions import table

ROOT = Path(__file__).parents[2]


@given(
    st.sampled_from([op for op in isa.Opcode if op is not isa.Opcode.END]),
    st.integers(0, 2**32 - 1),
    st.floats(width=32, allow_nan=False),
)
def test_encoded_instructions_decode_to_the_same(opcode: isa.Opcode, word: int, number: float) -> None:
    values = {
        f.name: (number if f.kind == "float" else (word + i) % 2**32) for i, f in enumerate(table.fields_of(opcode))
    }
    code = table.encode(opcode, values) + table.encode(isa.Opcode.END, {})
    assert len(code) == 2 * isa.INSTRUCTION_BYTES
    assert table.decode(code) == [(opcode, values)]


@given(st.integers(0, 255), st.integers(0, (1 << 24) - 1))
def test_a_slot_decodes(chunk: int, beat: int) -> None:
    assert isa.unpack_slot(isa.pack_slot(chunk, 16 * beat)) == (chunk, 16 * beat)


@pytest.mark.parametrize(("chunk", "offset"), [(0, 8), (256, 0), (0, 1 << 28), (0, -16)])
def test_a_slot_that_cannot_be_encoded_is_refused(chunk: int, offset: int) -> None:
    with pytest.raises(ValueError, match="not a whole beat"):
        isa.pack_slot(chunk, offset)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="cols"):
        table.encode(isa.Opcode.QUANTIZE, {"source": 0, "codes": 0, "scale": 0})


def test_garbage_is_not_a_program() -> None:
    with pytest.raises(ValueError, match="not known"):
        table.decode(np.full(256, 0xEE, np.uint8).tobytes())
    with pytest.raises(ValueError, match="no END"):
        table.decode(b"")


def test_no_instruction_is_longer_than_its_words() -> None:
    assert max(len(i.fields) for i in table.TABLE.values()) < isa.WORDS


def test_the_documented_instruction_set_is_the_one_in_the_table() -> None:
    assert (ROOT / "docs" / "isa.md").read_text() == table.markdown(), "run: make docs"


def test_the_cpp_decoder_has_every_field() -> None:
    text = table.cpp_decoder()
    for op, fields in ((op, i.fields) for op, i in table.TABLE.items()):
        for index, field in enumerate(fields):
            assert f"constexpr int {field.name} = {index + 1};" in text, op
