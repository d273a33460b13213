# SPDX-License-Identifier: Apache-2.0
"""What LINEAR and TPHS do to the results of their matrix before the epilogue: a bias, and a norm on heads.  hls/epilogue.hpp is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from meadow.machine.arithmetic import int8 as ar
from meadow.machine.instructions.instruction import (
    CONSTANTS,
    FLOATS,
    Beats,
    Extent,
    Field,
    Fields,
    Machine,
    Operands,
    Part,
    beats_of,
    looped,
    need,
)
from meadow.machine.instructions.norm import norm
from meadow.machine.isa import SMALLEST_EPSILON, Function
from meadow.machine.storage.rows import padded

if TYPE_CHECKING:
    from meadow.machine.design import Design

Floats = NDArray[np.float32]
EVERYWHERE = (Function.SILU, Function.RELU)
"""Activations that every design has; the others share a polynomial that takes multipliers of every float lane."""
OPTIONS = {"bias_option": 1, "norm_option": 2, "function_shift": 8, "window_shift": 12}
"""The bits of `options`: whether there is a bias, a norm on heads; from bit 8 the activation, from bit 12 the window of TPHS."""
BIAS, NORM = OPTIONS["bias_option"], OPTIONS["norm_option"]
MOST_WINDOW = 1 << 20

FIELDS = (
    Field(
        "options",
        "int",
        "1: bias; 2: norm on heads; bits 8 to 11: activation; from bit 12: window of TPHS, 0 for none",
        0,
    ),
    Field("bias", "slot", "FP32, each tile's beginning at a beat", 0),
    Field("gain", "slot", "norm on heads: FP32 [head_dim]", 0),
    Field("eps", "float", "norm on heads: added to the mean square", 0.0),
)


def options_of(bias: bool = False, norm: bool = False, function: Function = Function.SILU, window: int = 0) -> int:
    """The word of `options`."""
    assert 0 <= window < MOST_WINDOW
    word = BIAS * bias | NORM * norm | int(function) << OPTIONS["function_shift"]
    return word | window << OPTIONS["window_shift"]


def function_of(f: Fields) -> Function:
    return Function(int(f["options"]) >> OPTIONS["function_shift"] & 15)


def window_of(f: Fields | Operands) -> int:
    """Tokens that one sees at most; 0 is all."""
    return int(f["options"]) >> OPTIONS["window_shift"]


def biased(f: Fields, m: Machine, y: Floats, tile_rows: int, first_row: int) -> Floats:
    """y [tokens, rows] with the bias of the rows from `first_row` on."""
    if not f["options"] & BIAS:
        return y
    rows, width = y.shape[1], padded(tile_rows, FLOATS)
    first, tiles = first_row // tile_rows, -(-(first_row + rows) // tile_rows)
    table = m.array(f["bias"], np.float32, tiles, width)[first:, :tile_rows]
    return ar.flush(y + table.reshape(-1)[:rows])


def normed_heads(f: Fields, m: Machine, y: Floats) -> Floats:
    """y [tokens, heads, head_dim], each head normed, where the options say so."""
    if not f["options"] & NORM:
        return y
    tokens, heads, dim = y.shape
    gain = m.array(f["gain"], np.float32, dim)
    return norm(y.reshape(-1, dim), gain, np.float32(f["eps"])).reshape(tokens, heads, dim)


def option_extents(f: Fields, rows: int, tile_rows: int, first_row: int, design: Design) -> list[Extent]:
    """The memory of bias and gain.  Raises ValueError for options that mean nothing, or that the design has no unit for."""
    known = {int(v) for v in Function}
    need(int(f["options"]) >> OPTIONS["function_shift"] & 15 in known, f"options is {f['options']}: no such activation")
    name = function_of(f).name.lower()
    need(
        function_of(f) in EVERYWHERE or design.all_activations == 1,
        f"the design has no unit for {name} (all_activations)",
    )
    found = []
    if f["options"] & BIAS:
        need(first_row % tile_rows == 0, f"a bias from row {first_row} on, with tiles of {tile_rows}")
        tiles = -(-(first_row + rows) // tile_rows)
        found.append(Extent("bias", tiles * padded(tile_rows, FLOATS) * 4, CONSTANTS))
    if f["options"] & NORM:
        need(SMALLEST_EPSILON <= f["eps"] < float("inf"), f"eps is {f['eps']}")
        found.append(Extent("gain", padded(f["head_dim"], FLOATS) * 4, CONSTANTS))
    return found


def bias_beats(o: Operands, rows: int, tile_rows: int, moved: Beats) -> None:
    """The bias of every tile, read once per tile."""
    if int(o["options"]) & BIAS:
        full, rest = divmod(rows, tile_rows)
        moved["constants", "read", "weights"] += full * beats_of(tile_rows, FLOATS) + beats_of(rest, FLOATS)


def gain_beats(o: Operands, times: int, moved: Beats) -> None:
    """The gain of a norm on heads, read once per tile."""
    if int(o["options"]) & NORM:
        moved["constants", "read", "weights"] += times * beats_of(int(o["head_dim"]), FLOATS)


def option_parts(o: Operands, rows: int, tile_rows: int, tokens: int, lanes: int) -> list[Part]:
    """The bias of each tile; the norm of each head, which is a tile: its peaks, its squares, its roots, its results."""
    found = []
    if int(o["options"]) & BIAS:
        full, rest = divmod(rows, tile_rows)
        for real, times in ((tile_rows, full), (rest, 1)):
            made = looped(("load", beats_of(real, FLOATS)), ("epilogue", -(-real // lanes) * tokens))
            found.append(Part({"vector unit": made}, times))
    if int(o["options"]) & NORM:
        dim = int(o["head_dim"])
        made = looped(("load", beats_of(dim, FLOATS)), ("epilogue", -(-dim // lanes) * tokens, 3), ("epilogue", tokens))
        found.append(Part({"vector unit": made}, rows // dim))
    return found
