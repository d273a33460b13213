# SPDX-License-Identifier: Apache-2.0
"""bench bus: beats that carry weights, scales or minima, counted in the Verilog over whole layers of a model."""

from __future__ import annotations

from typing import Any

from meadow.evidence.ladder.verilated import Memory, Script, ordered, run
from meadow.evidence.ladder.verilog import Job, program, queue
from meadow.machine.engines.pacq import Pacq
from meadow.machine.package.read import Package


def measure(package: Package, work: list[Job], memory: Memory) -> dict[str, Any]:
    """The matrices one after another: cycles from the first request to the last result, and beats of each port."""
    script = Script()
    for job in work:
        queue(script, job)
    found = run(program(package), package.file("weights.bin"), script, memory, package.design.engine(Pacq).ports)
    wanted = sum(job.layout.port_beats for job in work)
    at, exact = 0, found.status == 0 and found.beats == (wanted,) * package.design.engine(Pacq).ports
    for job in work:
        count = len(job.a) * job.layout.results
        exact &= bool((ordered(found.results[at : at + count], job.layout, len(job.a)) == job.y).all())
        at += count
    return {
        "cycles": found.cycles,
        "beats": list(found.beats),
        "share_by_port": [n / found.cycles for n in found.beats],
        "share_while_streaming": [n / (found.last_beat - found.first_beat + 1) for n in found.beats],
        "share_of_offered": sum(found.beats) / found.offered,
        "bits_as_the_emulator": exact,
    }
