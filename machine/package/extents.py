# SPDX-License-Identifier: Apache-2.0
"""extents: how far each operand of an instruction reaches, in which kind of memory, and whether it is written.

The engine trusts its program, and on a board what lies beyond is somebody else's memory.  read.py refuses what does not fit.
Sizes are those of the longest run (a whole block at the end of the context).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from meadow.machine.design import BEAT_BYTES, LANE_COLS, Design
from meadow.machine.isa import SMALLEST_EPSILON, Epilogue, Opcode
from meadow.machine.storage.groups import GroupFormat, GroupLayout, is_grouped
from meadow.machine.storage.rows import Layout, padded
from meadow.machine.storage.unpack import format_of

Fields = dict[str, Any]
WEIGHTS, CONSTANTS, CACHE = ("weights",), ("constants",), ("kv",)
SCRATCH = ("activations", "pinned")
"""Kinds of chunks, as place.py makes them."""


@dataclass(frozen=True)
class Extent:
    """What one operand touches: `bytes` from its slot on, in a chunk of one of `kinds`."""

    field: str
    bytes: int
    kinds: tuple[str, ...]
    written: bool = False


Beats = Callable[[Fields, int], list[int]]
"""beats(fields, tiles) -> beats of each port's packed stream, as the directory says."""


def extents(opcode: Opcode, f: Fields, design: Design, beats: Beats) -> list[Extent]:
    """Every operand of one instruction.  Raises ValueError for fields that no engine takes."""
    made = {
        Opcode.NORM: _norm, Opcode.QUANTIZE: _quantize, Opcode.LINEAR: _linear, Opcode.TPHS: _tphs, Opcode.SCORES: _scores,
        Opcode.SOFTMAX: _softmax, Opcode.CONTEXT: _context,
    }[opcode](f, design, beats)  # fmt: skip
    return [Extent(e.field, padded(e.bytes, BEAT_BYTES), e.kinds, e.written) for e in made if e.bytes]


def _floats(rows: int, cols: int) -> int:
    return rows * padded(cols, 4) * 4


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _norm(f: Fields, design: Design, beats: Beats) -> list[Extent]:
    cols, block = f["cols"], design.block
    _need(f["floats"] in (0, 1), f"floats is {f['floats']}; 0 or 1 is possible")
    _need(SMALLEST_EPSILON <= f["eps"] < float("inf"), f"eps is {f['eps']}")
    _need(f["inverse"] == float(np.float32(1) / np.float32(cols)), f"inverse is {f['inverse']}, not 1 / {cols}")
    codes = _floats(block, cols) if f["floats"] else block * padded(cols, LANE_COLS)
    return [
        Extent("source", _floats(block, cols), SCRATCH), Extent("gain", _floats(1, cols), CONSTANTS),
        Extent("codes", codes, SCRATCH, True), Extent("scale", 0 if f["floats"] else block * 4, SCRATCH, True),
    ]  # fmt: skip


def _quantize(f: Fields, design: Design, beats: Beats) -> list[Extent]:
    cols, block = f["cols"], design.block
    return [Extent("source", _floats(block, cols), SCRATCH), Extent("codes", block * padded(cols, LANE_COLS), SCRATCH, True),
            Extent("scale", block * 4, SCRATCH, True)]  # fmt: skip


def _projection(f: Fields, rows: int, tile_rows: int, design: Design, beats: Beats) -> list[Extent]:
    """Activations and weights of LINEAR and TPHS."""
    cols, block = f["cols"], design.block
    if is_grouped(f["format"]):
        layout = GroupLayout(rows, cols, design.pacq_ports, GroupFormat.of_word(f["format"]))
        streams = [layout.port_beats] * design.pacq_ports
        found = [Extent("codes", _floats(block, cols), SCRATCH)]
    else:
        _need(not f["reuse"] and not f["hold"], "only grouped weights keep activations")
        whole = Layout(rows, cols, design.weight_ports, tile_rows)
        found = [Extent("codes", block * cols, SCRATCH), Extent("scale", block * 4, SCRATCH),
                 Extent("weight_scale", whole.scale_bytes, WEIGHTS)]  # fmt: skip
        if f["format"]:
            found += [Extent("directory", whole.tiles * design.weight_ports * 4, WEIGHTS),
                      Extent("table", format_of(f["format"]).table_bytes(f["entries"]), WEIGHTS)]  # fmt: skip
            streams = beats(f, whole.tiles)
        else:
            streams = [whole.raw_beats] * design.weight_ports
    return found + [Extent(f"weights{port}", n * BEAT_BYTES, WEIGHTS) for port, n in enumerate(streams)]


def _rope(f: Fields, design: Design) -> Extent:
    _need(f["head_dim"] % 2 == 0, f"head_dim is {f['head_dim']}; rotary positions turn pairs")
    return Extent("rope", design.context * padded(f["head_dim"] * 2, BEAT_BYTES), CONSTANTS)


