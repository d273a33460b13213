# SPDX-License-Identifier: Apache-2.0
"""The cost model: bytes and cycles of each step, by the overlap of fetching, computing and storing.  All modelled.

Knows the schedule and the design, nothing else.  Assumptions:
  - a port moves one 128-bit beat a cycle while it streams; a burst's latency is hidden but for the first
  - a step starts when the one before has ended, OVERHEAD cycles later (instruction fetch, latency, pipeline fill)
  - the DRAM gives its peak bandwidth times EFFICIENCY
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from meadow.compiler.design import BEAT_BYTES, LANE_COLS, LOOKUP_LANES, Design
from meadow.compiler.isa import Epilogue, Opcode
from meadow.compiler.layout import padded
from meadow.compiler.schedule import Slot, Step

OVERHEAD = 150
"""Cycles a step: 64 to 100 of AXI latency (MixerLoop's measured ports), the rest pipeline fill.  Assumed."""
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
    groups = -(-tokens // design.token_lanes)
    seen = position + tokens
    use = dict.fromkeys(ROLES, 0.0)
    use["program"] = 128.0
    compute = 0.0
    match step.opcode:
        case Opcode.NORM | Opcode.QUANTIZE:
            cols = int(o["cols"])
            use["activations"] = tokens * (cols * 4 + padded(cols, LANE_COLS) + 4)
            use["weights"] = cols * 4 if step.opcode is Opcode.NORM else 0
            compute = 2 * tokens * cols / 4
        case Opcode.LINEAR:
            rows, cols = int(o["rows"]), int(o["cols"])
            served = min(logits, tokens) if o["epilogue"] == Epilogue.LOGITS else tokens
            if not served:
                return Cost(OVERHEAD, use, "overhead")
            use["weights"] = _weight_bytes(step) + rows * 4
            use["activations"] = served * (cols + 4) + _output_bytes(o, rows, served)
            if o["epilogue"] in (Epilogue.HEADS, Epilogue.ROPE_HEADS) and o["append"]:
                use["activations"] = served * (cols + 4)
                use["kv"] = served * (padded(rows, BEAT_BYTES) + 4 * rows // int(o["head_dim"]))
            compute = _linear_cycles(step, design, rows, cols, served)
        case Opcode.TPHS:
            heads, kv_heads, head_dim, cols = (int(o[k]) for k in ("heads", "kv_heads", "head_dim", "cols"))
            rows = heads * head_dim
            use["weights"] = _weight_bytes(step) + rows * 4
            use["activations"] = tokens * (cols + 4 + rows * 4)
            use["kv"] = kv_heads * seen * 2 * (padded(head_dim, BEAT_BYTES) + 4)
            project = _linear_cycles(step, design, rows, cols, tokens)
            compute = max(project, heads * groups * seen) + 2 * seen  # one stage after the other, overlapped by heads
        case Opcode.SCORES:
            heads, kv_heads, head_dim = (int(o[k]) for k in ("heads", "kv_heads", "head_dim"))
            use["kv"] = kv_heads * seen * (padded(head_dim, BEAT_BYTES) + 4)
            use["intermediates"] = heads * tokens * (padded(head_dim, BEAT_BYTES) + 4 + seen * 4)
            compute = heads * groups * seen
        case Opcode.SOFTMAX:
            heads = int(o["heads"])
            use["kv"] = int(o["kv_heads"]) * seen * 4
            use["intermediates"] = heads * tokens * (seen * 6 + BEAT_BYTES)
            compute = heads * groups * seen
        case Opcode.CONTEXT:
            heads, kv_heads, head_dim = (int(o[k]) for k in ("heads", "kv_heads", "head_dim"))
            use["kv"] = kv_heads * seen * padded(head_dim, BEAT_BYTES)
            use["intermediates"] = heads * tokens * (seen * 2 + BEAT_BYTES)
            use["activations"] = tokens * heads * head_dim * 4
            compute = heads * groups * seen
    ports = use["weights"] / (BEAT_BYTES * design.weight_ports)
    other = (sum(use.values()) - use["weights"]) / BEAT_BYTES
    dram = sum(use.values()) / (bandwidth_gb_s * 1e9 * EFFICIENCY) * design.clock_mhz * 1e6
    bounds = {"weight ports": ports, "memory port": other, "multipliers": compute, "DRAM": dram}
    limit = max(bounds, key=lambda k: bounds[k])
    return Cost(max(bounds.values()) + OVERHEAD, use, limit)


def _weight_bytes(step: Step) -> float:
    streams = [step.operands[f"weights{p}"] for p in range(4)] + [step.operands["directory"], step.operands["table"]]
    return float(sum(s.length for s in streams if isinstance(s, Slot)))


def _output_bytes(o: dict[str, int | float], rows: int, tokens: int) -> float:
    match o["epilogue"]:
        case Epilogue.ADD:
            return tokens * rows * 8
        case Epilogue.GLU:
            return tokens * rows * 2
        case Epilogue.HEADS | Epilogue.ROPE_HEADS:
            return tokens * (rows + 4 * rows // int(o["head_dim"]))
    return tokens * rows * 4


def _linear_cycles(step: Step, design: Design, rows: int, cols: int, tokens: int) -> float:
    words = padded(rows, design.weight_ports) // design.weight_ports * cols / LANE_COLS
    rate = 1.0
    form = step.operands["format"]
    if isinstance(form, int) and form:
        chunk = form & 255
        rate = min(1.0, chunk * LOOKUP_LANES / LANE_COLS)
    return max(words / rate, words * -(-tokens // design.token_lanes))


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
