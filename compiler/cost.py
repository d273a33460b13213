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

from collections.abc import Iterable
from dataclasses import dataclass

from meadow.compiler.design import BEAT_BYTES, LANE_COLS, Design
from meadow.compiler.isa import Epilogue, Opcode
from meadow.compiler.layout import padded
from meadow.compiler.schedule import Step
from meadow.compiler.traffic import Beats, Operands, by_role, numbers, on_port, run_beats, step_beats
from meadow.compiler.unpack import PREFIX_WORD, format_of

OVERHEAD = 150
"""Cycles a step: fetching the instruction, and the latency of the first load and the last store.  Assumed."""
TILE_OVERHEAD = 100
"""Cycles a tile, and a group's pipeline of attention.  Assumed: 64 of AXI latency as the interface pragmas say."""
EFFICIENCY = 0.9
"""Share of the DRAM's peak that sequential reads get: 0.80 to 0.93 are published for such boards (Hummingbird, Li et al.)."""
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


def step_cost(step: Step, design: Design, tokens: int, position: int, bandwidth_gb_s: float, logits: int = 1) -> Cost:
    """Cycles and bytes of `step` for `tokens` tokens after `position` cached ones; `logits` rows of logits wanted."""
    o = numbers(step)
    moved = step_beats(step, design, tokens, position, logits)
    phases: dict[str, float] = {"latency": OVERHEAD}
    match step.opcode:
        case Opcode.NORM | Opcode.QUANTIZE:
            passes = 5 if step.opcode is Opcode.NORM else 2
            phases["memory port"] = on_port(moved, "memory")
            phases["vector unit"] = tokens * passes * -(-int(o["cols"]) // design.float_lanes)
        case Opcode.LINEAR:
            _linear(o, design, tokens, logits, moved, phases)
        case Opcode.TPHS:
            _tphs(o, design, tokens, position, moved, phases)
        case Opcode.SCORES | Opcode.SOFTMAX | Opcode.CONTEXT:
            _gemm_attention(step, o, design, tokens, position, moved, phases)
    use = by_role(moved)
    dram = sum(use.values()) / (bandwidth_gb_s * 1e9 * EFFICIENCY) * design.clock_mhz * 1e6
    cycles = sum(phases.values())
    if dram > cycles:
        return Cost(dram, use, "DRAM", phases)
    return Cost(cycles, use, max(phases, key=lambda k: phases[k]), phases)


def _linear(o: Operands, design: Design, tokens: int, logits: int, moved: Beats, phases: dict[str, float]) -> None:
    rows = int(o["rows"])
    served = min(logits, tokens) if o["epilogue"] == Epilogue.LOGITS else tokens
    if not served:
        return
    _tiles(o, design, rows, int(o["tile_rows"]), served, moved, phases)
    phases["memory port"] = on_port(moved, "memory")
    passes = {Epilogue.HEADS: 2.0, Epilogue.ROPE_HEADS: 2.5, Epilogue.GLU: 0.5}  # rotated by halves, peak, codes; pairs
    phases["vector unit"] = served * rows * passes.get(Epilogue(int(o["epilogue"])), 1.0) / design.float_lanes


def _tphs(o: Operands, design: Design, tokens: int, position: int, moved: Beats, phases: dict[str, float]) -> None:
    heads, head_dim = int(o["heads"]), int(o["head_dim"])
    _tiles(o, design, heads * head_dim, head_dim, tokens, moved, phases)
    phases["memory port"] = on_port(moved, "memory")  # K comes beside V, over the reading port
    phases["vector unit"] = tokens * heads * head_dim * 2.5 / design.float_lanes
    kv_heads = int(o["kv_heads"])
    group = heads // kv_heads
    together = min(group, max(1, design.block // tokens))
    for some, times in ((together, group // together), (group % together, 1)):
        if some:
            _groups(kv_heads * times, some, design, tokens, position, 2, 2 * head_dim, phases)


def _gemm_attention(step: Step, o: Operands, design: Design, tokens: int, position: int, moved: Beats,
                    phases: dict[str, float]) -> None:  # fmt: skip
    phases["memory port"] = on_port(moved, "memory") + on_port(moved, "constants")
    _groups(int(o["heads"]), 1, design, tokens, position, 2 if step.opcode is Opcode.SOFTMAX else 1, 0, phases)


def _groups(times: int, heads: int, design: Design, tokens: int, position: int, passes: int, more: int,
            phases: dict[str, float]) -> None:  # fmt: skip
    """Attention of `heads` heads' tokens, a group of lanes after the other, `times` over: `passes` over the keys that the
    lane of a group with most of them sees."""
    keys = []
    for first in range(0, heads * tokens, design.token_lanes):
        lanes = min(design.token_lanes, heads * tokens - first)
        keys.append(position + min(first % tokens + lanes, tokens))
    phases["attention"] = phases.get("attention", 0.0) + times * (passes * sum(keys) + more * len(keys))
    phases["latency"] += times * len(keys) * TILE_OVERHEAD


def _tiles(
    o: Operands, design: Design, rows: int, tile_rows: int, tokens: int, moved: Beats, phases: dict[str, float]
) -> None:
    """The pipelined part of a linear layer: the slowest of fetching, unpacking and multiplying; and what tiles cost besides."""
    word, entries, cols = int(o["format"]), int(o["entries"]), int(o["cols"])
    words = padded(rows, design.weight_ports) // design.weight_ports * cols / LANE_COLS
    fetch = max(on_port(moved, f"weights{p}") for p in range(design.weight_ports))
    unpack = words if word else words * LANE_COLS / BEAT_BYTES
    groups = -(-tokens // design.token_lanes)
    rescale = padded(rows, design.weight_ports) // design.weight_ports * tokens
    slowest, name = max(
        (fetch, "weight ports"), (unpack, "look-up unit"), (words * groups, "multipliers"), (rescale, "rescaling")
    )
    phases[name] = slowest
    phases["latency"] += -(-rows // tile_rows) * TILE_OVERHEAD
    if word == PREFIX_WORD:
        phases["latency"] += format_of(word).table_bytes(entries) / TABLE_BYTES


def step_macs(step: Step, tokens: int, position: int, logits: int = 1) -> int:
    """Multiplications that a step is there for: matrices with tokens, queries with keys, probabilities with values."""
    o = numbers(step)
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


@dataclass(frozen=True)
class Estimate:
    """A whole program run, modelled: `limits` has the cycles by what bounds their step, `phases` by what they are spent on."""

    seconds: float
    cycles: float
    bytes: dict[str, int]
    limits: dict[str, float]
    phases: dict[str, float]

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes.values())


def estimate(
    steps: Iterable[Step],
    design: Design,
    tokens: int,
    position: int,
    bandwidth_gb_s: float,
    logits: int = 1,
    chunks: int = 0,
) -> Estimate:
    """The sum over the steps of one program; `chunks` of memory in its table."""
    cycles, limits, phases = 0.0, dict[str, float](), dict[str, float]()
    use = by_role(run_beats((), design, tokens, position, chunks))
    for step in steps:
        cost = step_cost(step, design, tokens, position, bandwidth_gb_s, logits)
        cycles += cost.cycles
        limits[cost.limit] = limits.get(cost.limit, 0.0) + cost.cycles
        for name, n in cost.phases.items():
            phases[name] = phases.get(name, 0.0) + n
        for role, n in cost.bytes.items():
            use[role] += n
    return Estimate(cycles / (design.clock_mhz * 1e6), cycles, use, limits, phases)


def prompt_seconds(steps: Iterable[Step], design: Design, tokens: int, bandwidth_gb_s: float) -> float:
    """Time to the first token of a prompt that is served block after block."""
    steps = tuple(steps)
    total = 0.0
    for start in range(0, tokens, design.block):
        some = min(design.block, tokens - start)
        logits = 1 if start + some == tokens else 0
        total += estimate(steps, design, some, start, bandwidth_gb_s, logits).seconds
    return total
