# SPDX-License-Identifier: Apache-2.0
"""The cost model: bytes and cycles of each step, phase by phase as the engine's C++ runs them.  All modelled.

Knows the schedule and the design, nothing else.  Assumptions:
  - a port moves one 128-bit beat a cycle while it streams
  - within a tile, fetching, unpacking, multiplying and rescaling overlap; its epilogue follows; a tile costs
    TILE_OVERHEAD cycles more (latency of the first beat, pipeline fill)
  - norms, quantization and epilogues take FLOAT_LANES elements a cycle
  - a group of tokens attends in twice the keys it sees: MAX must have ended before EXP begins
  - a step starts when the one before has ended, OVERHEAD cycles later
  - the DRAM gives its peak bandwidth times EFFICIENCY
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from meadow.compiler.design import BEAT_BYTES, FLOAT_LANES, LANE_COLS, Design
from meadow.compiler.isa import Epilogue, Opcode
from meadow.compiler.layout import padded
from meadow.compiler.schedule import Slot, Step

OVERHEAD = 150
"""Cycles a step: fetching the instruction, and the latency of the first load and the last store.  Assumed."""
TILE_OVERHEAD = 100
"""Cycles a tile, and a group's pipeline of attention.  Assumed: 64 of AXI latency as the interface pragmas say."""
EFFICIENCY = 0.9
"""Share of the DRAM's peak that sequential reads get: 0.80 to 0.93 are published for such boards (anchors.md)."""
ROLES = ("weights", "activations", "kv", "intermediates", "program")


@dataclass(frozen=True)
class Cost:
    """One step for given tokens and position: cycles (modelled) and DRAM bytes by role."""

    cycles: float
    bytes: dict[str, float]
    limit: str

    @property
    def total_bytes(self) -> float:
        return sum(self.bytes.values())


def step_cost(step: Step, design: Design, tokens: int, position: int, bandwidth_gb_s: float, logits: int = 1) -> Cost:
    """Cycles and bytes of `step` for `tokens` tokens after `position` cached ones; `logits` rows of logits wanted."""
    o = {k: (0 if isinstance(v, Slot) else v) for k, v in step.operands.items()}
    use = dict.fromkeys(ROLES, 0.0)
    use["program"] = 128.0
    phases: dict[str, float] = {"latency": OVERHEAD}
    seen = position + tokens
    match step.opcode:
        case Opcode.NORM | Opcode.QUANTIZE:
            cols, passes = int(o["cols"]), 4 if step.opcode is Opcode.NORM else 2
            use["activations"] = tokens * (cols * 4 + padded(cols, LANE_COLS) + 4)
            use["weights"] = cols * 4 if step.opcode is Opcode.NORM else 0
            phases["memory port"] = (use["activations"] + use["weights"]) / BEAT_BYTES
            phases["vector unit"] = passes * tokens * cols / FLOAT_LANES
        case Opcode.LINEAR:
            _linear(step, o, design, tokens, logits, use, phases)
        case Opcode.TPHS:
            _tphs(step, o, design, tokens, seen, use, phases)
        case Opcode.SCORES | Opcode.SOFTMAX | Opcode.CONTEXT:
            _gemm_attention(step, o, design, tokens, seen, use, phases)
    dram = sum(use.values()) / (bandwidth_gb_s * 1e9 * EFFICIENCY) * design.clock_mhz * 1e6
    cycles = sum(phases.values())
    if dram > cycles:
        return Cost(dram, use, "DRAM")
    return Cost(cycles, use, max(phases, key=lambda k: phases[k]))


Operands = dict[str, int | float]


