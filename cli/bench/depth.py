# SPDX-License-Identifier: Apache-2.0
"""bench depth: Prints the slowest path of every Verilog module of the designs that search picks, beside its clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meadow import boards
from meadow.cli.output import emit_json, json_option, out
from meadow.cli.progress import stages
from meadow.machine.errors import DeviceError


@click.command("depth")
@click.argument("models", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--board", "names", multiple=True, help="A board; all with UltraScale+ when none is named.")
@json_option
def depth_command(models: tuple[Path, ...], names: tuple[str, ...], as_json: bool) -> None:
    """Time the Verilog of the designs that MODELS get on each board; without MODELS, of one small shape.

    \b
    Delays are assumed (evidence/bench/depth.py); a path that passes its clock ends with code 1.  Minutes per shape.

    \b
    Example:
      meadowc bench depth models/smollm2 models/smollm2-int8 --board zcu102
    """
    import pyosys  # noqa: F401 - says what to install when it is missing

    from meadow.evidence.bench.designs import clocks, modules_of
    from meadow.evidence.bench.rtl import synthesize

    wanted = [boards.load(name) for name in names or boards.names()]
    wanted = [board for board in wanted if board.port_bits == 128 or names]
    found: list[dict[str, Any]] = []
    titles = [board.title for board in wanted]
    with stages(("designs", "modules"), as_json) as show:
        show("designs", ", ".join(titles))
        modules, refused = modules_of(models, wanted)
        for number, (name, (module, used)) in enumerate(modules.items(), 1):
            show("modules", f"{name}, {number} of {len(modules)}")
            found.append({"name": name, **synthesize(module), "clocks": clocks(used)})
    over = [(r["name"], c) for r in found for c in r["clocks"] if r["worst_ns"] > c["limit_ns"]]
    if as_json:
        emit_json(
            {
                "kind": "static timing of a netlist by Yosys, delays assumed",
                "modules": found,
                "over": len(over),
                "refused": refused,
            }
        )
    else:
        for r in found:
            for c in r["clocks"]:
                out.print(
                    f"{r['name']} on {c['board']}: {r['worst_ns']:.2f} ns of {c['limit_ns']:.2f} (typical nets {r['typical_ns']:.2f}), "
                    f"from {r['from']}",
                    highlight=False,
                )
        for line in refused:
            out.print(f"no design: {line}", highlight=False)
        for r in found:
            fastest = max(c["clock_mhz"] for c in r["clocks"])
            out.print(f"{r['name']} {r['worst_ns']:.2f} {r['levels']} {fastest}", highlight=False)
    if over:
        told = "; ".join(f"{name} passes {c['limit_ns']:.2f} ns on {c['board']}" for name, c in over)
        raise DeviceError(f"paths are longer than their clocks allow: {told}")
