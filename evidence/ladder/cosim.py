# SPDX-License-Identifier: Apache-2.0
"""cosim: a program's first layers through driver, C simulation and Verilog, beside the emulator."""

from __future__ import annotations

from typing import Any

from meadow.machine.package.read import Package


def measure(package: Package, layers: int, tell: Any) -> dict[str, Any]:
    """The first `layers` layers of a prefill of five tokens; what the driver reads from the Verilog's registers, what the schedule
    predicts, and the bits after each layer beside the emulator's."""
    from meadow.compiler.emit.verilog import shape_of
    from meadow.compiler.price.traffic import step_beats
    from meadow.evidence.ladder.cosim_board import CosimBoard
    from meadow.machine.instructions.instruction import Tokens, on_port
    from meadow.machine.isa import Opcode
    from meadow.machine.registers import PACQ_REGISTERS, offsets, pacq_shape
    from meadow.runtime.check.compare import TOKENS
    from meadow.runtime.devices.zynq import EmulatedDevice, Zynq, emulated_overlay
    from meadow.runtime.session import Session

    design = package.design
    tell("building", "Verilator and g++")
    parameters = {**shape_of(design).parameters, "DESIGN_ID": int(design.id, 16)}
    board = CosimBoard(package, parameters)
    tell("loading", "the overlay")
    with emulated_overlay(package) as bit:
        driver = Zynq(package, bit, EmulatedDevice(board), stall=120.0)
    steps = package.steps("prefill")
    ends = package.layer_ends("prefill")
    some = steps[: ends[min(layers, len(ends)) - 1]]
    streamed = [step for step in some if step.opcode in (Opcode.LINEAR, Opcode.TPHS)]
    beats = [
        sum(on_port(step_beats(step, design, Tokens(len(TOKENS), 0)), f"pacq{p}") for step in streamed)
        for p in range(design.pacq_ports)
    ]
    with Session(package.folder, driver) as session:
        driver.fabric.write("pacq_gemv", offsets(PACQ_REGISTERS)["CONTROL"], 1)
        before = board.verilog_cycles
        tell("running", f"{len(some)} steps, {len(streamed)} of them in Verilog")
        rows = session.compare(layers=layers)
        cycles = board.verilog_cycles - before
        counters = driver.fabric.pacq_counters()
        counters["STATUS"] = driver.fabric.read(
            "pacq_gemv", offsets(PACQ_REGISTERS)["STATUS"]
        )  # cycles after the last result
        identity = {
            name: driver.fabric.read("pacq_gemv", at)
            for name, at in offsets(PACQ_REGISTERS).items()
            if name in ("ID", "VERSION", "SHAPE", "SIZE")
        }
        operations = session.operations
    shape, size = pacq_shape(design)
    checks = {
        "bits after each layer": all(r.equal for r in rows),
        "identity": (identity["SHAPE"], identity["SIZE"]) == (shape, size),
        "commands": counters["COMMANDS"] == len(streamed),
        "beats of each port": [counters[f"BEATS{p}"] for p in range(design.pacq_ports)] == beats,
        "idle without error": counters["STATUS"] == 0 == counters["ERROR"],
    }
    return {
        "kind": "simulated (Verilator, the package's own Verilog and C++; clock cycles of pacq_gemv)",
        "layers": len(rows),
        "steps": len(some),
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
