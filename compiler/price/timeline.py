# SPDX-License-Identifier: Apache-2.0
"""timeline: when each step of a program run begins and ends, by the cost model, and the same as a Chrome trace.

Steps follow one another, as the engine runs them; all modelled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from meadow.compiler.price import cost
from meadow.machine.design import Design
from meadow.machine.instructions.instruction import Tokens
from meadow.machine.step import Step


@dataclass(frozen=True)
class Event:
    """One step of a run: microseconds, bytes by role, and the cycles of its phases.

    kind  what the step does, the same in every layer (Step.role)
    """

    name: str
    kind: str
    layer: int | None
    opcode: str
    start: float
    duration: float
    bytes: dict[str, int]
    phases: dict[str, float]
    limit: str
    macs: int


def timeline(steps: Iterable[Step], design: Design, tokens: int, position: int, bandwidth_gb_s: float) -> list[Event]:
    """The events of one run, in order."""
    found, now = [], 0.0
    for step in steps:
        made = cost.step_cost(step, design, Tokens(tokens, position), bandwidth_gb_s)
        duration = made.cycles / design.clock_mhz
        macs = cost.step_macs(step, Tokens(tokens, position))
        found.append(
            Event(
                step.name,
                step.role,
                step.layer,
                step.opcode.name,
                now,
                duration,
                made.bytes,
                made.phases,
                made.limit,
                macs,
            )
        )
        now += duration
    return found


def chrome_trace(runs: dict[str, list[Event]], design: Design) -> dict[str, Any]:
    """The runs as a trace for chrome://tracing or Perfetto: one process per run, a track for steps and one for each phase."""
    events: list[dict[str, Any]] = []
    for pid, (title, run) in enumerate(runs.items(), 1):
        tracks = ["steps", *dict.fromkeys(phase for e in run for phase in e.phases)]
        events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": f"{title} (modelled)"}})
        for tid, track in enumerate(tracks):
            events.append({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": track}})
        for e in run:
            args = {"limit": e.limit, "MACs": e.macs, **{f"{role} bytes": n for role, n in e.bytes.items() if n}}
            events.append(
                {
                    "ph": "X",
                    "name": e.name,
                    "cat": e.opcode,
                    "pid": pid,
                    "tid": 0,
                    "ts": round(e.start, 3),
                    "dur": round(e.duration, 3),
                    "args": args,
                }
            )
            at = e.start
            for phase, cycles in e.phases.items():
                if cycles:
                    events.append(
                        {
                            "ph": "X",
                            "name": e.kind,
                            "cat": phase,
                            "pid": pid,
                            "tid": tracks.index(phase),
                            "ts": round(at, 3),
                            "dur": round(cycles / design.clock_mhz, 3),
                        }
                    )
                    at += cycles / design.clock_mhz
    return {"displayTimeUnit": "ns", "traceEvents": events}
