# SPDX-License-Identifier: Apache-2.0
"""What Vitis and Vivado report: csynth.xml, utilization, timing and power, as numbers beside our estimates.

Reads files that others wrote, of several generations; what is not there stays out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from meadow.machine.errors import UsageError
from meadow.toolchain import loops

LARGEST = 64 << 20
MOST_REPORTS = 1000
"""Modules of a design whose loops are read; the engine has about a hundred."""
KINDS = {"LUT": "LUT", "FF": "FF", "DSP": "DSP", "DSP48E": "DSP", "BRAM_18K": "BRAM36", "URAM": "URAM"}
"""By the names of csynth.xml: DSP48E until 2019, DSP since.  Two BRAM_18K are a BRAM36."""
ROWS = {
    "CLB LUTs": "LUT",
    "Slice LUTs": "LUT",
    "CLB Registers": "FF",
    "Slice Registers": "FF",
    "DSPs": "DSP",
    "DSP Slices": "DSP",
    "Block RAM Tile": "BRAM36",
    "URAM": "URAM",
}
CSYNTH = ("work/hls/hls/syn/report", "work/hls/meadow/solution1/syn/report")
"""Where the report lies: of v++ --mode hls, and of vitis_hls."""


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise UsageError(f"{path} has {path.stat().st_size} bytes, which no report has")
    return path.read_text(errors="replace")


def find_csynth(package: Path) -> Path | None:
    """csynth.xml of the engine, in either place."""
    for folder in CSYNTH:
        for name in ("meadow_engine_csynth.xml", "csynth.xml"):
            if (package / folder / name).is_file():
                return package / folder / name
    return None


def profile(path: Path) -> ElementTree.Element:
    """The root of a csynth report.  Raises UsageError for what is no such report."""
    text = _text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UsageError(f"{path} declares entities, which no report does")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UsageError(f"{path} is not whole XML ({error}): the run was interrupted") from None
    if root.tag != "profile":
        raise UsageError(f"{path} is no csynth report: it begins with <{root.tag}>")
    return root


def parse_csynth(path: Path) -> dict[str, Any]:
    """Release, clock, latency and resources of a csynth.xml.  Latencies that the tool does not know ("undef") are None.

    Raises UsageError for what is no such report.
    """
    root = profile(path)

    def number(place: str) -> float | None:
        try:
            return float((root.findtext(place) or "").strip())
        except ValueError:
            return None

    resources: dict[str, float] = {}
    available: dict[str, float] = {}
    for found, branch in ((resources, "Resources"), (available, "AvailableResources")):
        for name, kind in KINDS.items():
            value = number(f"AreaEstimates/{branch}/{name}")
            if value is not None:
                found[kind] = value / 2 if name == "BRAM_18K" else value
    latency = "PerformanceEstimates/SummaryOfOverallLatency"
    return {
        "release": root.findtext("ReportVersion/Version"),
        "part": root.findtext("UserAssignments/Part"),
        "top": root.findtext("UserAssignments/TopModelName"),
        "target_ns": number("UserAssignments/TargetClockPeriod"),
        "uncertainty_ns": number("UserAssignments/ClockUncertainty"),
        "estimated_ns": number("PerformanceEstimates/SummaryOfTimingAnalysis/EstimatedClockPeriod"),
        "latency_cycles": [number(f"{latency}/Best-caseLatency"), number(f"{latency}/Worst-caseLatency")],
        "resources": resources,
        "available": available,
    }


def parse_utilization(path: Path) -> dict[str, dict[str, float]]:
    """{"LUT": {"used": ..., "available": ...}, ...} of report_utilization, by the names in the header of each table."""
    found: dict[str, dict[str, float]] = {}
    columns: list[str] = []
    for line in _text(path).splitlines():
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "Used" in cells:
            columns = cells
            continue
        kind = ROWS.get(cells[0].rstrip("*"))
        if kind is None or kind in found or len(cells) != len(columns) or "Available" not in columns:
            continue
        used, available = (_number(cells[columns.index(name)]) for name in ("Used", "Available"))
        if used is not None and available is not None:
            found[kind] = {"used": used, "available": available}
    if "LUT" not in found:
        raise UsageError(f"{path} is no report of report_utilization: no row of LUTs is in it")
    return found


def parse_timing(path: Path) -> dict[str, float | bool | None]:
    """Worst slacks in ns of report_timing_summary: setup (and its total), hold, pulse width; and whether constraints are met, None where
    nothing was measured."""
    text = _text(path)
    start = text.find("Design Timing Summary")
    rows = re.search(r"WNS\(ns\)[^\n]*\n[-\s]+\n\s*([^\n]+)", text[max(start, 0) :])
    if start < 0:
        raise UsageError(f"{path} is no report of report_timing_summary: it has no Design Timing Summary")
    numbers = [_number(word) for word in rows[1].split()] if rows else []
    if len(numbers) != 12 or any(n is None for n in numbers):
        return {"wns_ns": None, "tns_ns": None, "whs_ns": None, "wpws_ns": None, "met": None}
    wns, tns, whs, pulse = (float(numbers[n] or 0.0) for n in (0, 1, 4, 8))
    met = min(wns, whs, pulse) >= 0 and "constraints are not met" not in text
    return {"wns_ns": wns, "tns_ns": tns, "whs_ns": whs, "wpws_ns": pulse, "met": met}


def parse_power(path: Path) -> dict[str, float]:
    """Watts and degrees of report_power."""
    text, found = _text(path), {}
    for name, label in (
        ("total_w", "Total On-Chip Power (W)"),
        ("dynamic_w", "Dynamic (W)"),
        ("static_w", "Device Static (W)"),
        ("junction_c", "Junction Temperature (C)"),
    ):
        match = re.search(rf"\|\s*{re.escape(label)}\s*\|\s*<?([\d.]+)", text)
        if match:
            found[name] = float(match[1])
    if "total_w" not in found:
        raise UsageError(f"{path} is no report of report_power: no total is in it")
    return found


def _number(text: str) -> float | None:
    try:
        return float(text.lstrip("<"))
    except ValueError:
        return None


def gather(package: Path) -> dict[str, Any]:
    """All reports that a build left in `package`, each with its kind and where it was read."""
    found: dict[str, Any] = {}
    csynth = find_csynth(package)
    if csynth is not None:
        found["csynth"] = {
            **parse_csynth(csynth),
            "kind": "reported by csynth",
            "file": csynth.relative_to(package).as_posix(),
        }
        found["loops"] = {
            "values": loops.read(sorted(csynth.parent.glob("*csynth.xml"))[:MOST_REPORTS], profile),
            "kind": "reported by csynth",
            "file": csynth.parent.relative_to(package).as_posix(),
        }
    folder = package / "work" / "vivado" / "reports"
    for name, parser in (("utilization", parse_utilization), ("timing", parse_timing), ("power", parse_power)):
        path = folder / f"{name}.rpt"
        if path.is_file():
            found[name] = {
                "values": parser(path),
                "kind": "reported after routing",
                "file": path.relative_to(package).as_posix(),
            }
    return found


def beside(summary: dict[str, Any], reports: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a resource: estimated, by csynth, after routing, and what the board has."""
    rows = []
    csynth = reports.get("csynth", {}).get("resources", {})
    routed = reports.get("utilization", {}).get("values", {})
    for kind, (used, total) in summary["resources"].items():
        rows.append(
            {
                "resource": kind,
                "estimated": used,
                "csynth": csynth.get(kind),
                "routed": routed.get(kind, {}).get("used"),
                "available": total,
            }
        )
    return rows
