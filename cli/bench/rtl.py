# SPDX-License-Identifier: Apache-2.0
"""bench rtl: Prints what the Verilog costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from meadow import boards
from meadow.cli.output import emit_json, json_option, listing, out
from meadow.cli.progress import stages
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
    if as_json:
        emit_json(
            {
                "kind": "synthesized (Yosys, no place and route)",
                "modules": list(found.values()),
                "dsp_in_lut": DSP_IN_LUT,
                "reported": REPORTED,
            }
        )
    else:
        _show(list(found.values()))


def _show(found: list[dict[str, Any]]) -> None:
    board = boards.load("zcu102")
    out.print(
        listing(
            "Verilog for UltraScale+ (synthesized by Yosys; no place and route)",
            {
                "module": lambda r: r["name"],
                "LUT": lambda r: f"{r['LUT']:,}",
                "of them memory": lambda r: f"{r['LUT_as_memory']:,}",
                "FF": lambda r: f"{r['FF']:,}",
                "DSP48E2": lambda r: str(r["DSP48E2"]),
                "BRAM": lambda r: str(r["BRAM"]),
                "URAM": lambda r: str(r["URAM"]),
                "levels": lambda r: str(r["levels"]),
                "ns": lambda r: f"{r['worst_ns']:.2f} to {r['typical_ns']:.2f}",
                f"LUT of {board.title}": lambda r: f"{r['LUT'] / board.lut:.1%}",
            },
            found,
        )
    )
    out.print("levels, ns: the slowest path, with optimistic and with typical nets (assumed; meadowc bench depth)")
    compared = [r for r in found if "products" in r]
    if not compared:
        return

    def ratio(key: str) -> Callable[[dict[str, Any]], str]:
        return lambda r: f"{r[key]:.2f}" if key in r else "-"

    out.print(
        listing(
            f"one product per cycle, a DSP slice counted as {DSP_IN_LUT} LUT",
            {
                "module": lambda r: r["name"],
                "products": lambda r: str(r["products"]),
                "LUT each": lambda r: f"{r['lut_each']:.1f}",
                "DSP each": lambda r: f"{r['dsp_each']:.2f}",
                "LUT and DSP each": lambda r: f"{r['cost_each']:.1f}",
                "per LUT, x baseline": ratio("per_lut_against_baseline"),
                "per DSP, x baseline": ratio("per_dsp_against_baseline"),
            },
            compared,
        )
    )
    out.print(REPORTED)