def _linear(
    step: Step, o: Operands, design: Design, tokens: int, logits: int, use: dict[str, float], phases: dict[str, float]
) -> None:
    rows, cols = int(o["rows"]), int(o["cols"])
    served = min(logits, tokens) if o["epilogue"] == Epilogue.LOGITS else tokens
    if not served:
        return
    heads = o["epilogue"] in (Epilogue.HEADS, Epilogue.ROPE_HEADS)
    use["weights"] = _weight_bytes(step) + rows * 4
    use["activations"] = served * (cols + 4)
    if heads and o["append"]:
        use["kv"] = served * (padded(rows, BEAT_BYTES) + 4 * rows // int(o["head_dim"]))
    elif heads:
        use["intermediates"] = served * (padded(rows, BEAT_BYTES) + 4 * rows // int(o["head_dim"]))
    else:
        use["activations"] += served * rows * {Epilogue.ADD: 8, Epilogue.GLU: 2}.get(Epilogue(int(o["epilogue"])), 4)
    _tiles(step, design, rows, cols, int(o["tile_rows"]), served, phases)
    phases["memory port"] = (sum(use.values()) - use["weights"]) / BEAT_BYTES
    if heads:  # rotate, find the peak, quantize
        phases["vector unit"] = served * rows * 2.5 / FLOAT_LANES


def _tphs(
    step: Step, o: Operands, design: Design, tokens: int, seen: int, use: dict[str, float], phases: dict[str, float]
) -> None:
    heads, kv_heads, head_dim, cols = (int(o[k]) for k in ("heads", "kv_heads", "head_dim", "cols"))
    rows, groups = heads * head_dim, -(-tokens // design.token_lanes)
    use["weights"] = _weight_bytes(step) + rows * 4
    use["activations"] = tokens * (cols + 4 + rows * 4)
    use["kv"] = kv_heads * seen * 2 * (padded(head_dim, BEAT_BYTES) + 4)
    _tiles(step, design, rows, cols, head_dim, tokens, phases)
    phases["memory port"] = (use["activations"] + use["kv"]) / BEAT_BYTES
    phases["vector unit"] = tokens * rows * 2.5 / FLOAT_LANES
    phases["attention"] = heads * groups * (2 * seen + 2 * head_dim)
    phases["latency"] += heads * groups * TILE_OVERHEAD


def _gemm_attention(
    step: Step, o: Operands, design: Design, tokens: int, seen: int, use: dict[str, float], phases: dict[str, float]
) -> None:
    heads, kv_heads = int(o["heads"]), int(o["kv_heads"])
    groups = -(-tokens // design.token_lanes)
    passes = 1.0
    match step.opcode:
        case Opcode.SCORES:
            width = padded(int(o["head_dim"]), BEAT_BYTES)
            use["kv"] = kv_heads * seen * (width + 4)
            use["intermediates"] = heads * tokens * (width + 4 + seen * 4)
        case Opcode.SOFTMAX:
            use["kv"] = kv_heads * seen * 4
            use["intermediates"] = heads * tokens * (seen * 6 + BEAT_BYTES)
            passes = 2.0
        case _:
            head_dim = int(o["head_dim"])
            use["kv"] = kv_heads * seen * padded(head_dim, BEAT_BYTES)
            use["intermediates"] = heads * tokens * (seen * 2 + BEAT_BYTES)
            use["activations"] = tokens * heads * head_dim * 4
    phases["memory port"] = (sum(use.values()) - use["program"]) / BEAT_BYTES
    phases["attention"] = heads * groups * passes * seen
    phases["latency"] += heads * groups * TILE_OVERHEAD


def _tiles(
    step: Step, design: Design, rows: int, cols: int, tile_rows: int, tokens: int, phases: dict[str, float]
) -> None:
    """The pipelined part of a linear layer: the slower of fetching and multiplying, and what each tile costs besides."""
    fetch = _weight_bytes(step) / BEAT_BYTES / design.weight_ports
    words = padded(rows, design.weight_ports) // design.weight_ports * cols / LANE_COLS
    multiply = words * -(-tokens // design.token_lanes)
    phases["weight ports" if fetch >= multiply else "multipliers"] = max(fetch, multiply)
    phases["latency"] += -(-rows // tile_rows) * TILE_OVERHEAD


def _weight_bytes(step: Step) -> float:
    streams = [step.operands[f"weights{p}"] for p in range(4)] + [step.operands["directory"], step.operands["table"]]
    return float(sum(s.length for s in streams if isinstance(s, Slot)))


@dataclass(frozen=True)
class Estimate:
    """A whole program run, modelled."""

    seconds: float
    cycles: float
    bytes: dict[str, float]
    limits: dict[str, float]

    @property
    def total_bytes(self) -> float:
        return sum(self.bytes.values())


def estimate(
    steps: Iterable[Step], design: Design, tokens: int, position: int, bandwidth_gb_s: float, logits: int = 1
) -> Estimate:
    """The sum over the steps of one program; `limits` has the cycles by what bounds them."""
    cycles, use, limits = 0.0, dict.fromkeys(ROLES, 0.0), dict[str, float]()
    for step in steps:
        cost = step_cost(step, design, tokens, position, bandwidth_gb_s, logits)
        cycles += cost.cycles
        limits[cost.limit] = limits.get(cost.limit, 0.0) + cost.cycles
        for role, n in cost.bytes.items():
            use[role] += n
    return Estimate(cycles / (design.clock_mhz * 1e6), cycles, use, limits)
