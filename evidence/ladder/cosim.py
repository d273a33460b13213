# SPDX-License-Identifier: Apache-2.0
"""cosim: a program's first layers through driver, C simulation and Verilog, beside the emulator."""

from __future__ import annotations

from typing import Any

from meadow.compiler.price.traffic import step_beats
from meadow.evidence.ladder.cosim_board import CosimBoard
from meadow.machine.engines.engine import Engine
from meadow.machine.instructions.instruction import Tokens, on_port
from meadow.machine.isa import Opcode
from meadow.machine.package.read import Package
from meadow.machine.registers import GEMV_REGISTERS, offsets
from meadow.machine.step import Step
from meadow.runtime.check.compare import TOKENS
from meadow.runtime.devices.emulated_pynq import EmulatedDevice, emulated_overlay
from meadow.runtime.devices.zynq import Zynq
from meadow.runtime.session import Session


def measure(package: Package, layers: int, tell: Any) -> dict[str, Any]:
    """The first `layers` layers of a prefill of five tokens; what the driver reads from the Verilog's registers, what the schedule
    predicts, and the bits after each layer beside the emulator's."""
    design = package.design
    tell("building", "Verilator and g++")
    board = CosimBoard(package)
    engine = board.multiplier
    tell("loading", "the overlay")
    with emulated_overlay(package) as bit:
        driver = Zynq(package, bit, EmulatedDevice(board), stall=120.0)
    ends = package.layer_ends("prefill")
    steps = package.steps("prefill")[: ends[min(layers, len(ends)) - 1]]
    streamed = [step for step in steps if step.opcode in (Opcode.LINEAR, Opcode.TPHS)]
    beats = _predicted(package, engine, streamed)
    with Session(package.folder, driver) as session:
        driver.fabric.write(engine.name, offsets(GEMV_REGISTERS)["CONTROL"], 1)
        before = board.verilog_cycles
        tell("running", f"{len(steps)} steps, {len(streamed)} of them in Verilog")
        rows = session.compare(layers=layers)
        cycles = board.verilog_cycles - before
        counters, identity = _registers(driver, engine)
        operations = session.operations
    checks = {
        "bits after each layer": all(r.equal for r in rows),
        "identity": (identity["ID"], identity["SHAPE"], identity["SIZE"]) == engine.identity(design),
        "commands": counters["COMMANDS"] == len(streamed),
        "beats of each port": [counters[f"BEATS{p}"] for p in range(engine.ports)] == beats,
        "idle without error": counters["STATUS"] == 0 == counters["ERROR"],
    }
    return {
        "kind": f"simulated (Verilator, the package's own Verilog and C++; clock cycles of {engine.name})",
        "layers": len(rows),
        "steps": len(steps),
        "commands": len(streamed),
        "predicted_beats": beats,
        "cycles": cycles,
        "counters": counters,
        "identity": identity,
        "checks": checks,
        "agree": all(checks.values()),
        "operations": operations,
        "differences": [str(r) for r in rows],
    }


def _predicted(package: Package, engine: Engine, streamed: list[Step]) -> list[int]:
    """Beats that each port of the engine fetches, by the schedule."""
    design = package.design
    beats = [step_beats(step, design, Tokens(len(TOKENS), 0)) for step in streamed]
    return [sum(on_port(b, f"{engine.port}{p}") for b in beats) for p in range(engine.ports)]


def _registers(driver: Zynq, engine: Engine) -> tuple[dict[str, int], dict[str, int]]:
    """(counters, identity) as the driver reads them after the run; STATUS last, for it falls some cycles after the last result."""
    places = offsets(GEMV_REGISTERS)
    counters = driver.fabric.beside_counters(engine)
    counters["STATUS"] = driver.fabric.read(engine.name, places["STATUS"])
    return counters, {n: driver.fabric.read(engine.name, places[n]) for n in ("ID", "VERSION", "SHAPE", "SIZE")}
