# SPDX-License-Identifier: Apache-2.0
"""Heads: rotary positions, the KV cache, and which keys a row sees.  Shared by LINEAR and the instructions of attention."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meadow.machine.arithmetic import int8 as ar
from meadow.machine.design import Design
from meadow.machine.instructions.instruction import (
    CACHE,
    CONSTANTS,
    FLOATS,
    HALVES,
    SCRATCH,
    Beats,
    Extent,
    Fields,
    Loops,
    Machine,
    Operands,
    Part,
    Tokens,
    beats_of,
    looped,
    need,
)
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES


def rotated(f: Fields, m: Machine, y: NDArray[np.float32]) -> NDArray[np.float32]:
    """y [tokens, heads, head_dim] with its rotary positions."""
    half = f["head_dim"] // 2
    row = padded(f["head_dim"] * 2, BEAT_BYTES) // 2
    last = m.run.position + m.run.tokens
    table = m.array(f["rope"], np.int16, m.design.context, row)[m.run.position : last, : 2 * half]
    return ar.rope(y, table.reshape(len(y), 2, half))


def rope_extent(f: Fields, design: Design) -> Extent:
    need(f["head_dim"] % 2 == 0, f"head_dim is {f['head_dim']}; rotary positions turn pairs")
    return Extent("rope", design.context * padded(f["head_dim"] * 2, BEAT_BYTES), CONSTANTS)


def rope_beats(o: Operands, tokens: int, moved: Beats) -> None:
    """Rows of the rotary table, which are read once for a step."""
    moved["constants", "read", "weights"] += tokens * beats_of(int(o["head_dim"]), HALVES)


def rope_part(o: Operands, tokens: int) -> Part:
    return Part({"memory port": looped(("load", tokens * beats_of(int(o["head_dim"]), HALVES)))})


def head_loops(head_dim: int, rope: bool, tokens: int, lanes: int) -> Loops:
    """The results of a head: turned, which takes both halves at once, their levels, their codes."""
    steps = -(-(head_dim // 2 if rope else head_dim) // lanes)
    return looped(("epilogue", steps * tokens), ("epilogue", tokens), ("epilogue", (2 if rope else 1) * steps * tokens))


# -- the cache ---------------------------------------------------------------------------------------------------------


def cached(f: Fields, m: Machine, name: str) -> NDArray[np.int8]:
    """ "keys" or "values" that a run sees, INT8 [kv_heads, seen, head_dim]."""
    whole = m.array(f[name], np.int8, f["kv_heads"], f["capacity"], padded(f["head_dim"], BEAT_BYTES))
    return whole[:, : m.run.position + m.run.tokens, : f["head_dim"]]


def cached_scales(f: Fields, m: Machine, name: str) -> NDArray[np.float32]:
    """ "key_scale" or "value_scale", FP32 [kv_heads, seen]."""
    whole = m.array(f[name], np.float32, f["kv_heads"], padded(f["capacity"], FLOATS))
    return whole[:, : m.run.position + m.run.tokens]


def visible(m: Machine, together: int, window: int = 0) -> NDArray[np.bool_]:
    """[together * tokens, seen]: which keys the rows of `together` heads may see, with a window of the last ones or without (0)."""
    seen = m.run.position + m.run.tokens
    distance = np.arange(m.run.position, seen)[:, None] - np.arange(seen)[None, :]
    mask = (distance >= 0) & (distance < window) if window else distance >= 0
    return np.tile(mask, (together, 1))


def cache_extents(f: Fields, design: Design, *names: str) -> list[Extent]:
    """Keys or values, and their scales."""
    need(f["capacity"] >= design.context, f"capacity is {f['capacity']} and the context {design.context}")
    sizes = {
        "keys": f["kv_heads"] * f["capacity"] * padded(f.get("head_dim", 0), BEAT_BYTES),
        "key_scale": f["kv_heads"] * padded(f["capacity"], FLOATS) * 4,
    }
    sizes |= {"values": sizes["keys"], "value_scale": sizes["key_scale"]}
    return [Extent(name, sizes[name], CACHE) for name in names]


def cache_beats(o: Operands, seen: int, rows: bool, scales: int, moved: Beats, port: str = "memory") -> None:
    """K or V rows and scales of every KV head."""
    kv_heads = int(o["kv_heads"])
    if rows:
        moved[port, "read", "kv"] += kv_heads * seen * beats_of(int(o["head_dim"]), BEAT_BYTES)
    moved[port, "read", "kv"] += kv_heads * scales * beats_of(seen, FLOATS)


def cache_part(o: Operands, seen: int, keys: bool, values: bool, scales: tuple[bool, bool]) -> Part:
    """Loading what is wanted of every KV head: K over one port and V over the other, at once; `scales` of each."""
    kv_heads = int(o["kv_heads"])
    processes = {}
    for name, wanted, scaled in (("memory port", keys, scales[0]), ("memory port for V", values, scales[1])):
        rows = seen * beats_of(int(o["head_dim"]), BEAT_BYTES) if wanted else 0
        processes[name] = looped(("load", rows), ("load", beats_of(seen, FLOATS) if scaled else 0))
    return Part(processes, times=kv_heads)


# -- results -----------------------------------------------------------------------------------------------------------


def result_extent(f: Fields, design: Design) -> Extent:
    """The results of all heads, side by side."""
    width = f["heads"] * f["head_dim"]
    need(width <= f["stride"] and f["stride"] % 4 == 0, f"{width} results in a stride of {f['stride']}")
    return Extent("target", ((design.block - 1) * f["stride"] + width) * 4, SCRATCH, True)


def result_rows(f: Fields, m: Machine) -> NDArray[np.float32]:
    """The results of all heads in place, [tokens, heads * head_dim]; rows of the target may be wider."""
    tokens, width = m.run.tokens, f["heads"] * f["head_dim"]
    flat = m.array(f["target"], np.float32, (tokens - 1) * f["stride"] + width)
    return np.lib.stride_tricks.as_strided(flat, (tokens, width), (4 * f["stride"], 4))


def square_extent(f: Fields, design: Design, width: int) -> int:
    """Bytes of [heads, block, row] elements of `width` bytes."""
    need(f["block"] >= design.block, f"block is {f['block']} and the design's {design.block}")
    need(f["row"] >= design.context and f["row"] % 8 == 0, f"row is {f['row']} and the context {design.context}")
    return int(f["heads"] * f["block"] * f["row"] * width)


def score_beats(tokens: Tokens) -> int:
    """FP32 scores of one head: a row for each token, as long as what it sees."""
    return sum(beats_of(tokens.position + t + 1, FLOATS) for t in range(tokens.count))


def probability_beats(tokens: Tokens) -> int:
    """16-bit probabilities of one head, and a divisor for each row."""
    return sum(beats_of(tokens.position + t + 1, HALVES) + 1 for t in range(tokens.count))


def group_keys(heads: int, design: Design, tokens: Tokens) -> list[int]:
    """For each group of lanes over the tokens of `heads` heads, the keys that the lane with most of them sees."""
    keys = []
    for first in range(0, heads * tokens.count, design.token_lanes):
        lanes = min(design.token_lanes, heads * tokens.count - first)
        keys.append(tokens.position + min(first % tokens.count + lanes, tokens.count))
    return keys


def heads_together(heads: int, kv_heads: int, design: Design, tokens: int) -> list[tuple[int, int]]:
    """(how often, heads that attend together) of TPHS: as many of a group as the rows of queries hold."""
    group = heads // kv_heads
    together = min(group, max(1, design.block // tokens))
    return [(kv_heads * (group // together), together)] + [(kv_heads, group % together)] * (group % together > 0)
