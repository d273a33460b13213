# SPDX-License-Identifier: Apache-2.0
"""The cost model: cycles of each step as the engine's C++ overlaps fetch, compute and store.  All modelled.

Knows the schedule and the design, nothing else; bytes are traffic.py's, and exact.  Assumptions, each with its source:
  - a port moves one 128-bit beat a cycle while it streams (UG1085: HP and HPC ports; MixerLoop measured 98 to 100 %)
  - within a tile, fetching, unpacking, multiplying and rescaling overlap, at one iteration a cycle as the pragmas ask; its
    epilogue follows; a tile costs TILE_OVERHEAD cycles more (latency of the first beat, pipeline fill)
  - norms, quantization and epilogues take the design's float_lanes elements a cycle
  - a group of tokens attends in twice the keys it sees: MAX must have ended before EXP begins
  - a step starts when the one before has ended, OVERHEAD cycles later
  - the DRAM gives its peak bandwidth times EFFICIENCY
"""

from __future__ import annotations

from dataclasses import dataclass

from meadow.compiler.price.traffic import (
    Beats,
    Operands,
    by_role,
    group_layout,
    on_port,
    step_beats,
)
from meadow.machine.design import BEAT_BYTES, LANE_COLS, Design
from meadow.machine.isa import Epilogue, Opcode
from meadow.machine.program import Slot, Step
from meadow.machine.storage.groups import is_grouped
from meadow.machine.storage.rows import padded
from meadow.machine.storage.unpack import PREFIX_WORD, format_of

OVERHEAD = 150
"""Cycles a step: fetching the instruction, and the latency of the first load and the last store.  Assumed."""
TILE_OVERHEAD = 100
"""Cycles a tile, and a group's pipeline of attention.  Assumed: 64 of AXI latency as the interface pragmas say."""
GROUPED_TILE_OVERHEAD = 25
"""The same of grouped weights, whose results come as a stream: only the last store of a tile is waited for.  Assumed."""
EFFICIENCY = 0.9
"""Share of the DRAM's peak that sequential reads get: 0.80 to 0.93 are published for such boards (Hummingbird, Li et al.)."""
PACQ_LATENCY = 60
"""Cycles from the last activation to the first result of pacq_gemv, through both clocks.  Assumed."""
TABLE_BYTES = 4
"""Bytes of a code table that the look-up unit takes in a cycle (rtl/prefix_unpack.v)."""


@dataclass(frozen=True)
class Cost:
    """One step for given tokens and position: cycles (modelled), DRAM bytes by role (exact), and the phases of the cycles."""

    cycles: float
    bytes: dict[str, int]
    limit: str
    phases: dict[str, float]

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes.values())


def step_cost(step: Step, design: Design, tokens: int, position: int, bandwidth_gb_s: float, logits: int = 1,
              moved: Beats | None = None) -> Cost:  # fmt: skip
    """Cycles and bytes of `step` for `tokens` tokens after `position` cached ones; `logits` rows of logits wanted.

    moved  the step's beats, where they are known already (traffic.step_beats)
    """
    o = step.numbers
    moved = step_beats(step, design, tokens, position, logits) if moved is None else moved
    loops = step_loops(step, design, tokens, position, logits)
    phases: dict[str, float] = {"latency": OVERHEAD}
    if loops:
        phases["memory port"] = on_port(moved, "memory")
    match step.opcode:
        case Opcode.NORM | Opcode.QUANTIZE:
            phases["vector unit"] = loops["norm"]
        case Opcode.LINEAR if loops:
            _streamed(o, design, int(o["rows"]), int(o["tile_rows"]), moved, loops, phases)
        case Opcode.TPHS:  # K comes beside V, over the reading port
            heads, head_dim = int(o["heads"]), int(o["head_dim"])
            _streamed(o, design, heads * head_dim, head_dim, moved, loops, phases)
            groups = 0
            for times, some in heads_together(heads, int(o["kv_heads"]), design, tokens):
                groups += times * len(_group_keys(some, design, tokens, position))
            phases["attention"] = loops["softmax"] + 2 * head_dim * groups  # MAX must have ended before EXP begins
            phases["latency"] += groups * TILE_OVERHEAD
            if design.caches > 1:  # the next head is read meanwhile
                kv_heads = int(o["kv_heads"])
                load = moved["memory", "read", "kv"] / kv_heads
                hidden = (kv_heads - 1) * min(load, (phases["attention"] + groups * TILE_OVERHEAD) / kv_heads)
                phases["memory port"] -= hidden
        case Opcode.SCORES | Opcode.SOFTMAX | Opcode.CONTEXT:
            phases["memory port"] += on_port(moved, "constants")
            phases["attention"] = loops[step.opcode.name.lower()]
            phases["latency"] += int(o["heads"]) * len(_group_keys(1, design, tokens, position)) * TILE_OVERHEAD
    use = by_role(moved)
    dram = sum(use.values()) / (bandwidth_gb_s * 1e9 * EFFICIENCY) * design.clock_mhz * 1e6
    cycles = sum(phases.values())
    if dram > cycles:
        return Cost(dram, use, "DRAM", phases)
    return Cost(cycles, use, max(phases, key=lambda k: phases[k]), phases)


