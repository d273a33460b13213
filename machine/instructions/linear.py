# SPDX-License-Identifier: Apache-2.0
"""LINEAR: activations times a streamed matrix, and what happens to the results.  hls/steps.hpp is the same in C++."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meadow.machine.arithmetic import int8 as ar
from meadow.machine.arithmetic.activation import activated
from meadow.machine.design import Design
from meadow.machine.instructions import options, projection
from meadow.machine.instructions.heads import head_loops, rope_beats, rope_extent, rope_part, rotated
from meadow.machine.instructions.instruction import (
    CACHE,
    FLOATS,
    SCRATCH,
    Beats,
    Extent,
    Field,
    Fields,
    Instruction,
    Loops,
    Machine,
    Operands,
    PackedBeats,
    Part,
    Tokens,
    alike,
    beats_of,
    looped,
    need,
)
from meadow.machine.isa import Epilogue, Opcode
from meadow.machine.step import Step
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES

BY_HEAD = (Epilogue.HEADS, Epilogue.ROPE_HEADS)


class Linear(Instruction):
    """y = x W.T, then: store, add to the target, silu(gate) * up, INT8 by head (rotated or not), or logits."""

    opcode = Opcode.LINEAR
    fields = (
        *projection.FIELDS,
        Field("rows", "int", "output features"),
        Field("cols", "int", "input features, padded to 32; of grouped weights as they are"),
        Field("tile_rows", "int", "output features per tile"),
        Field("epilogue", "int", "what happens to the results"),
        Field("target", "slot", "out: FP32 [tokens, stride], or INT8 [heads, capacity, head_dim padded to 16]"),
        Field("target_scale", "slot", "out, heads: FP32 [heads, capacity]"),
        Field("stride", "int", "FP32 elements between two rows of the target"),
        Field("capacity", "int", "heads: tokens that the target holds"),
        Field("append", "int", "heads: 1 writes at the position of the cache, 0 at token 0"),
        Field("head_dim", "int", "heads: elements per head"),
        Field("rope", "slot", "heads: int16 [context, 2, head_dim / 2], each row padded to a beat"),
        Field("first_row", "int", "where this part's rows begin in the target"),
        *options.FIELDS,
    )

    def run(self, f: Fields, m: Machine) -> None:
        tokens, rows = m.run.tokens, f["rows"]
        first = m.run.first_logit if f["epilogue"] == Epilogue.LOGITS else 0
        if first >= tokens:
            return
        y = projection.project(f, m, rows, f["tile_rows"], first)
        y = options.biased(f, m, y, f["tile_rows"], f["first_row"])
        match f["epilogue"]:
            case Epilogue.STORE | Epilogue.LOGITS:
                _store(f, m, rows, first, y)
            case Epilogue.ADD:
                _store(f, m, rows, 0, ar.add(_target(f, m, rows), y))
            case Epilogue.GLU:
                _store(f, m, rows // 2, 0, activated(options.function_of(f), y[:, 0::2], y[:, 1::2]))
            case Epilogue.ACT:
                _store(f, m, rows, 0, activated(options.function_of(f), y))
            case Epilogue.HEADS | Epilogue.ROPE_HEADS:
                _store_heads(f, m, options.normed_heads(f, m, y.reshape(tokens, -1, f["head_dim"])))

    def extents(self, f: Fields, design: Design, packed: PackedBeats) -> list[Extent]:
        rows, first, block = f["rows"], f["first_row"], design.block
        need(f["epilogue"] in set(Epilogue), f"epilogue {f['epilogue']} is not known")
        epilogue = Epilogue(f["epilogue"])
        found = projection.engine(f, design).extents(f, rows, f["tile_rows"], design, packed)
        found += options.option_extents(f, rows, f["tile_rows"], first, design)
        need(epilogue in BY_HEAD or not f["options"] & options.NORM, "a norm on heads of rows that are no heads")
        if epilogue not in BY_HEAD:
            pair = 2 if epilogue is Epilogue.GLU else 1
            whole = rows % pair == 0 and first % (4 * pair) == 0
            need(whole, f"rows {rows} from {first} on are not whole beats of results")
            inside = (first + rows) // pair <= f["stride"] and f["stride"] % 4 == 0
            need(inside, f"rows up to {first + rows} in a stride of {f['stride']}")
            return [*found, Extent("target", block * f["stride"] * 4, SCRATCH, True)]
        dim = f["head_dim"]
        need(rows % dim == 0 and first % dim == 0, f"rows {rows} from {first} on are not whole heads of {dim}")
        need(f["tile_rows"] == dim, f"tiles of {f['tile_rows']} rows are not heads of {dim}")
        need(f["append"] in (0, 1), f"append is {f['append']}; 0 or 1 is possible")
        least = design.context if f["append"] else block
        need(f["capacity"] >= least, f"capacity is {f['capacity']}; {least} tokens are written")
        heads, kinds = (first + rows) // dim, CACHE if f["append"] else SCRATCH
        found += [
            Extent("target", heads * f["capacity"] * padded(dim, BEAT_BYTES), kinds, True),
            Extent("target_scale", heads * padded(f["capacity"], 4) * 4, kinds, True),
        ]
        return [*found, rope_extent(f, design)] if epilogue is Epilogue.ROPE_HEADS else found

    def beats(self, step: Step, design: Design, tokens: Tokens) -> Beats:
        o, moved = step.numbers, Beats()
        rows, tile_rows = int(o["rows"]), int(o["tile_rows"])
        epilogue, served = Epilogue(int(o["epilogue"])), _served(o, tokens)
        if not served:
            return moved
        engine = projection.engine(o, design)
        engine.activation_beats(o, served, tokens, moved)
        engine.weight_beats(step, design, rows, tile_rows, moved)
        options.bias_beats(o, rows, tile_rows, moved)
        if epilogue is Epilogue.ROPE_HEADS:
            rope_beats(o, tokens.count, moved)
        for row, real, times in alike(rows, tile_rows):
            if epilogue in BY_HEAD:
                _head_beats(o, tokens, times, moved)
                continue
            half = 2 if epilogue is Epilogue.GLU else 1
            columns, column = real // half, (int(o["first_row"]) + row) // half
            if epilogue is Epilogue.ADD:
                moved["constants", "read", "activations"] += times * served * beats_of(columns, FLOATS)
            store_beats(column, columns, times * served, "activations", moved)
        return moved

    def parts(self, step: Step, design: Design, tokens: Tokens) -> list[Part]:
        o, lanes = step.numbers, design.float_lanes
        rows, tile_rows, epilogue = int(o["rows"]), int(o["tile_rows"]), Epilogue(int(o["epilogue"]))
        served = _served(o, tokens)
        if not served:
            return []
        rope = epilogue is Epilogue.ROPE_HEADS
        found = projection.engine(o, design).parts(step, design, rows, tile_rows, served, tokens)
        found += options.option_parts(o, rows, tile_rows, served, lanes)
        if epilogue in BY_HEAD:
            dim, heads = int(o["head_dim"]), rows // int(o["head_dim"])
            stored = looped(("store", served * beats_of(dim, BEAT_BYTES)))
            store_loops(tokens.position if o["append"] else 0, served, 1, stored)
            made = head_loops(dim, rope, served, lanes)
            turned = [rope_part(o, served)] if rope else []
            return [*found, *turned, Part({"vector unit": made}, heads), Part({"stores": stored}, heads)]
        half = 2 if epilogue is Epilogue.GLU else 1
        for row, real, times in alike(rows, tile_rows):
            columns, column = real // half, (int(o["first_row"]) + row) // half
            loads, stores = Loops(), Loops()
            if epilogue is Epilogue.ADD:
                loads.add("load", beats_of(columns, FLOATS), served)
            loads.add("load", bool(column % FLOATS), served)
            stores.add("store", beats_of(column % FLOATS + columns, FLOATS), served)
            made = looped(("epilogue", -(-columns // lanes) * served))
            found.append(Part({"memory port": loads, "vector unit": made, "stores": stores}, times))
        return found

    def macs(self, o: Operands, tokens: Tokens) -> int:
        return _served(o, tokens) * int(o["rows"]) * int(o["cols"])


def _served(o: Operands, tokens: Tokens) -> int:
    """Tokens whose results are wanted: of the head those with logits."""
    return min(tokens.logits, tokens.count) if o["epilogue"] == Epilogue.LOGITS else tokens.count


def store_beats(first: int, count: int, times: int, role: str, moved: Beats) -> None:
    """FP32 written from element `first` on: where that is not at a beat, the beat is read first."""
    offset = first % FLOATS
    if offset:
        moved["constants", "read", role] += times
    moved["memory", "written", role] += times * beats_of(offset + count, FLOATS)


def store_loops(first: int, count: int, times: int, loops: Loops) -> None:
    """The same as loops."""
    offset = first % FLOATS
    loops.add("load", bool(offset), times)
    loops.add("store", beats_of(offset + count, FLOATS), times)


def _head_beats(o: Operands, tokens: Tokens, times: int, moved: Beats) -> None:
    """INT8 by head, with a scale for each token."""
    role = "kv" if o["append"] else "intermediates"
    options.gain_beats(o, times, moved)
    moved["memory", "written", role] += times * tokens.count * beats_of(int(o["head_dim"]), BEAT_BYTES)
    store_beats(tokens.position if o["append"] else 0, tokens.count, times, role, moved)


def _target(f: Fields, m: Machine, cols: int) -> NDArray[np.float32]:
    start = f["first_row"] if f["epilogue"] != Epilogue.GLU else f["first_row"] // 2
    whole: NDArray[np.float32] = m.array(f["target"], np.float32, m.run.tokens, f["stride"])
    return whole[:, start : start + cols]


def _store(f: Fields, m: Machine, cols: int, first: int, y: NDArray[np.float32]) -> None:
    """Rows of results from token `first` on; whole beats are written, so what lies behind them in their last is 0."""
    target = _target(f, m, padded(cols, FLOATS))[first:]
    target[:, :cols] = y
    target[:, cols:] = 0


def _store_heads(f: Fields, m: Machine, y: NDArray[np.float32]) -> None:
    """[tokens, heads, head_dim] as INT8 into [heads, capacity, head_dim]."""
    if f["epilogue"] == Epilogue.ROPE_HEADS:
        y = rotated(f, m, y)
    codes, scale = ar.quantize_rows(y)
    heads, capacity, width = y.shape[1], f["capacity"], padded(f["head_dim"], BEAT_BYTES)
    head = f["first_row"] // f["head_dim"]
    target = m.array(f["target"], np.int8, head + heads, capacity, width)[head:]
    scales = m.array(f["target_scale"], np.float32, head + heads, padded(capacity, FLOATS))[head:]
    start = m.run.position if f["append"] else 0
    stop = start + m.run.tokens
    target[:, start:stop, : f["head_dim"]] = codes.swapaxes(0, 1)
    target[:, start:stop, f["head_dim"] :] = 0
    scales[:, start:stop] = scale.T
    scales[:, stop : padded(stop, FLOATS)] = 0
