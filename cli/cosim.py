# SPDX-License-Identifier: Apache-2.0
"""cosim: prints whether driver, C simulation and Verilog agree."""

from __future__ import annotations

from pathlib import Path

import click

from meadow.cli.output import emit_json, json_option, out, table
from meadow.cli.progress import stages
from meadow.cli.trust import require_trust, trust_option
from meadow.evidence.ladder.beside import require_side
from meadow.evidence.ladder.cosim import measure
from meadow.machine.package.read import load


@click.command("cosim")
@click.argument("package", type=click.Path(path_type=Path), default=Path("build/smollm2-int4"))
@click.option("--layers", type=click.IntRange(min=1), default=1, show_default=True, help="How many layers run.")
@trust_option
@json_option
def cosim_command(package: Path, layers: int, trust: bool, as_json: bool) -> None:
    """Run the first layers of PACKAGE with pacq_gemv or column_gemm in Verilog: driver, registers, streams and Verilog against each other.

    The C simulation is the sequencer, the board's driver starts it through an emulated board and reads the Verilog's own registers.

    \b
    Example:
      meadowc cosim build/smollm2-int4 --layers 2
    """
    made = load(package)
    engine = require_side(made).engine
    require_trust(made, trust)
    with stages(("building", "loading", "running"), as_json) as show:
        result = measure(made, layers, show)
    if as_json:
        emit_json(result)
    else:
        rows = table(
            f"{result['steps']} steps, {result['commands']} commands to {engine.name}", "register", "read by the driver"
        )
        for name, value in result["counters"].items():
            rows.add_row(name, f"{value:,}")
        out.print(rows)
        for name, ok in result["checks"].items():
            out.print(f"  {'agree' if ok else 'DIFFER'}: {name}")
        for line in result["differences"]:
            out.print(f"  {line}")
        out.print(f"{result['cycles']:,} cycles of {engine.name}'s clock; {result['kind']}")
    if not result["agree"]:
        raise click.exceptions.Exit(4)
