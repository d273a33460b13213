# SPDX-License-Identifier: Apache-2.0
"""QUANTIZE: FP32 rows to INT8 codes with a scale each, or with small elements at 0.  hls/norm.hpp is the same in C++."""

from __future__ import annotations

import numpy as np

from meadow.machine.design import Design
from meadow.machine.instructions.instruction import (
    FLOATS,
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
    need,
)
from meadow.machine.instructions.vector import (
    THRESHOLD,
    live,
    need_threshold,
    row_beats,
    row_part,
    rows_of,
    store_codes,
)
from meadow.machine.isa import Opcode
from meadow.machine.step import Step
from meadow.machine.storage.rows import padded
from meadow.machine.units import LANE_COLS


class Quantize(Instruction):
    """Each row rounded to 255 levels of its largest magnitude, after what is small has become 0."""

    opcode = Opcode.QUANTIZE
    fields = (
        Field("source", "slot", "FP32 [tokens, cols]"),
        Field("codes", "slot", "out: INT8 [tokens, cols padded to 32], or FP32 [tokens, cols padded to 4]"),
        Field("scale", "slot", "out, INT8: FP32 [tokens]"),
        Field("cols", "int", "elements per row"),
        Field("floats", "int", "1 leaves the rows in FP32, 0 quantizes them", 0),
        THRESHOLD,
    )

    def run(self, f: Fields, m: Machine) -> None:
        x = live(f, rows_of(f, m))
        if not f["floats"]:
            store_codes(f, m, x)
            return
        target = m.array(f["codes"], np.float32, m.run.tokens, padded(f["cols"], FLOATS))
        target[:, : f["cols"]] = x
        target[:, f["cols"] :] = 0

    def extents(self, f: Fields, design: Design, packed: PackedBeats) -> list[Extent]:
        cols, block, floats = f["cols"], design.block, f["floats"]
        need(floats in (0, 1), f"floats is {floats}; 0 or 1 is possible")
        need_threshold(f)
        codes = float_rows(block, cols) if floats else block * padded(cols, LANE_COLS)
        return [
            Extent("source", float_rows(block, cols), SCRATCH),
            Extent("codes", codes, SCRATCH, True, "source" if floats else ""),
            Extent("scale", 0 if floats else block * 4, SCRATCH, True),
        ]

    def beats(self, step: Step, design: Design, tokens: Tokens) -> Beats:
        return row_beats(step.numbers, tokens, bool(step.numbers.get("floats")))

    def parts(self, step: Step, design: Design, tokens: Tokens) -> list[Part]:
        return [row_part(step.numbers, design, tokens, bool(step.numbers.get("floats")), 1)]
