# SPDX-License-Identifier: Apache-2.0
"""QUANTIZE: FP32 rows to INT8 codes with a scale each.  hls/norm.hpp is the same in C++."""

from __future__ import annotations

from meadow.machine.design import Design
from meadow.machine.instructions.instruction import (
    SCRATCH,
    Beats,
    Extent,
    Field,
    Fields,
    Instruction,
    Machine,
    PackedBeats,
    Part,
    Tokens,
    float_rows,
)
from meadow.machine.instructions.vector import row_beats, row_part, rows_of, store_codes
from meadow.machine.isa import Opcode
from meadow.machine.step import Step
from meadow.machine.storage.rows import padded
from meadow.machine.units import LANE_COLS


class Quantize(Instruction):
    """Each row rounded to 255 levels of its largest magnitude."""

    opcode = Opcode.QUANTIZE
    fields = (
        Field("source", "slot", "FP32 [tokens, cols]"),
        Field("codes", "slot", "out: INT8 [tokens, cols padded to 32]"),
        Field("scale", "slot", "out: FP32 [tokens]"),
        Field("cols", "int", "elements per row"),
    )

    def run(self, f: Fields, m: Machine) -> None:
        store_codes(f, m, rows_of(f, m))

    def extents(self, f: Fields, design: Design, packed: PackedBeats) -> list[Extent]:
        cols, block = f["cols"], design.block
        return [
            Extent("source", float_rows(block, cols), SCRATCH),
            Extent("codes", block * padded(cols, LANE_COLS), SCRATCH, True),
            Extent("scale", block * 4, SCRATCH, True),
        ]

    def beats(self, step: Step, design: Design, tokens: Tokens) -> Beats:
        return row_beats(step.numbers, tokens, False)

    def parts(self, step: Step, design: Design, tokens: Tokens) -> list[Part]:
        return [row_part(step.numbers, design, tokens, False, 1)]
