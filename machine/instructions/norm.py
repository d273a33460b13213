# SPDX-License-Identifier: Apache-2.0
"""NORM: the RMS norm or the layer norm of each row, quantized, left in FP32, or added to a row.  hls/norm.hpp is the same in C++."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meadow.machine.arithmetic import int8 as ar
from meadow.machine.design import Design
from meadow.machine.instructions.instruction import (
    CONSTANTS,
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
    beats_of,
    float_rows,
    looped,
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
from meadow.machine.isa import SMALLEST_EPSILON, Opcode
from meadow.machine.step import Step
from meadow.machine.storage.rows import padded
from meadow.machine.timing import ROOT_CYCLES
from meadow.machine.units import LANE_COLS

Floats = NDArray[np.float32]
NORM_BITS = 15
CENTRED, BIASED, ADDED = 1, 2, 4
"""Bits of `kind`."""
NORM_EXPONENTS = (-45, 60)
"""The exponent of a row's largest magnitude is clamped to this range before its squares are summed."""


class Norm(Instruction):
    """x / sqrt(mean(x^2) + eps) * gain + bias of each row; of x - mean(x) where `kind` says so."""

    opcode = Opcode.NORM
    fields = (
        Field("source", "slot", "FP32 [tokens, cols]"),
        Field("gain", "slot", "FP32 [cols]"),
        Field("codes", "slot", "out: INT8 [tokens, cols padded to 32], or FP32 [tokens, cols padded to 4]"),
        Field("scale", "slot", "out, INT8: FP32 [tokens]"),
        Field("floats", "int", "1 leaves the rows in FP32, 0 quantizes them"),
        Field("cols", "int", "elements per row"),
        Field("eps", "float", "added to the mean square"),
        Field("inverse", "float", "1 / cols"),
        Field("kind", "int", "1: of x - mean(x); 2: with a bias; 4: added to the FP32 rows that `codes` points at", 0),
        Field("bias", "slot", "with a bias: FP32 [cols]", 0),
        THRESHOLD,
    )

    def run(self, f: Fields, m: Machine) -> None:
        tokens, cols = m.run.tokens, f["cols"]
        x = rows_of(f, m)
        x = centred(x) if f["kind"] & CENTRED else x
        y = norm(x, m.array(f["gain"], np.float32, cols), np.float32(f["eps"]))
        if f["kind"] & BIASED:
            y = ar.flush(y + m.array(f["bias"], np.float32, cols))
        y = live(f, y)
        if not f["floats"]:
            store_codes(f, m, y)
            return
        target = m.array(f["codes"], np.float32, tokens, padded(cols, FLOATS))
        target[:, :cols] = ar.add(target[:, :cols], y) if f["kind"] & ADDED else y
        target[:, cols:] = 0

    def extents(self, f: Fields, design: Design, packed: PackedBeats) -> list[Extent]:
        cols, block = f["cols"], design.block
        need(f["floats"] in (0, 1), f"floats is {f['floats']}; 0 or 1 is possible")
        need(SMALLEST_EPSILON <= f["eps"] < float("inf"), f"eps is {f['eps']}")
        need(f["inverse"] == float(np.float32(1) / np.float32(cols)), f"inverse is {f['inverse']}, not 1 / {cols}")
        need(
            f["kind"] in range(8) and (f["floats"] or not f["kind"] & ADDED),
            f"kind is {f['kind']}, floats {f['floats']}",
        )
        need_threshold(f)
        need(not f["threshold"] or not f["kind"] & ADDED, "a threshold on what is added to other rows")
        codes = float_rows(block, cols) if f["floats"] else block * padded(cols, LANE_COLS)
        return [
            Extent("source", float_rows(block, cols), SCRATCH),
            Extent("gain", float_rows(1, cols), CONSTANTS),
            Extent("bias", float_rows(1, cols) if f["kind"] & BIASED else 0, CONSTANTS),
            Extent("codes", codes, SCRATCH, True, "source" if f["floats"] and not f["kind"] & ADDED else ""),
            Extent("scale", 0 if f["floats"] else block * 4, SCRATCH, True),
        ]

    def beats(self, step: Step, design: Design, tokens: Tokens) -> Beats:
        moved = row_beats(step.numbers, tokens, bool(step.numbers["floats"]))
        row, kind = beats_of(int(step.numbers["cols"]), FLOATS), int(step.numbers["kind"])
        moved["constants", "read", "weights"] += row * (2 if kind & BIASED else 1)
        moved["constants", "read", "activations"] += tokens.count * row * bool(kind & ADDED)
        return moved

    def parts(self, step: Step, design: Design, tokens: Tokens) -> list[Part]:
        o = step.numbers
        kind, row = int(o["kind"]), beats_of(int(o["cols"]), FLOATS)
        rows = row_part(o, design, tokens, bool(o["floats"]), 3 + 2 * bool(kind & CENTRED), bool(kind & ADDED))
        gains = Part({"memory port": looped(("load", row, 1 + bool(kind & BIASED)))})
        roots = Part({}, decided={"latency": float(tokens.count * ROOT_CYCLES)})
        return [gains, rows, roots]


def _integers(x: Floats) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """(integers of NORM_BITS bits, exponent of each row): x = integers * 2^(exponent - NORM_BITS), rounded."""
    peak = np.abs(x).max(axis=-1)
    exponent = np.clip(np.frexp(peak)[1], *NORM_EXPONENTS)
    limit = float(1 << NORM_BITS)
    m = np.clip(np.rint(np.ldexp(x, (NORM_BITS - exponent)[:, None])), -limit, limit)
    return m.astype(np.float64), exponent


def centred(x: Floats) -> Floats:
    """x - mean(x) of each row; the mean is of the integers of NORM_BITS bits on the row's power of two, summed exactly."""
    m, exponent = _integers(x)
    mean = m.sum(axis=-1).astype(np.float32) * np.float32(1 / np.float32(x.shape[-1]))
    mean = ar.flush(mean * np.ldexp(np.float32(1), exponent - NORM_BITS).astype(np.float32))
    return ar.flush(x - mean[:, None])


def norm(x: Floats, gain: Floats, eps: np.float32) -> Floats:
    """RMS norm [T, n]: squares are summed as integers of NORM_BITS bits on the row's power of two."""
    m, exponent = _integers(x)
    total = np.einsum("tn,tn->t", m, m).astype(np.float32)
    mean = total * np.float32(1 / np.float32(x.shape[-1]))
    mean = ar.flush(mean * np.ldexp(np.float32(1), 2 * (exponent - NORM_BITS)).astype(np.float32))
    inverse = np.float32(1) / np.sqrt(mean + eps)
    return ar.flush((x * inverse[:, None]) * gain)
