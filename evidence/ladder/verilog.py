# SPDX-License-Identifier: Apache-2.0
"""What an engine in Verilog is given by a program that runs: matrices with their real activations, and what must come out.

Used by the `rtl` rung of verify and by the benchmarks that count its cycles.  Simulates nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.evidence.ladder.beside import Side, require_side
from meadow.evidence.ladder.verilated import Memory, Script, build, run
from meadow.machine.dram import LATENCY_NS, REFRESH_EVERY_NS, REFRESH_NS, Dram
from meadow.machine.instructions.instruction import Fields
from meadow.machine.isa import unpack_slot
from meadow.machine.package.read import Package
from meadow.runtime.devices.emulator import Emulator
from meadow.runtime.session import Session

PROMPT = "What is the capital of France?"
PREFILL = 5
"""Tokens of the prefill that the rung rtl runs: no multiple of any token lanes."""
IDEAL = Memory(beats_per_cycle=4.0, latency=60)


@dataclass(frozen=True)
class Job:
    """One linear as the engine meets it.

    name       of its matrix, or of the part of it
    layer      of the decoder; None for the head
    step       number of its instruction in the program
    layout     of the matrix
    addresses  of its streams in weights.bin
    fields     of the instruction
    a          [tokens, padded columns], as they go over the stream
    y          [tokens, rows], what must come out
    """

    name: str
    layer: int | None
    step: int
    layout: Any
    addresses: list[int]
    fields: Fields
    a: NDArray[Any]
    y: NDArray[Any]


def jobs(package: Package, prefill: int = 0) -> tuple[list[Job], list[Job]]:
    """The linears of a prefill of `prefill` tokens (none for 0), and those of the decoded token after the prompt."""
    side = require_side(package)
    rows = {tuple(row["streams"][0][:2]): row for row in package.packing()}
    seen: list[Job] = []

    def witness(f: Fields, a: NDArray[Any], y: NDArray[Any]) -> None:
        places = [unpack_slot(f[f"weights{p}"]) for p in range(side.slots)]
        row = rows[places[0]]
        where = [package.manifest["chunks"][chunk]["file_offset"] + offset for chunk, offset in places]
        layout = side.layout(f, y.shape[1])
        seen.append(Job(row["name"], row["layer"], len(seen), layout, where, dict(f), a.copy(), y.copy()))

    with Session(package.folder, "emulator") as session:
        assert isinstance(session.device, Emulator)
        tokens = session.prompt(PROMPT)
        if prefill:
            session.device.witness = witness
            session.prefill(tokens[:prefill], logits="last")
        first = list(seen)
        session.device.witness = None
        session.reset()
        row = session.prefill(tokens, logits="last")[-1]
        seen.clear()
        session.device.witness = witness
        session.step(int(np.argmax(row)))
    return first, seen


def program(package: Package) -> Path:
    """The engine of the package's own Verilog, ready to run.  Raises UsageError where it has none."""
    from meadow.compiler.emit.verilog import shape_of

    require_side(package)
    shape = shape_of(package.design)
    assert shape is not None
    texts = {name: package.file(f"rtl/{name}").read_text() for name in shape.files}
    return build(shape, int(package.design.id, 16), texts)


def bandwidth(package: Package) -> float:
    """Peak of the package's board in 10^9 bytes per second, as it was compiled for."""
    return float(package.figures()["bandwidth_gb_s"])


def ddr4(design_clock_mhz: int, bandwidth_gb_s: float, foreign_mhz: float = 0.0) -> Memory:
    """DRAM behind all ports together, as machine/dram.py has it: latency that varies, and refresh, in which nothing comes.

    foreign_mhz  clock of the engine, which reads over two ports of its own
    """
    cycle_ns = 1e3 / design_clock_mhz
    least, most = (round(ns / cycle_ns) for ns in LATENCY_NS)
    return Memory(
        Dram(bandwidth_gb_s).between_refreshes(design_clock_mhz),
        least,
        most - least,
        round(REFRESH_EVERY_NS / cycle_ns),
        round(REFRESH_NS / cycle_ns),
        2 * foreign_mhz / design_clock_mhz,
    )


def queue(side: Side, script: Script, job: Job) -> None:
    """The job's command and activations, sent as soon as they are taken, and all its results."""
    tokens = len(job.a)
    script.command(side.command(job.layout, job.fields, job.addresses, tokens))
    script.serve()
    if not job.fields["reuse"]:
        script.feed(job.a)
    script.take(side.last(job.layout, tokens))


def check(package: Package, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rung `rtl`: linears of the first, middle and last layer and the head, of a prefill and of a decoded token, at full
    size and with their real activations, through the Verilog behind a DDR4-like memory.  Bits against the emulator's."""
    layers = int(package.model["layers"])
    chosen = {0, layers // 2, layers - 1, None}
    side = require_side(package)
    name = side.engine.name
    tell(f"{name}: building its Verilog with Verilator")
    made = program(package)
    prompt, token = jobs(package, PREFILL)
    memory = ddr4(side.engine.clock(package.design), bandwidth(package))
    rows = []
    for phase, work in (("prefill", prompt), ("decode", token)):
        for number, job in enumerate(work):
            if job.layer not in chosen:
                continue
            tell(f"{name}: {phase}, {job.name}, {len(job.a)} tokens")
            script = Script()
            alone = {**job.fields, "reuse": 0, "hold": 0}
            queue(side, script, replace(job, fields=alone))
            found = run(made, package.file("weights.bin"), script, memory, side.width)
            y = side.ordered(found.results, job.layout, len(job.a))
            same = found.status == 0 and bool((y.view(np.uint32) == job.y.view(np.uint32)).all())
            rows.append(
                {
                    "phase": phase,
                    "number": number,
                    "matrix": job.name,
                    "rows": job.layout.rows,
                    "cols": job.layout.cols,
                    "tokens": len(job.a),
                    "format": side.engine.weights,
                    "cycles": found.cycles,
                    "same": same,
                }
            )
    return rows
