# SPDX-License-Identifier: Apache-2.0
"""bench rtl: LUT, FF, DSP and depth of the Verilog modules for UltraScale+, by Yosys.  No place and route, so no clock."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import click

from meadow import boards
from meadow.cli.output import emit_json, json_option, out, stages, table
from meadow.compiler.errors import DeviceError
from meadow.compiler.verilog import SOURCES

DOT = ("pacq_align.v", "pacq_lane.v", "pacq_mac.v", "pacq_dot.v")
FLOATS = ("fixed_to_float.v", "float_add.v", "float_multiply.v")
BASELINE = ("float_add.v", "baseline_product.v", "baseline_mac.v", "baseline_dot.v")


@dataclass(frozen=True)
class Module:
    """A top module with its files and parameters; `products` a cycle where that is what it is for, `against` its baseline."""

    top: str
    files: tuple[str, ...]
    parameters: tuple[tuple[str, int], ...] = ()
    products: int = 0
    against: str = ""


MODULES = {
    "prefix_lane": Module("prefix_lane", ("prefix_lane.v",)),
    "prefix_unpack": Module("prefix_unpack", ("prefix_lane.v", "prefix_unpack.v")),
    "baseline_mac": Module("baseline_mac", BASELINE, (("LANES", 4),), 4),
    "pacq_mac": Module("pacq_mac", DOT, (("LANES", 4),), 4, "baseline_mac"),
    "baseline_mac_int2": Module("baseline_mac", BASELINE, (("LANES", 8), ("BITS", 2)), 8),
    "pacq_mac_int2": Module("pacq_mac", DOT, (("LANES", 8),), 8, "baseline_mac_int2"),
    "baseline_dot": Module("baseline_dot", BASELINE, (("LANES", 4),), 32),
    "pacq_dot": Module("pacq_dot", DOT, (("LANES", 4),), 32, "baseline_dot"),
    "baseline_dot_int2": Module("baseline_dot", BASELINE, (("LANES", 8), ("BITS", 2)), 64),
    "pacq_dot_int2": Module("pacq_dot", DOT, (("LANES", 8),), 64, "baseline_dot_int2"),
    "pacq_scale": Module("pacq_scale", (*FLOATS, "pacq_scale.v"), (("PORTS", 1), ("BATCHES", 64))),
    "pacq_fetch": Module("pacq_fetch", ("stream_fifo.v", "pacq_fetch.v"), (("FIFO_BEATS", 4096),)),
    "pacq_gemv": Module("pacq_gemv", SOURCES, (("PORTS", 4), ("FIFO_BEATS", 4096), ("ACTIVATION_WORDS", 16384))),
}
DSP_IN_LUT = 109
"""LUTs that a DSP slice counts as: their ratio on the ZU9EG (274,080 to 2,520)."""
REPORTED = (
    "PacQ (DAC 2025, reported): 1.99x speed against dequantization on a SIMT core, 73 % of an FP16 multiplier reused"
)
TESTS = Path(__file__).parents[2] / "tests" / "rtl"
"""Where the baseline is, in a checkout."""
LUTS_OF_RAM = {
    "RAM64M8": 8,
    "RAM32M16": 8,
    "RAM64M": 4,
    "RAM32M": 4,
    "RAM64X1S": 1,
    "RAM64X1D": 2,
    "SRL16E": 1,
    "SRLC32E": 1,
}
"""LUTs that a distributed memory takes (UG974)."""


@click.command("rtl")
@click.argument("modules", nargs=-1)
@json_option
def rtl_command(modules: tuple[str, ...], as_json: bool) -> None:
    """Synthesize the Verilog MODULES (all when none is named) with Yosys for UltraScale+; a minute or two each.

    \b
    Example:
      meadowc bench rtl pacq_dot baseline_dot
    """
    import pyosys  # noqa: F401 - says what to install when it is missing

    unknown = [m for m in modules if m not in MODULES]
    if unknown:
        raise click.UsageError(f"{', '.join(unknown)}: not known; known are {', '.join(MODULES)}")
    wanted = tuple(m for m in modules or MODULES if not m.startswith("baseline") or TESTS.is_dir())
    found: dict[str, dict[str, Any]] = {}
    with stages(wanted, as_json) as show:
        for name in wanted:
            show(name, "")
            found[name] = {"name": name, **synthesize(MODULES[name])}
    for name, row in found.items():
        compare(name, row, found)
    board = boards.load("zcu102")
    if as_json:
        emit_json({"kind": "synthesized (Yosys, no place and route)", "modules": list(found.values()), "dsp_in_lut": DSP_IN_LUT,
                   "reported": REPORTED})  # fmt: skip
        return
    rows = table("Verilog for UltraScale+ (synthesized by Yosys; no place and route)", "module", "LUT", "of them memory", "FF",
                 "DSP48E2", "BRAM", "cells deep", f"LUT of {board.title}")  # fmt: skip
    for name, r in found.items():
        rows.add_row(name, f"{r['LUT']:,}", f"{r['LUT_as_memory']:,}", f"{r['FF']:,}", str(r["DSP48E2"]), str(r["BRAM"]),
                     str(r["longest_path_cells"] or "-"), f"{r['LUT'] / board.lut:.1%}")  # fmt: skip
    out.print(rows)
    out.print(
        "cells deep: the longest path that Yosys sees; it goes through DSP slices and memories, whose registers it does not know"
    )
    compared = [r for r in found.values() if "products" in r]
    if compared:
        shown = table(f"a product a cycle, a DSP slice counted as {DSP_IN_LUT} LUT", "module", "products", "LUT each", "DSP each",
                      "LUT and DSP each", "per LUT, x baseline", "per DSP, x baseline")  # fmt: skip
        for r in compared:
            shown.add_row(r["name"], str(r["products"]), f"{r['lut_each']:.1f}", f"{r['dsp_each']:.2f}", f"{r['cost_each']:.1f}",
                          *(f"{r[k]:.2f}" if k in r else "-" for k in ("per_lut_against_baseline", "per_dsp_against_baseline")))  # fmt: skip
        out.print(shown)
        out.print(REPORTED)


def compare(name: str, row: dict[str, Any], found: dict[str, dict[str, Any]]) -> None:
    """What a product costs, and how many more a LUT gives than the baseline's."""
    module = MODULES[name]
    if not module.products:
        return
    row["products"] = module.products
    row["lut_each"], row["dsp_each"] = row["LUT"] / module.products, row["DSP48E2"] / module.products
    row["cost_each"] = row["lut_each"] + DSP_IN_LUT * row["dsp_each"]
    if module.against in found:
        other = found[module.against]
        row["per_lut_against_baseline"] = other["cost_each"] / row["cost_each"]
        row["per_dsp_against_baseline"] = other["dsp_each"] / row["dsp_each"]


def synthesize(module: Module) -> dict[str, Any]:
    """Cells of one module.  Raises DeviceError when Yosys refuses it."""
    folder, top = resources.files("meadow.rtl"), module.top
    with tempfile.TemporaryDirectory() as work:
        for name in module.files:
            source = TESTS / name if name.startswith("baseline") else folder / name
            (Path(work) / name).write_text(source.read_text())
        values = " ".join(f"-set {name} {value}" for name, value in module.parameters)
        script = (f"read_verilog -sv -DMEADOW_COUNT_DSP48E2 {' '.join(module.files)}; " + (f"chparam {values} {top}; " if values else "")
                  + f"synth_xilinx -family xcup -top {top} -flatten -noiopad -noclkbuf; "
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
