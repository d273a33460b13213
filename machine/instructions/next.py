# SPDX-License-Identifier: Apache-2.0
"""NEXT: the likeliest token of a row of logits is told to the host and becomes the input of the next run.  hls/next.hpp is the same in C++."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from meadow.machine.design import Design
from meadow.machine.instructions.instruction import (
    FLOATS,
    SCRATCH,
    WEIGHTS,
    Beats,
    Extent,
    Field,
    Fields,
    Instruction,
    Machine,
    PackedBeats,
    Part,
    Tokens,
    beats_of,
    float_rows,
    looped,
    need,
)
from meadow.machine.isa import Opcode
from meadow.machine.step import Step
from meadow.machine.storage.embedding import MINIMA, PARTS, SIGNED, EmbeddingLayout
from meadow.machine.units import BEAT_BYTES

ENDS = 16
"""Tokens that may end an answer."""
NO_TOKEN = 0xFFFFFFFF
"""Where there are fewer."""
HOST = ("pinned",)


class Next(Instruction):
    """In a run that goes on by itself: the token of the largest logit, the first of them, goes to the ring; unless it ends the
    answer, its embedding goes to the residual stream and the program runs again, a position later.  Else nothing."""

    opcode = Opcode.NEXT
    fields = (
        Field("logits", "slot", "FP32 [1, vocab]"),
        Field("x", "slot", "out: FP32 [1, dim padded to 4]"),
        *(
            Field(
                f"table{n}",
                "slot",
                f"embeddings, part {n}: rows of codes, scales, minima (machine/storage/embedding.py)",
            )
            for n in range(PARTS)
        ),
        Field("ends", "slot", f"uint32 [{ENDS}]: tokens that end an answer; 2^32 - 1 is none"),
        Field("ring", "slot", "out: uint32 [places, 4]: token, how many tokens these are, 0, 0"),
        Field("vocab", "int", "logits, and rows of the table"),
        Field("dim", "int", "columns of the table"),
        Field("group", "int", "columns that share a scale"),
        Field("shift", "int", "log2 of the rows of a part"),
        Field("form", "int", "1: codes are two's complement, else without a sign; 2: with minima"),
        Field("factor", "float", "that a row is multiplied with"),
        Field("places", "int", "of the ring"),
    )

    def run(self, f: Fields, m: Machine) -> None:
        if not m.run.ahead:
            return
        token = int(np.argmax(m.array(f["logits"], np.float32, f["vocab"])))
        made = m.made + 1
        m.array(f["ring"], np.uint32, f["places"], 4)[made - 1] = (token, made, 0, 0)
        ended = token in m.array(f["ends"], np.uint32, ENDS)
        if ended or made == m.run.ahead:  # as many as the context holds: whoever runs it has looked
            return
        layout = layout_of(f)
        part = token >> layout.shift
        rows = m.array(f[f"table{part}"], np.uint8, layout.lengths()[part]).reshape(-1, layout.stride)
        row = layout.rows_of(rows[token - (part << layout.shift)])
        x = row.codes[0].astype(np.float32) * np.repeat(row.scale[0], layout.group)[: layout.dim]
        if row.minimum is not None:
            x += np.repeat(row.minimum[0], layout.group)[: layout.dim]
        target = m.array(f["x"], np.float32, float_rows(1, layout.dim) // 4)
        target[: layout.dim] = x * np.float32(f["factor"])
        target[layout.dim :] = 0
        m.go_on()

    def extents(self, f: Fields, design: Design, packed: PackedBeats) -> list[Extent]:
        dim, vocab = f["dim"], f["vocab"]
        need(0 < dim <= design.max_cols and vocab > 0, f"a table of {vocab} rows of {dim} columns")
        need(
            0 < f["group"] <= 4 * design.max_cols and 0 <= f["shift"] < 32,
            f"groups of {f['group']} columns, parts of 2^{f['shift']} rows",
        )
        need(0 <= f["form"] <= SIGNED | MINIMA, f"form is {f['form']}")
        need(math.isfinite(f["factor"]), f"a factor of {f['factor']}")
        need(
            0 < f["places"] <= design.context,
            f"{f['places']} places in the ring; at most {design.context} are possible",
        )
        layout = layout_of(f)
        layout.check()
        found = [
            Extent("logits", 4 * vocab, SCRATCH),
            Extent("x", float_rows(1, dim), SCRATCH, True),
            Extent("ends", 4 * ENDS, HOST),
            Extent("ring", BEAT_BYTES * f["places"], HOST, True),
        ]
        return found + [Extent(f"table{part}", length, WEIGHTS) for part, length in enumerate(layout.lengths())]

    def beats(self, step: Step, design: Design, tokens: Tokens) -> Beats:
        moved: Beats = Counter()
        if tokens.ahead:
            o = step.numbers
            layout = layout_of(dict(o))
            moved["memory", "read", "activations"] = beats_of(int(o["vocab"]), FLOATS)
            moved["constants", "read", "program"] = beats_of(4 * ENDS, BEAT_BYTES)
            moved["constants", "read", "weights"] = layout.stride // BEAT_BYTES
            moved["memory", "written", "activations"] = 1 + beats_of(layout.dim, FLOATS)
        return moved

    def parts(self, step: Step, design: Design, tokens: Tokens) -> list[Part]:
        if not tokens.ahead:
            return []
        o = step.numbers
        layout = layout_of(dict(o))
        scales = [("load", beats_of(layout.groups, FLOATS))] * (1 + bool(layout.form & MINIMA))
        row = beats_of(layout.dim, FLOATS)
        return [
            Part({"choice of a token": looped(("next", beats_of(int(o["vocab"]), FLOATS)))}),
            Part({"choice of a token": looped(("next", beats_of(4 * ENDS, BEAT_BYTES)))}),
            Part({"embedding": looped(*scales)}),
            Part(
                {
                    "codes": looped(("load", layout.code_bytes // BEAT_BYTES)),
                    "embedding": looped(("next", row * FLOATS)),
                    "stores": looped(("store", row)),
                }
            ),
        ]


def layout_of(f: Fields) -> EmbeddingLayout:
    """The layout of the table of an instruction.  Raises ValueError for a group of no columns."""
    return EmbeddingLayout.parted(*(int(f[key]) for key in ("vocab", "dim", "group", "form", "shift")))
