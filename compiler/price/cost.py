# SPDX-License-Identifier: Apache-2.0
"""The cost model: cycles of each step as the engine's C++ overlaps fetch, compute and store.  All modelled.

Each instruction knows its own parts and their loops (machine/instructions/), whose iterations and entries are exact; machine/timing.py
has what an iteration and an entry take; bytes are traffic.py's, and exact.  Assumptions:
  - a port moves one 128-bit beat per cycle while it streams (UG1085: HP and HPC ports; MixerLoop measured 98 to 100 %)
  - processes of a region overlap, and the slowest decides; what follows one another is added, each loop with its own latency
  - a step starts when the one before has ended, OVERHEAD cycles later
  - the DRAM is machine/dram.py's
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meadow.compiler.price.traffic import by_role, step_beats
from meadow.machine.design import Design
from meadow.machine.dram import Dram
from meadow.machine.instructions.instruction import OVERHEAD, Beats, Loops, Phases, Tokens, loops_of
from meadow.machine.instructions.table import TABLE
from meadow.machine.step import Step
from meadow.machine.timing import Stage, stages


@dataclass(frozen=True)
class Cost:
    """One step for given tokens: cycles (modelled), DRAM bytes by role (exact), and the phases of the cycles."""

    cycles: float
    bytes: dict[str, int]
    limit: str
    phases: Phases

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes.values())


def step_cost(
    step: Step,
    design: Design,
    tokens: Tokens,
    bandwidth_gb_s: float,
    moved: Beats | None = None,
    loops: Mapping[str, Stage] | None = None,
) -> Cost:
    """Cycles and bytes of `step` for `tokens`.

    moved  the step's beats, where they are known already (traffic.step_beats)
    loops  what the counted loops take, where that is not as assumed (timing.stages)
    """
    moved = step_beats(step, design, tokens) if moved is None else moved
    phases: Phases = {"latency": OVERHEAD}
    loops = stages(design) if loops is None else loops
    for part in TABLE[step.opcode].parts(step, design, tokens):
        part.price(phases, loops)
    use = by_role(moved)
    dram = sum(use.values()) / Dram(bandwidth_gb_s).bytes_per_second * design.clock_mhz * 1e6
    cycles = sum(phases.values())
    if dram > cycles:
        return Cost(dram, use, "DRAM", phases)
    return Cost(cycles, use, max(phases, key=lambda k: phases[k]), phases)


def step_loops(step: Step, design: Design, tokens: Tokens) -> Loops:
    """The engine's pipelined loops, exactly: the C simulation counts the same iterations and entries.

    `unpack` is missing where weights are prefix codes: it depends on the codes themselves.
    """
    return loops_of(TABLE[step.opcode].parts(step, design, tokens))


def step_macs(step: Step, tokens: Tokens) -> int:
    """Multiplications that a step is there for: matrices with tokens, queries with keys, probabilities with values."""
    return TABLE[step.opcode].macs(step.numbers, tokens)
