# SPDX-License-Identifier: Apache-2.0
"""bench rtl: LUT, FF, DSP and depth of the Verilog modules for UltraScale+, by Yosys.  No place and route, so no clock."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import click

from meadow import boards
from meadow.cli.output import emit_json, json_option, out, stages, table
from meadow.compiler.errors import DeviceError

MODULES = {"prefix_lane": ("prefix_lane.v",), "prefix_unpack": ("prefix_lane.v", "prefix_unpack.v")}
"""Top module and its files."""
LUTS_OF_RAM = {"RAM64M8": 8, "RAM32M16": 8, "RAM64M": 4, "RAM32M": 4, "RAM64X1S": 1, "RAM64X1D": 2}
"""LUTs that a distributed memory takes (UG974)."""


@click.command("rtl")
@click.argument("modules", nargs=-1)
@json_option
def rtl_command(modules: tuple[str, ...], as_json: bool) -> None:
    """Synthesize the Verilog MODULES (all when none is named) with Yosys for UltraScale+; a minute or two each.

    \b
    Example:
      meadowc bench rtl prefix_lane
    """
    import pyosys  # noqa: F401 - says what to install when it is missing

    unknown = [m for m in modules if m not in MODULES]
    if unknown:
        raise click.UsageError(f"{', '.join(unknown)}: not known; known are {', '.join(MODULES)}")
    wanted = modules or tuple(MODULES)
    found = []
    with stages(wanted, as_json) as show:
        for name in wanted:
            show(name, "")
            found.append(synthesize(name, MODULES[name]))
    board = boards.load("zcu102")
    if as_json:
        emit_json({"kind": "synthesized (Yosys, no place and route)", "modules": found})
        return
    rows = table("Verilog for UltraScale+ (synthesized by Yosys; no place and route)",
                 "module", "LUT", "of them memory", "FF", "DSP48E2", "BRAM", f"LUT of {board.title}")  # fmt: skip
    for r in found:
        rows.add_row(r["module"], f"{r['LUT']:,}", f"{r['LUT_as_memory']:,}", f"{r['FF']:,}", str(r["DSP48E2"]),
                     str(r["BRAM"]), f"{r['LUT'] / board.lut:.1%}")  # fmt: skip
    out.print(rows)


def synthesize(top: str, files: tuple[str, ...]) -> dict[str, Any]:
    """Cells of one module.  Raises DeviceError when Yosys refuses it."""
    folder = resources.files("meadow.rtl")
    with tempfile.TemporaryDirectory() as work:
        for name in files:
            (Path(work) / name).write_text((folder / name).read_text())
        script = (f"read_verilog -sv {' '.join(files)}; synth_xilinx -family xcup -top {top} -flatten -noiopad -noclkbuf; "
                  "tee -q -o stat.json stat -json; tee -q -o depth.txt ltp -noff")  # fmt: skip
        code = f"from pyosys import libyosys as y; d = y.Design(); [y.run_pass(c.strip(), d) for c in {script!r}.split(';')]"
        done = subprocess.run([sys.executable, "-c", code], cwd=work, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
            raise DeviceError(f"Yosys refused {top}: {lines[0] if lines else done.stderr[-300:]}")
        cells = json.loads((Path(work) / "stat.json").read_text())["design"]["num_cells_by_type"]
        depth = re.search(r"\(length=(\d+)\)", (Path(work) / "depth.txt").read_text())
    memory = sum(LUTS_OF_RAM.get(kind, 0) * n for kind, n in cells.items())

    def count(prefix: str) -> int:
        return sum(n for kind, n in cells.items() if kind.startswith(prefix))

    return {"module": top, "LUT": count("LUT") + memory, "LUT_as_memory": memory, "FF": count("FD"),
            "DSP48E2": cells.get("DSP48E2", 0), "BRAM": count("RAMB"), "CARRY4": cells.get("CARRY4", 0),
            "longest_path_cells": int(depth.group(1)) if depth else None}  # fmt: skip
