# SPDX-License-Identifier: Apache-2.0
"""bench bus: Prints the beats of an engine in Verilog that carry weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meadow.cli import results
from meadow.cli.output import emit_json, json_option, out, table
from meadow.cli.progress import stages
from meadow.evidence.bench.bus import measure
from meadow.evidence.ladder.beside import require_side
from meadow.evidence.ladder.verilog import IDEAL, bandwidth, ddr4, jobs, program
from meadow.machine.package.read import Package, load


@click.command("bus")
@click.argument("package", type=click.Path(path_type=Path), default=Path("build/smollm2-int4"))
@click.option("--layer", type=int, default=0, show_default=True, help="Which layer's linears run, in program order.")
@json_option
def bus_command(package: Path, layer: int, as_json: bool) -> None:
    """Count the beats of the ports of pacq_gemv or column_gemm over the linears of a layer, and the head, of PACKAGE: simulated in Verilog.

    A beat is payload when it carries weights, scales or minima; nothing else is read.  `ideal` is a memory that never stalls, `ddr4`
    that of the cost model: nine tenths of the board's bandwidth, refresh counted, and 200 to 400 ns of latency.

    \b
    Example:
      meadowc bench bus build/smollm2-int4
    """
    made = load(package)
    engine = require_side(made).engine
    with stages(("activations", "building", "ideal", "ddr4"), as_json) as show:
        show("activations", "from the emulator")
        _, work = jobs(made)
        one = [j for j in work if j.layer == layer]
        if not one:
            raise click.UsageError(f"--layer {layer}: the model has none of that number")
        show("building", "Verilator")
        program(made)
        rows = []
        memories = {"ideal": IDEAL, "ddr4": ddr4(engine.clock(made.design), bandwidth(made))}
        for name, memory in memories.items():
            for what, some in ((f"layer {layer}", one), ("head", work[-1:])):
                show(name, what)
                rows.append({"memory": name, "what": what, "matrices": len(some), **measure(made, some, memory)})
    ideal = min(min(r["share_by_port"]) for r in rows if r["memory"] == "ideal")
    offered = min(r["share_of_offered"] for r in rows if r["memory"] == "ddr4")
    _note(made, ideal, offered)
    if as_json:
        emit_json(
            {
                "kind": "simulated (Verilator, the package's own Verilog)",
                "clock_mhz": engine.clock(made.design),
                "ideal": ideal,
                "ddr4": offered,
                "rows": rows,
            }
        )
    else:
        _show(rows)


def _show(rows: list[dict[str, Any]]) -> None:
    shown = table(
        "payload beats (simulated in Verilog)",
        "memory",
        "what",
        "cycles",
        "beats per port",
        "a cycle and port",
        "of the beats that the memory offers",
        "bits as the emulator",
    )
    for r in rows:
        shown.add_row(
            r["memory"],
            r["what"],
            f"{r['cycles']:,}",
            f"{r['beats'][0]:,}",
            f"{min(r['share_by_port']):.1%}",
            f"{r['share_of_offered']:.1%}",
            "yes" if r["bits_as_the_emulator"] else "NO",
        )
    out.print(shown)
    out.print("cycles are all from the first command to the last result: start and end of a run are counted too")


def _note(made: Package, ideal: float, offered: float) -> None:
    rows = [
        ("cycles of a port with a payload beat, memory that never stalls", f"{ideal:.1%}", "simulated"),
        ("the same, of what a DDR4-like memory offers", f"{offered:.1%}", "simulated"),
    ]
    results.keep(made, rows)