def _streamed(o: Operands, design: Design, rows: int, tile_rows: int, moved: Beats, loops: dict[str, int],
              phases: dict[str, float]) -> None:  # fmt: skip
    """What a step spends on the matrix it streams, by the engine that takes it."""
    if is_grouped(o["format"]):
        _grouped_tiles(o, design, rows, tile_rows, loops, phases)
    else:
        _tiles(o, design, rows, tile_rows, moved, loops, phases)


def _tiles(o: Operands, design: Design, rows: int, tile_rows: int, moved: Beats, loops: dict[str, int],
           phases: dict[str, float]) -> None:  # fmt: skip
    """The pipelined part of a linear layer: the slowest of fetching, unpacking, multiplying and rescaling; then epilogues and
    what tiles cost besides."""
    word, entries, cols = int(o["format"]), int(o["entries"]), int(o["cols"])
    words = padded(rows, design.weight_ports) // design.weight_ports * cols / LANE_COLS
    fetch = max(on_port(moved, f"weights{p}") for p in range(design.weight_ports))
    unpack = words if word else words * LANE_COLS / BEAT_BYTES
    stages = {
        "weight ports": fetch,
        "look-up unit": unpack,
        "multipliers": loops["multiply"],
        "rescaling": loops["rescale"],
    }
    slowest = max(stages, key=lambda name: stages[name])
    phases[slowest] = stages[slowest]
    phases["vector unit"] = loops["epilogue"]
    phases["latency"] += -(-rows // tile_rows) * TILE_OVERHEAD
    if word == PREFIX_WORD:
        phases["latency"] += format_of(word).table_bytes(entries) / TABLE_BYTES


def _grouped_tiles(o: Operands, design: Design, rows: int, tile_rows: int, loops: dict[str, int],
                   phases: dict[str, float]) -> None:  # fmt: skip
    """The same of grouped weights, by pacq_gemv: the slowest of its ports, its multipliers and the reader of its results."""
    slower = design.clock_mhz / design.pacq_clock_mhz
    stages = {
        "weight ports": group_layout(o, design, rows).port_beats * slower,
        "multipliers": loops["pacq"] * slower,
        "vector unit": loops["results"],
    }
    slowest = max(stages, key=lambda name: stages[name])
    phases[slowest] = phases.get(slowest, 0.0) + stages[slowest]
    phases["vector unit"] = phases.get("vector unit", 0.0) + loops["epilogue"]
    phases["latency"] += -(-rows // tile_rows) * GROUPED_TILE_OVERHEAD + PACQ_LATENCY


def step_macs(step: Step, tokens: int, position: int, logits: int = 1) -> int:
    """Multiplications that a step is there for: matrices with tokens, queries with keys, probabilities with values."""
    o = step.numbers
    seen = sum(position + t + 1 for t in range(tokens))
    match step.opcode:
        case Opcode.LINEAR:
            served = min(logits, tokens) if o["epilogue"] == Epilogue.LOGITS else tokens
            return served * int(o["rows"]) * int(o["cols"])
        case Opcode.TPHS:
            width = int(o["heads"]) * int(o["head_dim"])
            return width * (tokens * int(o["cols"]) + 2 * seen)
        case Opcode.SCORES | Opcode.CONTEXT:
            return int(o["heads"]) * int(o["head_dim"]) * seen
    return 0


def step_loops(step: Step, design: Design, tokens: int, position: int, logits: int = 1) -> dict[str, int]:
    """Iterations of the engine's pipelined loops, exactly: the C simulation counts the same (hls/types.hpp, Loop).

    `unpack` is missing where weights are prefix codes: it depends on the codes themselves.
    """
    o = step.numbers
    lanes = design.float_lanes
    found: dict[str, int] = {}
    match step.opcode:
        case Opcode.NORM | Opcode.QUANTIZE:
            passes = 2 if step.opcode is Opcode.QUANTIZE else 3 if o["floats"] else 5
            found["norm"] = tokens * passes * -(-int(o["cols"]) // lanes)
        case Opcode.LINEAR:
            rows, tile_rows, epilogue = int(o["rows"]), int(o["tile_rows"]), Epilogue(int(o["epilogue"]))
            served = min(logits, tokens) if epilogue is Epilogue.LOGITS else tokens
            if not served:
                return found
            found |= _stream_loops(step, o, design, rows, served)
            if epilogue in (Epilogue.HEADS, Epilogue.ROPE_HEADS):
                head_dim = int(o["head_dim"])
                found["epilogue"] = (
                    rows // head_dim * served * _head_passes(head_dim, epilogue is Epilogue.ROPE_HEADS, lanes)
                )
            else:
                half = 2 if epilogue is Epilogue.GLU else 1
                full, rest = divmod(rows, tile_rows)
                found["epilogue"] = served * (full * -(-(tile_rows // half) // lanes) + -(-(rest // half) // lanes))
        case Opcode.TPHS:
            heads, head_dim, kv_heads = int(o["heads"]), int(o["head_dim"]), int(o["kv_heads"])
            found |= _stream_loops(step, o, design, heads * head_dim, tokens)
            found["epilogue"] = heads * tokens * _head_passes(head_dim, True, lanes)
            for times, some in heads_together(heads, kv_heads, design, tokens):
                keys = _group_keys(some, design, tokens, position)
                for name, n in (
                    ("scores", sum(keys)),
                    ("softmax", 2 * sum(keys)),
                    ("context", sum(keys) + head_dim * len(keys)),
                ):
                    found[name] = found.get(name, 0) + times * n
        case Opcode.SCORES | Opcode.SOFTMAX | Opcode.CONTEXT:
            keys = _group_keys(1, design, tokens, position)
            more = int(o["head_dim"]) * len(keys) if step.opcode is Opcode.CONTEXT else 0
            passes = 2 if step.opcode is Opcode.SOFTMAX else 1
            found[step.opcode.name.lower()] = int(o["heads"]) * (passes * sum(keys) + more)
    return found


def _head_passes(head_dim: int, rope: bool, lanes: int) -> int:
    """Rotation by halves, the peak, the codes."""
    return (-(-(head_dim // 2) // lanes) if rope else 0) + 2 * -(-head_dim // lanes)


def heads_together(heads: int, kv_heads: int, design: Design, tokens: int) -> list[tuple[int, int]]:
    """(how often, heads that attend together) of TPHS: as many of a group as the rows of queries hold."""
    group = heads // kv_heads
    together = min(group, max(1, design.block // tokens))
    return [(kv_heads * (group // together), together)] + [(kv_heads, group % together)] * (group % together > 0)


def _group_keys(heads: int, design: Design, tokens: int, position: int) -> list[int]:
    """For each group of lanes over the tokens of `heads` heads, the keys that the lane with most of them sees."""
    keys = []
    for first in range(0, heads * tokens, design.token_lanes):
        lanes = min(design.token_lanes, heads * tokens - first)
        keys.append(position + min(first % tokens + lanes, tokens))
    return keys


def _stream_loops(step: Step, o: Operands, design: Design, rows: int, tokens: int) -> dict[str, int]:
    """Loops of the engine that takes the matrix which a step streams."""
    if is_grouped(o["format"]):
        return _grouped_loops(o, design, rows, tokens)
    return _array_loops(step, o, design, rows, tokens)


def _array_loops(step: Step, o: Operands, design: Design, rows: int, tokens: int) -> dict[str, int]:
    """Loops of the multiplier array; fetch and unpack are summed over the ports."""
    word, ports = int(o["format"]), design.weight_ports
    port_rows = padded(rows, ports) // ports
    words = port_rows * int(o["cols"]) // LANE_COLS
    beats = sum(s.length for p in range(ports) if isinstance(s := step.operands[f"weights{p}"], Slot)) // BEAT_BYTES
    found = {"fetch": beats, "multiply": words * -(-tokens // design.token_lanes), "rescale": port_rows * tokens}
    if word != PREFIX_WORD:
        found["unpack"] = beats if word else words * ports * LANE_COLS // BEAT_BYTES
    return found


def _grouped_loops(o: Operands, design: Design, rows: int, tokens: int) -> dict[str, int]:
    """Loops of pacq_gemv, and of the engine that feeds it and takes its results."""
    layout = group_layout(o, design, rows)
    windows = layout.windows * -(-tokens // design.pacq_tokens)
    fed = 0 if o["reuse"] else tokens * -(-int(o["cols"]) // (BEAT_BYTES // 4))
    return {"pacq": windows * layout.form.window_cycles, "feed": fed, "results": tokens * layout.results}
