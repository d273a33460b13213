# SPDX-License-Identifier: Apache-2.0
"""A matrix that is streamed past activations: what LINEAR and TPHS have in common, by the engine that takes the matrix.

hls/linear.hpp and hls/pacq.hpp are the same in C++.
"""

from __future__ import annotations

import math
from functools import lru_cache

from meadow.machine.design import BEAT_BYTES, LANE_COLS, Design
from meadow.machine.instructions.instruction import (
    FLOATS,
    SCRATCH,
    TILE_OVERHEAD,
    WEIGHTS,
    Beats,
    Extent,
    Field,
    Fields,
    Loops,
    Operands,
    PackedBeats,
    Phases,
    Tokens,
    beats_of,
    float_rows,
    need,
    on_port,
)
from meadow.machine.step import Slot, Step
from meadow.machine.storage.coded import format_of
from meadow.machine.storage.groups import GroupFormat, GroupLayout, is_grouped
from meadow.machine.storage.rows import Layout, padded

GROUPED_TILE_OVERHEAD = 25
"""Cycles per tile of grouped weights, whose results come as a stream: only the last store of a tile is waited for.  Assumed."""
PACQ_LATENCY = 60
"""Cycles from the last activation to the first result of pacq_gemv, through both clocks.  Assumed."""
ACTIVATIONS = (
    Field("codes", "slot", "INT8 [tokens, cols padded to 32]; for grouped weights FP32 [tokens, cols padded to 4]"),
    Field("scale", "slot", "FP32 [tokens]; not for grouped weights"),
)
MATRIX = (
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
KEPT = (
    Field("reuse", "int", "grouped: 1 takes the activations that pacq_gemv has from the linear before"),
    Field("hold", "int", "grouped: 1 leaves them there for the next"),
)
FIELDS = (*ACTIVATIONS, *MATRIX, *KEPT)


def extents(f: Fields, rows: int, tile_rows: int, design: Design, packed: PackedBeats) -> list[Extent]:
    """Activations and weights."""
    cols, block = f["cols"], design.block
    if is_grouped(f["format"]):
        layout = GroupLayout(rows, cols, design.pacq_ports, GroupFormat.of_word(f["format"]))
        streams = [layout.port_beats] * design.pacq_ports
        found = [Extent("codes", float_rows(block, cols), SCRATCH)]
    else:
        need(not f["reuse"] and not f["hold"], "only grouped weights keep activations")
        whole = Layout(rows, cols, design.weight_ports, tile_rows)
        found = [
            Extent("codes", block * cols, SCRATCH),
            Extent("scale", block * 4, SCRATCH),
            Extent("weight_scale", whole.scale_bytes, WEIGHTS),
        ]
        if f["format"]:
            found += [
                Extent("directory", whole.tiles * design.weight_ports * 4, WEIGHTS),
                Extent("table", format_of(f["format"]).table_bytes(f["entries"]), WEIGHTS),
            ]
            streams = packed(f, whole.tiles)
        else:
            streams = [whole.raw_beats] * design.weight_ports
    return found + [Extent(f"weights{port}", n * BEAT_BYTES, WEIGHTS) for port, n in enumerate(streams)]


@lru_cache
def _group_layout(rows: int, cols: int, ports: int, word: int) -> GroupLayout:
    return GroupLayout(rows, cols, ports, GroupFormat.of_word(word))


def group_layout(o: Operands, design: Design, rows: int) -> GroupLayout:
    """Of the grouped matrix of `rows` output features that the step streams."""
    return _group_layout(rows, int(o["cols"]), design.pacq_ports, int(o["format"]))


def streamed_rows(step: Step) -> int:
    """Output features of the matrix that a LINEAR or TPHS streams: TPHS projects the queries of all heads."""
    o = step.numbers
    return int(o["rows"]) if "rows" in o else int(o["heads"]) * int(o["head_dim"])


def alike(rows: int, tile_rows: int) -> list[tuple[int, int, int]]:
    """(first row, rows, how many) of the tiles of a matrix, those together that begin at the same place within a beat."""
    full, rest = divmod(rows, tile_rows)
    period = 2 * FLOATS // math.gcd(tile_rows, 2 * FLOATS)  # of where tiles, and halves of tiles, begin
    found = [(n * tile_rows, tile_rows, (full - n + period - 1) // period) for n in range(min(period, full))]
    return found + [(full * tile_rows, rest, 1)] * (rest > 0)


def activation_beats(o: Operands, rows: int, tokens: Tokens, moved: Beats) -> None:
    """What reading `rows` rows of activations moves, and the scales of all tokens: nothing where pacq_gemv kept them."""
    cols = int(o["cols"])
    if is_grouped(o["format"]):
        moved["memory", "read", "activations"] += 0 if o["reuse"] else rows * beats_of(cols, FLOATS)
        return
    moved["memory", "read", "activations"] += rows * cols // BEAT_BYTES + beats_of(tokens.count, FLOATS)


def weight_beats(step: Step, design: Design, rows: int, tile_rows: int, moved: Beats) -> None:
    """What streaming a matrix reads: the weights, and for each tile its scales and its entry in the directory."""
    o = step.numbers
    if is_grouped(o["format"]):
        for port in range(design.pacq_ports):
            moved[f"pacq{port}", "read", "weights"] += group_layout(o, design, rows).port_beats
        return
    for port in range(design.weight_ports):
        slot = step.operands[f"weights{port}"]
        assert isinstance(slot, Slot)
        moved[f"weights{port}", "read", "weights"] += slot.length // BEAT_BYTES
    form = format_of(int(o["format"]))
    moved["constants", "read", "weights"] += form.table_beats(int(o["entries"]))
    for _, some, times in alike(padded(rows, design.weight_ports), tile_rows):
        moved["constants", "read", "weights"] += times * (beats_of(some, FLOATS) + form.packed)


def loops(step: Step, design: Design, rows: int, tokens: int) -> Loops:
    """Loops of the engine that takes the matrix; `unpack` is missing where weights are prefix codes: the codes decide it."""
    o = step.numbers
    if is_grouped(o["format"]):
        layout = group_layout(o, design, rows)
        windows = layout.windows * -(-tokens // design.pacq_tokens)
        fed = 0 if o["reuse"] else tokens * -(-int(o["cols"]) // FLOATS)
        return {"pacq": windows * layout.form.window_cycles, "feed": fed, "results": tokens * layout.results}
    ports = design.weight_ports
    port_rows = padded(rows, ports) // ports
    words = port_rows * int(o["cols"]) // LANE_COLS
    beats = sum(s.length for p in range(ports) if isinstance(s := step.operands[f"weights{p}"], Slot)) // BEAT_BYTES
    found = {"fetch": beats, "multiply": words * -(-tokens // design.token_lanes), "rescale": port_rows * tokens}
    unpacked = format_of(int(o["format"])).unpack_words(
        words * ports, beats
    )  # fetch and unpack are summed over the ports
    return found if unpacked is None else {**found, "unpack": unpacked}


def price(step: Step, design: Design, rows: int, tile_rows: int, moved: Beats, made: Loops, phases: Phases) -> None:
    """The pipelined part, which is its slowest stage; then epilogues and what tiles cost besides."""
    o = step.numbers
    tiles = -(-rows // tile_rows)
    if is_grouped(o["format"]):
        slower = design.clock_mhz / design.pacq_clock_mhz
        stages = {
            "weight ports": group_layout(o, design, rows).port_beats * slower,
            "multipliers": made["pacq"] * slower,
            "vector unit": made["results"],
        }
        phases["latency"] += tiles * GROUPED_TILE_OVERHEAD + PACQ_LATENCY
    else:
        form = format_of(int(o["format"]))
        words = padded(rows, design.weight_ports) // design.weight_ports * int(o["cols"]) / LANE_COLS
        stages = {
            "weight ports": max(on_port(moved, f"weights{p}") for p in range(design.weight_ports)),
            "look-up unit": words if form.packed else words * LANE_COLS / BEAT_BYTES,
            "multipliers": made["multiply"],
            "rescaling": made["rescale"],
        }
        phases["latency"] += tiles * TILE_OVERHEAD + form.load_cycles(int(o["entries"]))
    slowest = max(stages, key=lambda name: stages[name])
    phases[slowest] = phases.get(slowest, 0.0) + stages[slowest]
    phases["vector unit"] = phases.get("vector unit", 0.0) + made["epilogue"]
