# SPDX-License-Identifier: Apache-2.0
"""bench decode: tokens per second.  pacq_gemv or column_gemm is simulated in its Verilog over a whole token, every
other step is modelled and stands on the critical path, but for what the Verilog itself reads ahead meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from meadow.boards import Board
from meadow.compiler.price import cost
from meadow.compiler.price.run import estimate
from meadow.compiler.price.traffic import by_role, run_beats, step_beats
from meadow.evidence.bench.traffic import informed, is_live, reads_live_columns
from meadow.evidence.ladder.beside import Side, require_side
from meadow.evidence.ladder.reference import reference_model
from meadow.evidence.ladder.verilated import Outcome, Script, run
from meadow.evidence.ladder.verilog import ddr4, jobs, program
from meadow.machine.design import Design
from meadow.machine.errors import DeviceError
from meadow.machine.instructions.instruction import OVERHEAD, Part, Tokens, on_port
from meadow.machine.instructions.projection import streamed_rows
from meadow.machine.isa import Opcode
from meadow.machine.package.read import Package, load
from meadow.machine.step import Slot, Step
from meadow.machine.timing import stages
from meadow.machine.units import BEAT_BYTES

PUBLISHED = {"tokens_per_s": 27.0, "what": "Torch2RISCV, KV260 at 100 MHz, INT8, the same model", "kind": "reported"}


@dataclass
class Engine:
    """The script of a run of `count` tokens, of which the last `logits` have logits, and what of it is modelled: engine cycles by part."""

    design: Design
    side: Side
    position: int
    count: int = 1
    logits: int = 1
    script: Script = field(default_factory=Script)
    parts: dict[str, float] = field(default_factory=dict)
    beats: int = 0  # that each port must bring
    codes: Iterator[NDArray[Any]] | None = None  # of the linears in order, where what is read depends on them

    @property
    def tokens(self) -> Tokens:
        """What runs: the one token that is decoded, those that are verified together, or a block of a prompt."""
        return Tokens(self.count, self.position, self.logits)

    @property
    def ratio(self) -> float:
        """Cycles of the engine in Verilog in one of the other's."""
        return self.side.engine.clock(self.design) / self.design.clock_mhz

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
        side, layout = self.side, self.side.layout(o, rows)
        a = next(self.codes) if self.codes is not None else side.activations(layout, self.count)
        self.script.command(side.command(layout, o, addresses, self.count))
        self.work("latency", OVERHEAD)
        self.script.serve()
        if not o["reuse"]:
            self.script.feed(a, side.pace * self.ratio)
        self.beats += side.port_beats(layout, o, a)
        tile_rows = int(o["head_dim"] if step.opcode is Opcode.TPHS else o["tile_rows"])
        rest = side.rest(step, design, rows, tile_rows, self.count, self.tokens)
        moved = step_beats(step, design, self.tokens)
        fed = round(a.nbytes // BEAT_BYTES * side.pace) * (not o["reuse"])
        beats = on_port(moved, "memory") + on_port(moved, "constants") - fed
        part, turns = (
            ("attention", int(o["kv_heads"])) if step.opcode is Opcode.TPHS else ("epilogues", -(-rows // tile_rows))
        )
        each = tile_rows * (rows // tile_rows // turns) if step.opcode is Opcode.TPHS else tile_rows
        left = side.last(layout, self.count)
        for turn in range(turns):
            some = min(each, rows - turn * each)
            taken = side.results(layout, some, self.count)
            self.script.take(taken, self.ratio)
            left -= taken
            self.work(part, _cycles(rest, design) / turns, max(0, beats) // turns)
        self.script.take(left)


def _cycles(parts: list[Part], design: Design) -> float:
    phases: dict[str, float] = {}
    for part in parts:
        part.price(phases, stages(design))
    return sum(phases.values())


def measure(package: Package, board: Board, position: int, count: int = 1) -> dict[str, Any]:
    """A run of one decoded token after `position` others, or of `count` tokens that are verified together."""
    design = package.design
    side = require_side(package)
    engine = Engine(design, side, position, count, count)
    steps = package.steps("decode" if count == 1 else "prefill")
    live: list[int] = []
    if any(reads_live_columns(step) for step in steps):
        work = jobs(package)[1]
        engine.codes = iter([job.a for job in work])
        live = [job.layout.listed_groups(job.a[0]) for job in work if is_live(job.fields)]
        steps = informed(steps, iter(live))
    engine.work("latency", OVERHEAD)  # registers and the table of chunks
    found = simulate(package, board, engine, steps)
    moved = by_role(run_beats(steps, design, engine.tokens, len(package.chunks)))
    bytes_by_role = {role: n / count for role, n in moved.items()}
    price = estimate(steps, design, count, position, board.bandwidth_gb_s, count, len(package.chunks))
    return {**summary(found, engine, bytes_by_role, board), "modelled_tokens_per_s": count / price.seconds}


def simulate(package: Package, board: Board, engine: Engine, steps: Iterable[Step]) -> Outcome:
    """The steps one after another.  Raises DeviceError where the Verilog ends otherwise than it should."""
    side, design = engine.side, engine.design
    for step in steps:
        engine.step(step, _addresses(package, side, step))
    memory = ddr4(side.engine.clock(design), board.bandwidth_gb_s, design.clock_mhz)
    found = run(program(package), package.file("weights.bin"), engine.script, memory, side.width)
    if found.status or set(found.beats) != {engine.beats}:
        raise DeviceError(
            f"{side.engine.name} in simulation: error {found.status:#x}, {found.beats} beats where {engine.beats} are each port's"
        )
    return found


def summary(found: Outcome, engine: Engine, bytes_by_role: dict[str, float], board: Board) -> dict[str, Any]:
    design = engine.design
    seconds = found.cycles / (engine.side.engine.clock(design) * 1e6)
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
        "stream_clock_mhz": engine.side.engine.clock(design),
        "share_of_offered": (sum(found.beats) + found.others) / found.offered,
        "cycles": found.cycles,
        "published": PUBLISHED,
        "kind": "linears simulated (Verilog, DDR4-like memory), the rest modelled; clocks assumed, the host not counted",
    }


def _addresses(package: Package, side: Side, step: Step) -> list[int] | None:
    """Where the streams of a matrix lie in weights.bin; None for steps that the engine in Verilog does not serve."""
    word = step.operands.get("format")
    if not isinstance(word, int) or not side.engine.takes(word):
        return None
    slots = [step.operands[f"weights{p}"] for p in range(side.slots)]
    chunks = package.manifest["chunks"]
    return [chunks[s.space]["file_offset"] + s.offset for s in slots if isinstance(s, Slot)]


def on_board(package: Package, board: Board, folder: Path, reference: Path | None = None) -> Package:
    """The package, or its model compiled for another board into `folder`, for an engine that was asked for here too."""
    if package.manifest["board"] == board.name:
        return package
    from meadow.compiler.pipeline import Options, compile_model

    asked = tuple((e.ports_name(), e.ports) for e in package.design.engines if e.instead)
    options = Options(name=package.folder.name, settings=asked)
    compile_model(reference_model(package, reference), board, folder, options)
    return load(folder)
