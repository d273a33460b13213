# SPDX-License-Identifier: Apache-2.0
"""bench bus: beats that carry weights, counted in the Verilog over whole layers of a model."""

from __future__ import annotations

from typing import Any

from meadow.evidence.ladder.beside import require_side
from meadow.evidence.ladder.verilated import Memory, Script, run
from meadow.evidence.ladder.verilog import Job, program, queue
from meadow.machine.package.read import Package


def measure(package: Package, work: list[Job], memory: Memory) -> dict[str, Any]:
    """The matrices one after another: cycles from the first request to the last result, and beats of each port."""
    side = require_side(package)
    script = Script()
    for job in work:
        queue(side, script, job)
    found = run(program(package), package.file("weights.bin"), script, memory, side.width)
    wanted = sum(side.port_beats(job.layout, job.fields, job.a) for job in work)
    at, exact = 0, found.status == 0 and found.beats == (wanted,) * side.engine.ports
    for job in work:
        count = side.last(job.layout, len(job.a))
        exact &= bool((side.ordered(found.results[at : at + count], job.layout, len(job.a)) == job.y).all())
        at += count
    return {
        "cycles": found.cycles,
        "beats": list(found.beats),
        "share_by_port": [n / found.cycles for n in found.beats],
        "share_while_streaming": [n / (found.last_beat - found.first_beat + 1) for n in found.beats],
        "share_of_offered": sum(found.beats) / found.offered,
        "bits_as_the_emulator": exact,
    }
