# SPDX-License-Identifier: Apache-2.0
"""SCORES: q k.T of every head, through DRAM.  With SOFTMAX and MIX it is attention by GEMM; hls/gemm_attention.hpp is the same."""

from __future__ import annotations

import numpy as np

from meadow.machine.arithmetic import int8 as ar
from meadow.machine.design import Design
from meadow.machine.instructions.heads import (
    cache_beats,
    cache_extents,
    cache_part,
    cached,
    cached_scales,
    group_keys,
    score_beats,
    square_extent,
)
from meadow.machine.instructions.instruction import (
    FLOATS,
    SCRATCH,
    Beats,
    Extent,
    Field,
    Fields,
    Instruction,
    Machine,
    Operands,
    PackedBeats,
    Part,
    Tokens,
    beats_of,
    looped,
    need,
)
from meadow.machine.isa import Opcode
from meadow.machine.step import Step
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES


class Scores(Instruction):
    """kappa * q k.T, one head after another."""

    opcode = Opcode.SCORES
    fields = (
        Field("queries", "slot", "INT8 [heads, block, head_dim padded to 16]"),
        Field("query_scale", "slot", "FP32 [heads, block]"),
        Field("keys", "slot", "INT8 [kv_heads, capacity, head_dim padded to 16]"),
        Field("key_scale", "slot", "FP32 [kv_heads, capacity]"),
        Field("heads", "int", "query heads"),
        Field("kv_heads", "int", "key and value heads"),
        Field("head_dim", "int", "elements per head"),
        Field("capacity", "int", "tokens that the cache holds"),
        Field("block", "int", "tokens that the query buffers hold"),
        Field("kappa", "float", "log2(e) / sqrt(head_dim)"),
        Field("target", "slot", "out: FP32 [heads, block, row]"),
        Field("row", "int", "elements between two rows of scores"),
        Field("softcap", "float", "of the scores, times log2(e); 0 for none", 0.0),
    )

    def run(self, f: Fields, m: Machine) -> None:
        tokens, heads, dim, block = m.run.tokens, f["heads"], f["head_dim"], f["block"]
        queries = m.array(f["queries"], np.int8, heads, block, padded(dim, BEAT_BYTES))[:, :tokens, :dim]
        scale = m.array(f["query_scale"], np.float32, heads, padded(block, FLOATS))[:, :tokens]
        keys, k_scale = cached(f, m, "keys"), cached_scales(f, m, "key_scale")
        target = m.array(f["target"], np.float32, heads, block, f["row"])[:, :tokens, : keys.shape[1]]
        for head in range(heads):
            kv = head // (heads // f["kv_heads"])
            products = queries[head].astype(np.float32) @ keys[kv].astype(np.float32).T
            target[head] = ar.scores(products, scale[head], k_scale[kv], np.float32(f["kappa"]), f["softcap"])

    def extents(self, f: Fields, design: Design, packed: PackedBeats) -> list[Extent]:
        need(0 < f["kappa"] < float("inf"), f"kappa is {f['kappa']}")
        need(0 <= f["softcap"] < float("inf"), f"softcap is {f['softcap']}")
        need(
            f["softcap"] == 0 or design.score_cap == 1,
            "scores are capped, and the design has no unit for it (score_cap)",
        )
        return [
            Extent("queries", f["heads"] * f["block"] * padded(f["head_dim"], BEAT_BYTES), SCRATCH),
            Extent("query_scale", f["heads"] * padded(f["block"], FLOATS) * 4, SCRATCH),
            *cache_extents(f, design, "keys", "key_scale"),
            Extent("target", square_extent(f, design, 4), SCRATCH, True),
        ]

    def beats(self, step: Step, design: Design, tokens: Tokens) -> Beats:
        o, moved = step.numbers, Beats()
        heads = int(o["heads"])
        cache_beats(o, tokens.seen, True, 1, moved, "constants")
        queries = tokens.count * beats_of(int(o["head_dim"]), BEAT_BYTES) + beats_of(tokens.count, FLOATS)
        moved["memory", "read", "intermediates"] += heads * queries
        moved["memory", "written", "intermediates"] += heads * score_beats(tokens)
        return moved

    def parts(self, step: Step, design: Design, tokens: Tokens) -> list[Part]:
        o, lanes = step.numbers, design.token_lanes
        heads, count = int(o["heads"]), tokens.count
        queries = looped(("load", count * beats_of(int(o["head_dim"]), BEAT_BYTES)), ("load", beats_of(count, FLOATS)))
        found = [cache_part(o, tokens.seen, True, False, (True, False)), Part({"memory port": queries}, heads)]
        for keys in group_keys(1, design, tokens):  # the maxima are found, and not used
            made = {"attention": looped(("scores", lanes), ("scores", keys))}
            found.append(Part({**made, "softmax": looped(("softmax", lanes), ("softmax", keys))}, heads))
        stored = looped(*(("store", beats_of(tokens.position + token + 1, FLOATS)) for token in range(count)))
        return [*found, Part({"stores": stored}, heads)]

    def macs(self, o: Operands, tokens: Tokens) -> int:
        return head_macs(o, tokens)


def head_macs(o: Operands, tokens: Tokens) -> int:
    """Products of every token with what it sees."""
    return int(o["heads"]) * int(o["head_dim"]) * sum(tokens.position + t + 1 for t in range(tokens.count))