def _linear(f: Fields, design: Design, beats: Beats) -> list[Extent]:
    rows, first, block = f["rows"], f["first_row"], design.block
    _need(f["epilogue"] in set(Epilogue), f"epilogue {f['epilogue']} is not known")
    epilogue = Epilogue(f["epilogue"])
    found = _projection(f, rows, f["tile_rows"], design, beats)
    if epilogue not in (Epilogue.HEADS, Epilogue.ROPE_HEADS):
        pair = 2 if epilogue is Epilogue.GLU else 1
        _need(
            rows % pair == 0 and first % (4 * pair) == 0, f"rows {rows} from {first} on are not whole beats of results"
        )
        _need(
            (first + rows) // pair <= f["stride"] and f["stride"] % 4 == 0,
            f"rows up to {first + rows} in a stride of {f['stride']}",
        )
        return [*found, Extent("target", block * f["stride"] * 4, SCRATCH, True)]
    dim = f["head_dim"]
    _need(rows % dim == 0 and first % dim == 0, f"rows {rows} from {first} on are not whole heads of {dim}")
    _need(f["tile_rows"] == dim, f"tiles of {f['tile_rows']} rows are not heads of {dim}")
    _need(f["append"] in (0, 1), f"append is {f['append']}; 0 or 1 is possible")
    least = design.context if f["append"] else block
    _need(f["capacity"] >= least, f"capacity is {f['capacity']}; {least} tokens are written")
    heads, kinds = (first + rows) // dim, CACHE if f["append"] else SCRATCH
    found += [Extent("target", heads * f["capacity"] * padded(dim, BEAT_BYTES), kinds, True),
              Extent("target_scale", heads * padded(f["capacity"], 4) * 4, kinds, True)]  # fmt: skip
    return [*found, _rope(f, design)] if epilogue is Epilogue.ROPE_HEADS else found


def _cached(f: Fields, design: Design, *names: str) -> list[Extent]:
    """Keys or values, and their scales."""
    _need(f["capacity"] >= design.context, f"capacity is {f['capacity']} and the context {design.context}")
    sizes = {"keys": f["kv_heads"] * f["capacity"] * padded(f.get("head_dim", 0), BEAT_BYTES),
             "key_scale": f["kv_heads"] * padded(f["capacity"], 4) * 4}  # fmt: skip
    sizes |= {"values": sizes["keys"], "value_scale": sizes["key_scale"]}
    return [Extent(name, sizes[name], CACHE) for name in names]


def _result(f: Fields, design: Design) -> Extent:
    width = f["heads"] * f["head_dim"]
    _need(width <= f["stride"] and f["stride"] % 4 == 0, f"{width} results in a stride of {f['stride']}")
    return Extent("target", design.block * f["stride"] * 4, SCRATCH, True)


def _tphs(f: Fields, design: Design, beats: Beats) -> list[Extent]:
    _need(0 < f["kappa"] < float("inf"), f"kappa is {f['kappa']}")
    return [*_projection(f, f["heads"] * f["head_dim"], f["head_dim"], design, beats), _rope(f, design),
            *_cached(f, design, "keys", "key_scale", "values", "value_scale"), _result(f, design)]  # fmt: skip


def _matrix(f: Fields, design: Design, width: int) -> int:
    """Bytes of [heads, block, row] elements of `width` bytes."""
    _need(f["block"] >= design.block, f"block is {f['block']} and the design's {design.block}")
    _need(f["row"] >= design.context and f["row"] % 8 == 0, f"row is {f['row']} and the context {design.context}")
    return int(f["heads"] * f["block"] * f["row"] * width)


def _scores(f: Fields, design: Design, beats: Beats) -> list[Extent]:
    _need(0 < f["kappa"] < float("inf"), f"kappa is {f['kappa']}")
    return [
        Extent("queries", f["heads"] * f["block"] * padded(f["head_dim"], BEAT_BYTES), SCRATCH),
        Extent("query_scale", f["heads"] * padded(f["block"], 4) * 4, SCRATCH), *_cached(f, design, "keys", "key_scale"),
        Extent("target", _matrix(f, design, 4), SCRATCH, True),
    ]  # fmt: skip


def _softmax(f: Fields, design: Design, beats: Beats) -> list[Extent]:
    return [
        Extent("scores", _matrix(f, design, 4), SCRATCH), *_cached(f, design, "value_scale"),
        Extent("target", _matrix(f, design, 2), SCRATCH, True),
        Extent("divisor", f["heads"] * f["block"] * BEAT_BYTES, SCRATCH, True),
    ]  # fmt: skip


def _context(f: Fields, design: Design, beats: Beats) -> list[Extent]:
    return [Extent("weights", _matrix(f, design, 2), SCRATCH), Extent("divisor", f["heads"] * f["block"] * BEAT_BYTES, SCRATCH),
            *_cached(f, design, "values"), _result(f, design)]  # fmt: skip
