# SPDX-License-Identifier: Apache-2.0
"""bench rtl: Prints what the Verilog costs."""

from __future__ import annotations

from typing import Any

import click

from meadow import boards
from meadow.cli.output import emit_json, json_option, out, stages, table
from meadow.evidence.bench.rtl import DSP_IN_LUT, MODULES, TESTS, compare, synthesize

REPORTED = (
    "PacQ (DAC 2025, reported): 1.99x speed against dequantization on a SIMT core, 73 % of an FP16 multiplier reused"
)


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
        emit_json(
            {
                "kind": "synthesized (Yosys, no place and route)",
                "modules": list(found.values()),
                "dsp_in_lut": DSP_IN_LUT,
                "reported": REPORTED,
            }
        )
        return
    rows = table(
        "Verilog for UltraScale+ (synthesized by Yosys; no place and route)",
        "module",
        "LUT",
        "of them memory",
        "FF",
        "DSP48E2",
        "BRAM",
        "cells deep",
        f"LUT of {board.title}",
    )
    for name, r in found.items():
        rows.add_row(
            name,
            f"{r['LUT']:,}",
            f"{r['LUT_as_memory']:,}",
            f"{r['FF']:,}",
            str(r["DSP48E2"]),
            str(r["BRAM"]),
            str(r["longest_path_cells"] or "-"),
            f"{r['LUT'] / board.lut:.1%}",
        )
    out.print(rows)
    out.print(
        "cells deep: the longest path that Yosys sees; it goes through DSP slices and memories, whose registers it does not know"
    )
    compared = [r for r in found.values() if "products" in r]
    if compared:
        shown = table(
            f"a product a cycle, a DSP slice counted as {DSP_IN_LUT} LUT",
            "module",
            "products",
            "LUT each",
            "DSP each",
            "LUT and DSP each",
            "per LUT, x baseline",
            "per DSP, x baseline",
        )
        for r in compared:
            shown.add_row(
                r["name"],
                str(r["products"]),
                f"{r['lut_each']:.1f}",
                f"{r['dsp_each']:.2f}",
                f"{r['cost_each']:.1f}",
                *(f"{r[k]:.2f}" if k in r else "-" for k in ("per_lut_against_baseline", "per_dsp_against_baseline")),
            )
        out.print(shown)
        out.print(REPORTED)
