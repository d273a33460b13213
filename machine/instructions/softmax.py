# SPDX-License-Identifier: Apache-2.0
"""SOFTMAX: probabilities and divisors of every head's scores, through DRAM.  hls/gemm_attention.hpp is the same in C++."""

from __future__ import annotations

import numpy as np

from meadow.machine.arithmetic import int8 as ar
from meadow.machine.design import Design
from meadow.machine.instructions.heads import (
    cache_beats,
    cache_extents,
    cache_part,
    cached_scales,
    group_keys,
    probability_beats,
    score_beats,
    square_extent,
    visible,
)
from meadow.machine.instructions.instruction import (
    FLOATS,
    HALVES,
    SCRATCH,
    Beats,
    Extent,
    Field,
    Fields,
    Instruction,
    Loops,
    Machine,
    PackedBeats,
    Part,
    Tokens,
    beats_of,
    looped,
)
from meadow.machine.isa import Opcode
from meadow.machine.step import Step
from meadow.machine.units import BEAT_BYTES


class Softmax(Instruction):
    """16-bit probabilities with the scales of V folded in, and the divisors of MIX."""

    opcode = Opcode.SOFTMAX
    fields = (
        Field("scores", "slot", "FP32 [heads, block, row]"),
        Field("value_scale", "slot", "FP32 [kv_heads, capacity]"),
        Field("heads", "int", "query heads"),
        Field("kv_heads", "int", "key and value heads"),
        Field("capacity", "int", "tokens that the cache holds"),
        Field("block", "int", "tokens that the query buffers hold"),
        Field("row", "int", "elements between two rows of scores"),
        Field("target", "slot", "out: uint16 [heads, block, row]"),
        Field("divisor", "slot", "out: (FP32 total, int32 exponent, 0, 0) [heads, block]"),
        Field("window", "int", "tokens that one sees at most; 0 for all", 0),
    )

    def run(self, f: Fields, m: Machine) -> None:
        tokens, heads, block = m.run.tokens, f["heads"], f["block"]
        seen = m.run.position + tokens
        scores = m.array(f["scores"], np.float32, heads, block, f["row"])[:, :tokens, :seen]
        target = m.array(f["target"], np.uint16, heads, block, f["row"])[:, :tokens, :seen]
        divisor = m.array(f["divisor"], np.float32, heads, block, 4)
        v_scale, mask = cached_scales(f, m, "value_scale"), visible(m, 1, f["window"])
        for head in range(heads):
            w, total, exponent = ar.softmax(scores[head], v_scale[head // (heads // f["kv_heads"])], mask)
            target[head] = w.astype(np.uint16)
            divisor[head, :tokens, 0] = total
            divisor[head, :tokens, 1] = exponent.astype(np.int32).view(np.float32)

    def extents(self, f: Fields, design: Design, packed: PackedBeats) -> list[Extent]:
        return [
            Extent("scores", square_extent(f, design, 4), SCRATCH),
            *cache_extents(f, design, "value_scale"),
            Extent("target", square_extent(f, design, 2), SCRATCH, True),
            Extent("divisor", f["heads"] * f["block"] * BEAT_BYTES, SCRATCH, True),
        ]

    def beats(self, step: Step, design: Design, tokens: Tokens) -> Beats:
        o, moved = step.numbers, Beats()
        heads = int(o["heads"])
        cache_beats(o, tokens.seen, False, 1, moved)
        moved["constants", "read", "intermediates"] += heads * score_beats(tokens)
        moved["memory", "written", "intermediates"] += heads * probability_beats(tokens)
        return moved

    def parts(self, step: Step, design: Design, tokens: Tokens) -> list[Part]:
        o, lanes = step.numbers, design.token_lanes
        heads = int(o["heads"])
        found = [cache_part(o, tokens.seen, False, False, (False, True))]
        for keys in group_keys(1, design, tokens):  # the values are multiplied, and not used
            made = {"attention": looped(("softmax", lanes), ("softmax", keys, 2))}
            found.append(Part({**made, "values": looped(("mix", lanes), ("mix", keys))}, heads))
        loads, stores = Loops(), Loops()
        for token in range(tokens.count):
            seen = tokens.position + token + 1
            loads.add("load", beats_of(seen, FLOATS))
            stores.add("store", beats_of(seen, HALVES))
            stores.add("store", 1)
        return [*found, Part({"memory port": loads}, heads), Part({"stores": stores}, heads)]
