# SPDX-License-Identifier: Apache-2.0
"""bench decode: tokens per second of a model with grouped weights.  pacq_gemv is simulated in its Verilog over a whole token, every
other step is modelled and stands on the critical path, but for what the Verilog itself reads ahead meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from meadow.boards import Board
from meadow.compiler.price import cost
from meadow.compiler.price.run import estimate
from meadow.compiler.price.traffic import by_role, run_beats, step_beats
from meadow.evidence.ladder.reference import reference_model
from meadow.evidence.ladder.verilated import Outcome, Script, run
from meadow.evidence.ladder.verilog import ddr4, program
from meadow.machine.design import Design
from meadow.machine.engines.pacq import Pacq
from meadow.machine.errors import DeviceError
from meadow.machine.instructions.instruction import FLOATS, OVERHEAD, Part, Tokens, on_port
from meadow.machine.instructions.projection import streamed_rows
from meadow.machine.instructions.table import TABLE
from meadow.machine.isa import Opcode
from meadow.machine.package.read import Package, load
from meadow.machine.step import Slot, Step
from meadow.machine.storage.rows import padded
from meadow.machine.timing import stages
from meadow.machine.units import BEAT_BYTES

PUBLISHED = {"tokens_per_s": 27.0, "what": "Torch2RISCV, KV260 at 100 MHz, INT8, the same model", "kind": "reported"}
FEED_CYCLES = 2
"""Engine cycles per word of eight FP16 activations: two beats of FP32 (hls/pacq.hpp: halve_rows)."""


@dataclass
class Engine:
    """The script of a run of `count` tokens whose logits are all wanted, and what of it is modelled: engine cycles by part."""

    design: Design
    position: int
    count: int = 1
    script: Script = field(default_factory=Script)
    parts: dict[str, float] = field(default_factory=dict)
    beats: int = 0  # that each port must bring

    @property
    def tokens(self) -> Tokens:
        """What runs: the one token that is decoded, or those that are verified together."""
        return Tokens(self.count, self.position, self.count)

    @property
    def pacq(self) -> Pacq:
        """pacq_gemv of the design."""
        return self.design.engine(Pacq)

    @property
    def ratio(self) -> float:
        """Cycles of pacq_gemv in one of the engine's."""
        return self.pacq.clock_mhz / self.design.clock_mhz

    def work(self, part: str, cycles: float, beats: int = 0) -> None:
        self.parts[part] = self.parts.get(part, 0.0) + cycles
        self.script.work(cycles * self.ratio, beats)

    def step(self, step: Step, addresses: list[int] | None) -> None:
        o = step.numbers
        if addresses is None:
            # The memory is simulated, so the model's own must never be what a step waits for.
            made = cost.step_cost(step, self.design, self.tokens, bandwidth_gb_s=float("inf"))
            self.work(step.opcode.name.lower(), made.cycles, made.total_bytes // BEAT_BYTES)
            return
        design = self.design
        rows = streamed_rows(step)
        layout = self.pacq.layout(o, rows)
        self.script.command(layout, addresses, self.count, bool(o["reuse"]), bool(o["hold"]))
        self.work("latency", OVERHEAD)
        self.script.serve()
        if not o["reuse"]:
            self.script.feed(np.zeros((self.count, layout.padded_cols), np.float16), FEED_CYCLES * self.ratio)
        self.beats += layout.port_beats
        tile_rows = int(o["head_dim"] if step.opcode is Opcode.TPHS else o["tile_rows"])
        its = self.pacq.parts(step, design, rows, tile_rows, self.count, self.tokens)  # simulated
        rest = TABLE[step.opcode].parts(step, design, self.tokens)[len(its) :]
        moved = step_beats(step, design, self.tokens)
        fed = self.count * layout.padded_cols // FLOATS * (not o["reuse"])
        beats = on_port(moved, "memory") + on_port(moved, "constants") - fed
        part, turns = (
            ("attention", int(o["kv_heads"])) if step.opcode is Opcode.TPHS else ("epilogues", -(-rows // tile_rows))
        )
        each = tile_rows * (rows // tile_rows // turns) if step.opcode is Opcode.TPHS else tile_rows
        for turn in range(turns):
            some = min(each, rows - turn * each)
            self.script.take(self.count * padded(some, layout.chunk_rows) // layout.ports, self.ratio)
            self.work(part, _cycles(rest, design) / turns, max(0, beats) // turns)
        self.script.take(self.count * (layout.results - padded(rows, layout.chunk_rows) // layout.ports))


def _cycles(parts: list[Part], design: Design) -> float:
    phases: dict[str, float] = {}
    for part in parts:
        part.price(phases, stages(design))
    return sum(phases.values())


def measure(package: Package, board: Board, position: int, count: int = 1) -> dict[str, Any]:
    """A run of one decoded token after `position` others, or of `count` tokens that are verified together."""
    design = package.design
    engine = Engine(design, position, count)
    steps = package.steps("decode" if count == 1 else "prefill")
    engine.work("latency", OVERHEAD)  # registers and the table of chunks
    for step in steps:
        engine.step(step, _addresses(package, step))
    memory = ddr4(engine.pacq.clock_mhz, board.bandwidth_gb_s, design.clock_mhz)
    found = run(program(package), package.file("weights.bin"), engine.script, memory, engine.pacq.ports)
    if found.status or set(found.beats) != {engine.beats}:
        raise DeviceError(
            f"pacq_gemv in simulation: error {found.status:#x}, {found.beats} beats where {engine.beats} are each port's"
        )
    moved = by_role(run_beats(steps, design, engine.tokens, len(package.chunks)))
    bytes_by_role = {role: n / count for role, n in moved.items()}
    price = estimate(steps, design, count, position, board.bandwidth_gb_s, count, len(package.chunks))
    return {**summary(found, engine, bytes_by_role, board), "modelled_tokens_per_s": count / price.seconds}


def summary(found: Outcome, engine: Engine, bytes_by_role: dict[str, float], board: Board) -> dict[str, Any]:
    design = engine.design
    seconds = found.cycles / (engine.pacq.clock_mhz * 1e6)
    total = sum(bytes_by_role.values())
    roofline = board.bandwidth_gb_s * 1e9 / total
    modelled = {name: cycles / (design.clock_mhz * 1e6) for name, cycles in engine.parts.items()}
    parts = [
        {
            "part": "linears, what the rest does not hide",
            "seconds": seconds - sum(modelled.values()),
            "kind": "simulated",
        }
    ]
    parts += [
        {"part": name, "seconds": n, "kind": "modelled"} for name, n in sorted(modelled.items(), key=lambda r: -r[1])
    ]
    return {
        "board": board.name,
        "context": engine.position,
        "tokens": engine.count,
        "tokens_per_s": engine.count / seconds,
        "seconds": seconds,
        "roofline_tokens_per_s": roofline,
        "share_of_roofline": engine.count / seconds / roofline,
        "bandwidth_gb_s": board.bandwidth_gb_s,
        "bytes_per_token": bytes_by_role,
        "parts": parts,
        "clock_mhz": design.clock_mhz,
        "pacq_clock_mhz": engine.pacq.clock_mhz,
        "share_of_offered": (sum(found.beats) + found.others) / found.offered,
        "cycles": found.cycles,
        "published": PUBLISHED,
        "kind": "linears simulated (Verilog, DDR4-like memory), the rest modelled; clocks assumed, the host not counted",
    }


def _addresses(package: Package, step: Step) -> list[int] | None:
    """Where the streams of a grouped matrix lie in weights.bin; None for other steps."""
    word = step.operands.get("format")
    if not isinstance(word, int) or not Pacq.takes(word):
        return None
    slots = [step.operands[f"weights{p}"] for p in range(package.design.engine(Pacq).ports)]
    chunks = package.manifest["chunks"]
    return [chunks[s.space]["file_offset"] + s.offset for s in slots if isinstance(s, Slot)]


def on_board(package: Package, board: Board, folder: Path, reference: Path | None = None) -> Package:
    """The package, or its model compiled for another board into `folder`."""
    if package.manifest["board"] == board.name:
        return package
    from meadow.compiler.pipeline import Options, compile_model

    compile_model(reference_model(package, reference), board, folder, Options(name=package.folder.name))
    return load(folder)
