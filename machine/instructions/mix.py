# SPDX-License-Identifier: Apache-2.0
"""MIX: softmax x V of every head, through DRAM.  hls/gemm_attention.hpp is the same in C++."""

from __future__ import annotations

import numpy as np

from meadow.machine.arithmetic import int8 as ar
from meadow.machine.design import Design
from meadow.machine.instructions.heads import (
    cache_beats,
    cache_extents,
    cache_part,
    cached,
    group_keys,
    probability_beats,
    result_extent,
    result_rows,
    square_extent,
)
from meadow.machine.instructions.instruction import (
    HALVES,
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
    beats_of,
    looped,
)
from meadow.machine.instructions.scores import head_macs
from meadow.machine.instructions.tphs import mix_beats, result_parts
from meadow.machine.isa import Opcode
from meadow.machine.step import Step
from meadow.machine.units import BEAT_BYTES


class Mix(Instruction):
    """Probabilities times values, divided."""

    opcode = Opcode.MIX
    fields = (
        Field("probabilities", "slot", "uint16 [heads, block, row]"),
        Field("divisor", "slot", "(FP32 total, int32 exponent, 0, 0) [heads, block]"),
        Field("values", "slot", "INT8 [kv_heads, capacity, head_dim padded to 16]"),
        Field("heads", "int", "query heads"),
        Field("kv_heads", "int", "key and value heads"),
        Field("head_dim", "int", "elements per head"),
        Field("capacity", "int", "tokens that the cache holds"),
        Field("block", "int", "tokens that the query buffers hold"),
        Field("row", "int", "elements between two rows of probabilities"),
        Field("target", "slot", "out: FP32 [tokens, stride]"),
        Field("stride", "int", "FP32 elements between two rows of the target"),
    )

    def run(self, f: Fields, m: Machine) -> None:
        tokens, heads, dim, block = m.run.tokens, f["heads"], f["head_dim"], f["block"]
        seen = m.run.position + tokens
        probabilities = m.array(f["probabilities"], np.uint16, heads, block, f["row"])[:, :tokens, :seen]
        divisor = m.array(f["divisor"], np.float32, heads, block, 4)[:, :tokens]
        values = cached(f, m, "values")
        target = result_rows(f, m)
        for head in range(heads):
            sums = probabilities[head].astype(np.float64) @ values[head // (heads // f["kv_heads"])].astype(np.float64)
            exponent = np.ascontiguousarray(divisor[head, :, 1]).view(np.int32)
            target[:, head * dim : (head + 1) * dim] = ar.mix(sums, divisor[head, :, 0], exponent)

    def extents(self, f: Fields, design: Design, packed: PackedBeats) -> list[Extent]:
        return [
            Extent("probabilities", square_extent(f, design, 2), SCRATCH),
            Extent("divisor", f["heads"] * f["block"] * BEAT_BYTES, SCRATCH),
            *cache_extents(f, design, "values"),
            result_extent(f, design),
        ]

    def beats(self, step: Step, design: Design, tokens: Tokens) -> Beats:
        o, moved = step.numbers, Beats()
        heads = int(o["heads"])
        cache_beats(o, tokens.seen, True, 0, moved)
        moved["constants", "read", "intermediates"] += heads * probability_beats(tokens)
        mix_beats(heads, int(o["head_dim"]), tokens.count, moved)
        return moved

    def parts(self, step: Step, design: Design, tokens: Tokens) -> list[Part]:
        o, lanes = step.numbers, design.token_lanes
        heads, dim = int(o["heads"]), int(o["head_dim"])
        loads = Loops()
        for token in range(tokens.count):
            loads.add("load", beats_of(tokens.position + token + 1, HALVES))
            loads.add("load", 1)
        found = [cache_part(o, tokens.seen, False, True, (False, False)), Part({"memory port": loads}, heads)]
        for keys in group_keys(1, design, tokens):
            found.append(Part({"attention": looped(("mix", lanes), ("mix", keys), ("mix", dim))}, heads))
        return [*found, *result_parts(heads, dim, tokens.count, design.float_lanes)]

    def macs(self, o: Operands, tokens: Tokens) -> int:
        return head_macs(o, tokens)
