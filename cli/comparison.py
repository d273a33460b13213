# SPDX-License-Identifier: Apache-2.0
"""What Vitis and Vivado reported beside what was predicted: clock, cells, every loop, and the rates that follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from meadow.cli.output import out, table
from meadow.machine.design import Design
from meadow.machine.errors import DeviceError, UsageError
from meadow.machine.package.read import Package
from meadow.toolchain import loops
from meadow.toolchain.reports import beside, gather

NOTHING = "\N{EN DASH}"


def built(folder: Path) -> dict[str, Any]:
    """The reports that a finished build left in the package's folder, or nothing.  Raises DeviceError when they are damaged."""
    path = folder / "overlay" / "reports.json"
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found if isinstance(found["reports"], dict) else {}
    except (ValueError, KeyError, TypeError):
        raise DeviceError(f"{path} is damaged; build again: meadowc build {folder} --from collect") from None


def compare(package: Package) -> dict[str, Any]:
    """Clock, cells, loops and rates, predicted and reported.  Raises UsageError where no step of a build has left a report."""
    found = gather(package.folder) or built(package.folder).get("reports", {})
    if not found:
        raise UsageError(
            f"no report of Vitis or Vivado is in {package.folder}; make them: meadowc build {package.folder}"
        )
    try:
        return _compared(package, found)
    except (AttributeError, TypeError, KeyError, ValueError):
        raise DeviceError(
            f"the reports in {package.folder} are damaged; build again: meadowc build {package.folder} --from collect"
        ) from None


def _compared(package: Package, found: dict[str, Any]) -> dict[str, Any]:
    summary = package.figures()
    design = package.design
    reported = loop_rows(design, found)
    return {
        "design": design.id,
        "clock": _clock(design, found),
        "cells": _cells(design, summary, found),
        **reported,
        "rates": _rates(package, summary, reported["loops"]) if reported["loops"] else [],
    }


def loop_rows(design: Design, reports: dict[str, Any]) -> dict[str, Any]:
    """{"loops": a row for each, "strangers": sentences, "missing": labels} of what csynth reported."""
    try:
        values = reports.get("loops", {}).get("values", {})
        found = {str(name): loops.Found(*pair) for name, pair in values.items()}
    except (TypeError, AttributeError):
        raise DeviceError(
            "the loops of reports.json are damaged; build again: meadowc build ... --from collect"
        ) from None
    if not found:
        return {"loops": [], "strangers": [], "missing": []}
    return {
        "loops": [row._asdict() for row in loops.beside(design, found)],
        "strangers": loops.strangers(found),
        "missing": loops.missing(found),
    }


def _clock(design: Design, reports: dict[str, Any]) -> list[dict[str, Any]]:
    """Periods in ns: asked for, by csynth, and after routing by the worst slack."""
    csynth, timing = reports.get("csynth", {}), reports.get("timing", {}).get("values", {})
    period = 1e3 / design.clock_mhz
    rows = [{"what": "asked for", "ns": period, "kind": "assumed"}]
    if csynth.get("estimated_ns") is not None:
        rows.append({"what": "csynth", "ns": csynth["estimated_ns"], "kind": csynth["kind"]})
    if timing.get("wns_ns") is not None:
        rows.append({"what": "routed", "ns": period - timing["wns_ns"], "kind": reports["timing"]["kind"]})
    return rows


def _cells(design: Design, summary: dict[str, Any], reports: dict[str, Any]) -> list[dict[str, Any]]:
    """beside(), with the estimate of meadow_engine alone, which is what csynth counts: engines in Verilog are not in it."""
    verilog = [engine.resources(design) for engine in design.engines if engine.own_clock]
    rows = []
    for row in beside(summary, reports):
        alone = row["estimated"] - sum(its.get(row["resource"], 0) for its in verilog)
        against = row["routed"] if row["routed"] is not None else row["csynth"]
        estimate = row["estimated"] if row["routed"] is not None else alone
        difference = against / estimate - 1 if against is not None and estimate else None
        rows.append({**row, "engine": alone, "difference": difference})
    return rows


def _rates(package: Package, summary: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tokens per second as modelled, and with the loops as they were reported."""
    from meadow.compiler.price.run import Workload, estimate, prompt_estimate

    design, bandwidth = package.design, float(summary["bandwidth_gb_s"])
    work, chunks = Workload.of(design), len(package.chunks)
    made = []
    for what, some in (
        ("as modelled", None),
        ("with the loops of the report", loops.calibrated(design, map(_row, rows))),
    ):
        decode = estimate(package.steps("decode"), design, 1, work.position, bandwidth, chunks=chunks, loops=some)
        prefill = prompt_estimate(package.steps("prefill"), design, work.prompt, bandwidth, chunks, some)
        made.append({"what": what, "prefill": work.prompt / prefill.seconds, "decode": 1 / decode.seconds})
    return made


def _row(row: dict[str, Any]) -> loops.Row:
    return loops.Row(**row)


def show(found: dict[str, Any]) -> None:
    """Print a comparison."""
    rows = table(f"clock of design {found['design']}", "", "ns", "MHz", "kind")
    for r in found["clock"]:
        rows.add_row(r["what"], f"{r['ns']:.3f}", f"{1e3 / r['ns']:.1f}" if r["ns"] > 0 else NOTHING, r["kind"])
    out.print(rows)
    names = ("engine", "csynth", "estimated", "routed", "available")
    rows = table(
        "cells", "resource", "engine, estimated", "csynth", "all, estimated", "routed", "the board has", "difference"
    )
    for r in found["cells"]:
        more = NOTHING if r["difference"] is None else f"{r['difference']:+.0%}"
        rows.add_row(r["resource"], *(_count(r[name]) for name in names), more)
    out.print(rows)
    if not found["loops"]:
        out.print("loops: no report of csynth is here")
        return
    differ = [r for r in found["loops"] if r["difference"]]
    rows = table(
        f"loops: {len(found['loops']) - len(differ)} as predicted, {len(differ)} differ",
        "loop",
        "II",
        "reported",
        "cycles to enter it",
        "reported",
        "difference",
    )
    for r in differ:
        rows.add_row(
            r["loop"],
            str(r["interval"]),
            _count(r["found_interval"]),
            str(r["depth"]),
            _count(r["found_depth"]),
            r["difference"],
        )
    rows.columns[-1].justify = "left"
    out.print(rows)
    for text in found["strangers"]:
        out.print(text)
    if found["missing"]:
        out.print(
            f"not in the report, since this design does without them or they were dissolved: {', '.join(found['missing'])}"
        )
    rows = table("tokens per second (modelled)", "", "prefill", "decode")
    for r in found["rates"]:
        rows.add_row(r["what"], f"{r['prefill']:.0f}", f"{r['decode']:.1f}")
    out.print(rows)


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"
