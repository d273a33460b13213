# SPDX-License-Identifier: Apache-2.0
"""cosim: a program's first layers through driver, C simulation and Verilog, beside the emulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meadow.cli.output import emit_json, json_option, out, stages, table
from meadow.cli.trust import require_trust, trust_option
from meadow.compiler.errors import UsageError
from meadow.compiler.package import Package, load


def measure(package: Package, layers: int, tell: Any) -> dict[str, Any]:
    """The first `layers` layers of a prefill of five tokens; what the driver reads from the Verilog's registers, what the schedule
    predicts, and the bits after each layer beside the emulator's."""
    from meadow.compiler.isa import Opcode
    from meadow.compiler.registers import PACQ_REGISTERS, offsets, pacq_shape
    from meadow.compiler.traffic import on_port, step_beats
    from meadow.compiler.verilog import shape_of
    from meadow.runtime.compare import TOKENS, compare
    from meadow.runtime.cosim import CosimBoard
    from meadow.runtime.session import Session
    from meadow.runtime.zynq import EmulatedDevice, Zynq, emulated_overlay

    design = package.design
    tell("building", "Verilator and g++")
    parameters = {**shape_of(design).parameters, "DESIGN_ID": int(design.id, 16)}
    board = CosimBoard(package, parameters)
    tell("loading", "the overlay")
    with emulated_overlay(package) as bit:
        driver = Zynq(package, bit, EmulatedDevice(board), stall=120.0)
    steps = package.steps("prefill")
    norms = [n for n, step in enumerate(steps) if step.opcode is Opcode.NORM]
    some = steps[: norms[2 * min(layers, len(norms) // 2)]]
    streamed = [step for step in some if step.opcode in (Opcode.LINEAR, Opcode.TPHS)]
    beats = [
        sum(on_port(step_beats(step, design, len(TOKENS), 0), f"pacq{p}") for step in streamed)
        for p in range(design.pacq_ports)
    ]
    with Session(package.folder, driver) as session:
        driver.fabric.write("pacq_gemv", offsets(PACQ_REGISTERS)["CONTROL"], 1)
        before = board.verilog_cycles
        tell("running", f"{len(some)} steps, {len(streamed)} of them in Verilog")
        rows = compare(session, layers=layers)
        cycles = board.verilog_cycles - before
        counters = driver.fabric.pacq_counters()
        counters["STATUS"] = driver.fabric.read(
            "pacq_gemv", offsets(PACQ_REGISTERS)["STATUS"]
        )  # cycles after the last result
        identity = {name: driver.fabric.read("pacq_gemv", at) for name, at in offsets(PACQ_REGISTERS).items()
                    if name in ("ID", "VERSION", "SHAPE", "SIZE")}  # fmt: skip
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
        "kind": "simulated (Verilator, the package's own Verilog and C++; clock cycles of pacq_gemv)", "layers": len(rows),
        "steps": len(some), "commands": len(streamed), "predicted_beats": beats, "cycles": cycles, "counters": counters,
        "identity": identity, "checks": checks, "agree": all(checks.values()), "operations": operations,
        "differences": [str(r) for r in rows],
    }  # fmt: skip


@click.command("cosim")
@click.argument("package", type=click.Path(path_type=Path), default=Path("build/smollm2-int4"))
@click.option("--layers", type=click.IntRange(min=1), default=1, show_default=True, help="How many layers run.")
@trust_option
@json_option
def cosim_command(package: Path, layers: int, trust: bool, as_json: bool) -> None:
    """Run the first layers of PACKAGE with pacq_gemv in Verilog: driver, registers, streams and Verilog against each other.

    The C simulation is the sequencer, the board's driver starts it through an emulated board and reads the Verilog's own registers.

    \b
    Example:
      meadowc cosim build/smollm2-int4 --layers 2
    """
    made = load(package)
    if not made.design.pacq_ports:
        raise UsageError(f"{package} has no grouped weights, so no pacq_gemv to simulate")
    require_trust(made, trust)
    with stages(("building", "loading", "running"), as_json) as show:
        result = measure(made, layers, show)
    if as_json:
        emit_json(result)
    else:
        rows = table(
            f"{result['steps']} steps, {result['commands']} commands to pacq_gemv", "register", "read by the driver"
        )
        for name, value in result["counters"].items():
            rows.add_row(name, f"{value:,}")
        out.print(rows)
        for name, ok in result["checks"].items():
            out.print(f"  {'agree' if ok else 'DIFFER'}: {name}")
        for line in result["differences"]:
            out.print(f"  {line}")
        out.print(f"{result['cycles']:,} cycles of pacq_gemv's clock; {result['kind']}")
    if not result["agree"]:
        raise click.exceptions.Exit(4)
