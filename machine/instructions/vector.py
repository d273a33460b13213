# SPDX-License-Identifier: Apache-2.0
"""Rows that become INT8: what NORM and QUANTIZE have in common."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from meadow.machine.arithmetic import int8 as ar
from meadow.machine.design import Design
from meadow.machine.instructions.instruction import (
    FLOATS,
    Beats,
    Field,
    Fields,
    Machine,
    Operands,
    Part,
    Tokens,
    beats_of,
    looped,
    need,
)
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES, LANE_COLS


def rows_of(f: Fields, m: Machine) -> NDArray[np.float32]:
    """The FP32 rows [tokens, cols] that the instruction reads."""
    whole: NDArray[np.float32] = m.array(f["source"], np.float32, m.run.tokens, padded(f["cols"], FLOATS))
    return whole[:, : f["cols"]]


THRESHOLD = Field(
    "threshold", "float", "elements whose magnitude is not above it become 0; 0 leaves the row as it is", 0.0
)


def need_threshold(f: Fields) -> None:
    """Raise ValueError for a threshold that is none."""
    limit = f["threshold"]
    need(0 <= limit < float("inf") and math.copysign(1.0, limit) > 0, f"threshold is {limit}")


def live(f: Fields, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows with what is not above the threshold at 0."""
    limit = np.float32(f["threshold"])
    return np.where(np.abs(x) > limit, x, np.float32(0)) if limit else x


def store_codes(f: Fields, m: Machine, x: NDArray[np.float32]) -> None:
    """INT8 codes and scales of the rows; what lies behind them in their last beats is 0."""
    codes, scale = ar.quantize_rows(x)
    target = m.array(f["codes"], np.int8, m.run.tokens, padded(f["cols"], LANE_COLS))
    target[:, : f["cols"]] = codes
    target[:, f["cols"] :] = 0
    scales = m.array(f["scale"], np.float32, padded(m.run.tokens, FLOATS))
    scales[: m.run.tokens] = scale
    scales[m.run.tokens :] = 0  # whole beats are written


def row_beats(o: Operands, tokens: Tokens, floats: bool) -> Beats:
    """Rows read, over the port of the constants, and rows of FP32 or codes with their scales written."""
    cols = int(o["cols"])
    moved: Beats = Counter()
    moved["constants", "read", "activations"] += tokens.count * beats_of(cols, FLOATS)
    if floats:
        moved["memory", "written", "activations"] += tokens.count * beats_of(cols, FLOATS)
    else:
        codes = tokens.count * padded(cols, LANE_COLS) // BEAT_BYTES
        moved["memory", "written", "activations"] += codes + beats_of(tokens.count, FLOATS)
    return moved


def row_part(o: Operands, design: Design, tokens: Tokens, floats: bool, passes: int, added: bool = False) -> Part:
    """Rows that are loaded, passed `passes` times by the norm, quantized or not, and stored: different rows at once."""
    cols, lanes, count = int(o["cols"]), design.float_lanes, tokens.count
    vectors, beats = -(-cols // lanes), beats_of(cols, FLOATS)
    codes = padded(cols, LANE_COLS)
    quantize, store = looped(("quantize", vectors, count)), looped(("store", beats, count * floats))
    if not floats:
        quantize.add("quantize", codes // lanes, count)
        store = looped(("store", codes // BEAT_BYTES, count), ("store", beats_of(count, FLOATS)))
    processes = {
        "memory port": looped(("load", beats, count * (1 + added))),
        "vector unit": looped(("norm", vectors, count * passes)),
        "quantization": quantize,
        "stores": store,
    }
    return Part(processes, rounds=count)
