# SPDX-License-Identifier: Apache-2.0
"""bench rtl: LUT, FF, DSP and depth of the Verilog modules for UltraScale+, by Yosys.  No place and route: depth.py has what is assumed."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from meadow.compiler.emit.verilog import ARRAY_SOURCES, COLUMN_SOURCES, SOURCES, UNPACK_SOURCES
from meadow.evidence.bench.depth import OPTIMISTIC, TYPICAL, Netlist, worst
from meadow.machine.errors import DeviceError

DOT = ("dsp_slice.v", "pacq_align.v", "pacq_lane.v", "pacq_mac.v", "pacq_dot.v")
FLOATS = ("dsp_slice.v", "fixed_to_float.v", "float_add.v", "float_multiply.v")
BASELINE = ("dsp_slice.v", "float_add.v", "baseline_product.v", "baseline_mac.v", "baseline_dot.v")


@dataclass(frozen=True)
class Module:
    """A top module with its files and parameters; `products` a cycle where that is what it is for, `against` its baseline, `texts` of
    files that are not in rtl/."""

    top: str
    files: tuple[str, ...]
    parameters: tuple[tuple[str, int], ...] = ()
    products: int = 0
    against: str = ""
    texts: dict[str, str] = field(default_factory=dict)


MODULES = {
    "prefix_lane": Module("prefix_lane", UNPACK_SOURCES),
    "prefix_unpack": Module("prefix_unpack", UNPACK_SOURCES),
    "baseline_mac": Module("baseline_mac", BASELINE, (("LANES", 4),), 4),
    "pacq_mac": Module("pacq_mac", DOT, (("LANES", 4),), 4, "baseline_mac"),
    "baseline_mac_int2": Module("baseline_mac", BASELINE, (("LANES", 8), ("BITS", 2)), 8),
    "pacq_mac_int2": Module("pacq_mac", DOT, (("LANES", 8),), 8, "baseline_mac_int2"),
    "baseline_dot": Module("baseline_dot", BASELINE, (("LANES", 4),), 32),
    "pacq_dot": Module("pacq_dot", DOT, (("LANES", 4),), 32, "baseline_dot"),
    "baseline_dot_int2": Module("baseline_dot", BASELINE, (("LANES", 8), ("BITS", 2)), 64),
    "pacq_dot_int2": Module("pacq_dot", DOT, (("LANES", 8),), 64, "baseline_dot_int2"),
    "array_int8": Module("array_grid", ARRAY_SOURCES, (("ROWS", 16), ("PAIRS", 4)), 1024),
    "array_fp16": Module("array_grid", ARRAY_SOURCES, (("ROWS", 16), ("PAIRS", 4), ("FLOATS", 1), ("HIGH", 36)), 512),
    "pacq_scale": Module("pacq_scale", (*FLOATS, "pacq_scale.v"), (("PORTS", 1), ("BATCHES", 64))),
    "stream_fetch": Module("stream_fetch", ("stream_fifo.v", "stream_fetch.v"), (("FIFO_BEATS", 4096),)),
    "column_gemm": Module("column_gemm", COLUMN_SOURCES, (("TOKENS", 4), ("FIFO_BEATS", 512)), 256),
    "pacq_gemv": Module("pacq_gemv", SOURCES, (("PORTS", 4), ("FIFO_BEATS", 4096), ("ACTIVATION_WORDS", 16384))),
}
DSP_IN_LUT = 109
"""LUTs that a DSP slice counts as: their ratio on the ZU9EG (274,080 to 2,520)."""
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
    """Cells of one module, and its slowest path.  Raises DeviceError when Yosys refuses it."""
    cells, netlist = _yosys(module)
    memory = sum(LUTS_OF_RAM.get(kind, 0) * n for kind, n in cells.items())

    def count(prefix: str) -> int:
        return sum(n for kind, n in cells.items() if kind.startswith(prefix))

    path, typical = worst(netlist, OPTIMISTIC), worst(netlist, TYPICAL)
    return {
        "module": module.top,
        "LUT": count("LUT") + memory,
        "LUT_as_memory": memory,
        "FF": count("FD"),
        "DSP48E2": cells.get("DSP48E2", 0),
        "BRAM": count("RAMB"),
        "URAM": count("URAM"),
        "CARRY4": cells.get("CARRY4", 0),
        "worst_ns": path.ns,
        "typical_ns": typical.ns,
        "levels": path.levels,
        "from": path.start,
        "to": path.end,
    }


def _yosys(module: Module) -> tuple[dict[str, int], Netlist]:
    """Cells by type, and the netlist."""
    folder, top = resources.files("meadow.rtl"), module.top
    with tempfile.TemporaryDirectory() as work:
        for name in module.files:
            source = TESTS / name if name.startswith("baseline") else folder / name
            text = module.texts[name] if name in module.texts else source.read_text()
            (Path(work) / name).write_text(text)
        values = " ".join(f"-set {name} {value}" for name, value in module.parameters)
        script = (
            f"read_verilog -sv {' '.join(module.files)}; "
            + (f"chparam {values} {top}; " if values else "")
            # Registers that are to stay copies are kept as cells: the pass that joins equal ones looks at these.
            + f"hierarchy -top {top}; proc; setattr -set keep 1 w:* a:keep %i %ci1; "
            + "synth_xilinx -family xcup -flatten -noiopad -noclkbuf -uram; "
            "tee -q -o stat.json stat -json; write_json netlist.json"
        )
        code = f"from pyosys import libyosys as y; d = y.Design(); [y.run_pass(c.strip(), d) for c in {script!r}.split(';')]"
        done = subprocess.run([sys.executable, "-c", code], cwd=work, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
            raise DeviceError(f"Yosys refused {top}: {lines[0] if lines else done.stderr[-300:]}")
        cells = json.loads((Path(work) / "stat.json").read_text())["design"]["num_cells_by_type"]
        made = json.loads((Path(work) / "netlist.json").read_text())["modules"].values()
    return cells, Netlist.of(next(m for m in made if "top" in m["attributes"]))
