# SPDX-License-Identifier: Apache-2.0
"""TPHS: Q projection, QK^T, softmax and softmax x V as a pipeline, head after head (MEADOW, section 4).  hls/steps.hpp is the same."""

from __future__ import annotations

import numpy as np

from meadow.machine.arithmetic import int8 as ar
from meadow.machine.design import Design
from meadow.machine.instructions import options, projection
from meadow.machine.instructions.heads import (
    cache_beats,
    cache_extents,
    cache_part,
    cached,
    cached_scales,
    group_keys,
    head_loops,
    heads_together,
    result_extent,
    result_rows,
    rope_beats,
    rope_extent,
    rope_part,
    rotated,
    visible,
)
from meadow.machine.instructions.instruction import (
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
    alike,
    looped,
    need,
)
from meadow.machine.instructions.linear import store_beats, store_loops
from meadow.machine.isa import Opcode
from meadow.machine.step import Step


class Tphs(Instruction):
    """softmax(kappa q k.T) v of all heads, with q = x W.T rotated; nothing of it goes to DRAM but the results."""

    opcode = Opcode.TPHS
    fields = (
        *projection.FIELDS,
        Field("cols", "int", "input features of Q, as for LINEAR"),
        Field("heads", "int", "query heads"),
        Field("kv_heads", "int", "key and value heads"),
        Field("head_dim", "int", "elements per head"),
        Field("keys", "slot", "INT8 [kv_heads, capacity, head_dim padded to 16]"),
        Field("key_scale", "slot", "FP32 [kv_heads, capacity]"),
        Field("values", "slot", "INT8, like keys"),
        Field("value_scale", "slot", "FP32, like key_scale"),
        Field("capacity", "int", "tokens that the cache holds"),
        Field("rope", "slot", "int16 [context, 2, head_dim / 2], each row padded to a beat"),
        Field("kappa", "float", "log2(e) / sqrt(head_dim)"),
        Field("target", "slot", "out: FP32 [tokens, stride]"),
        Field("stride", "int", "FP32 elements between two rows of the target"),
        *options.FIELDS,
        Field("softcap", "float", "of the scores, times log2(e); 0 for none", 0.0),
    )

    def run(self, f: Fields, m: Machine) -> None:
        tokens, heads, dim = m.run.tokens, f["heads"], f["head_dim"]
        y = options.biased(f, m, projection.project(f, m, heads * dim, dim), dim, 0)
        y = options.normed_heads(f, m, y.reshape(tokens, heads, dim))
        codes, scale = ar.quantize_rows(rotated(f, m, y))
        keys, k_scale = cached(f, m, "keys"), cached_scales(f, m, "key_scale")
        values, v_scale = cached(f, m, "values"), cached_scales(f, m, "value_scale")
        group = heads // f["kv_heads"]
        seen = visible(m, group, options.window_of(f))
        target = result_rows(f, m)
        for kv in range(f["kv_heads"]):
            mine = slice(kv * group, (kv + 1) * group)
            q = codes[:, mine].swapaxes(0, 1).reshape(-1, dim).astype(np.float32)
            s = ar.scores(
                q @ keys[kv].astype(np.float32).T,
                scale[:, mine].T.reshape(-1),
                k_scale[kv],
                np.float32(f["kappa"]),
                f["softcap"],
            )
            w, total, exponent = ar.softmax(s, v_scale[kv], seen)
            out = ar.mix(w.astype(np.float64) @ values[kv].astype(np.float64), total, exponent)
            out = out.reshape(group, tokens, dim).swapaxes(0, 1).reshape(tokens, -1)
            target[:, kv * group * dim : (kv + 1) * group * dim] = out

    def extents(self, f: Fields, design: Design, packed: PackedBeats) -> list[Extent]:
        need(0 < f["kappa"] < float("inf"), f"kappa is {f['kappa']}")
        need(0 <= f["softcap"] < float("inf"), f"softcap is {f['softcap']}")
        need(
            f["softcap"] == 0 or design.score_cap == 1,
            "scores are capped, and the design has no unit for it (score_cap)",
        )
        rows = f["heads"] * f["head_dim"]
        return [
            *projection.engine(f, design).extents(f, rows, f["head_dim"], design, packed),
            *options.option_extents(f, rows, f["head_dim"], 0, design),
            rope_extent(f, design),
            *cache_extents(f, design, "keys", "key_scale", "values", "value_scale"),
            result_extent(f, design),
        ]

    def beats(self, step: Step, design: Design, tokens: Tokens) -> Beats:
        o, moved = step.numbers, Beats()
        heads, head_dim = int(o["heads"]), int(o["head_dim"])
        engine = projection.engine(o, design)
        engine.activation_beats(o, tokens.count, tokens, moved)
        engine.weight_beats(step, design, heads * head_dim, head_dim, moved)
        options.bias_beats(o, heads * head_dim, head_dim, moved)
        options.gain_beats(o, heads, moved)
        rope_beats(o, tokens.count, moved)
        for port in ("constants", "memory"):  # keys, values
            cache_beats(o, tokens.seen, True, 1, moved, port)
        mix_beats(heads, head_dim, tokens.count, moved)
        return moved

    def parts(self, step: Step, design: Design, tokens: Tokens) -> list[Part]:
        """MAX must have ended before EXP begins; K comes beside V."""
        o, lanes, count = step.numbers, design.float_lanes, tokens.count
        heads, kv_heads, dim = int(o["heads"]), int(o["kv_heads"]), int(o["head_dim"])
        found = projection.engine(o, design).parts(step, design, heads * dim, dim, count, tokens)
        found += options.option_parts(o, heads * dim, dim, count, lanes)
        found += [rope_part(o, count), Part({"vector unit": head_loops(dim, True, count, lanes)}, heads)]
        found.append(cache_part(o, tokens.seen, True, True, (True, True)))
        for times, some in heads_together(heads, kv_heads, design, count):
            for keys in group_keys(some, design, tokens):
                scores = looped(("scores", design.token_lanes), ("scores", keys))
                softmax = looped(("softmax", design.token_lanes), ("softmax", keys, 2))
                mix = looped(("mix", design.token_lanes), ("mix", keys), ("mix", dim))
                beside = {"attention": softmax, "scores": scores, "values": mix}
                # DIV follows EXP: the head's elements once more.
                found.append(Part(beside, times))
                found.append(Part({}, times, decided={"attention": float(dim)}))
        return [*found, *result_parts(heads, dim, count, lanes)]

    def macs(self, o: Operands, tokens: Tokens) -> int:
        seen = sum(tokens.position + t + 1 for t in range(tokens.count))
        return int(o["heads"]) * int(o["head_dim"]) * (tokens.count * int(o["cols"]) + 2 * seen)


def mix_beats(heads: int, head_dim: int, tokens: int, moved: Beats) -> None:
    """The result of every head to its columns."""
    for head, _, times in alike(heads * head_dim, head_dim):
        store_beats(head, head_dim, times * tokens, "activations", moved)


def result_parts(heads: int, head_dim: int, tokens: int, lanes: int) -> list[Part]:
    """The results of a head and a token, one after another."""
    found = []
    for column, _, times in alike(heads * head_dim, head_dim):
        stored = looped(("store", -(-head_dim // lanes)))
        store_loops(column, head_dim, 1, stored)
        found.append(Part({"stores": stored}, times * tokens))
    return found
