# SPDX-License-Identifier: Apache-2.0
"""The engine's loops as csynth reports them, beside what machine/timing.py predicts, and a word for each difference.

Names are resolved by the last label of a flattened nest (Outer_Inner is Inner).  A loop that stands in several modules counts as
its slowest.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from meadow.machine.design import Design
from meadow.machine.timing import BUS_LATENCY, PIPELINED, Stage, options, stages

UNLABELLED = "VITIS_LOOP_"
"""How Vitis names a loop without a label: one that should have been unrolled."""


class Found(NamedTuple):
    """A loop of a report.

    interval  cycles between iterations; None where it is not pipelined
    depth     cycles of an iteration
    """

    interval: int | None
    depth: int | None


class Row(NamedTuple):
    """A loop beside its prediction; `difference` is "" where they agree."""

    loop: str
    stage: str
    interval: int
    found_interval: int | None
    depth: int
    found_depth: int | None
    difference: str


def _number(element: ElementTree.Element, *names: str) -> int | None:
    """The first of these that is a number; a range counts as its end."""
    for name in names:
        child = element.find(name)
        texts = [] if child is None else [t.strip() for t in child.itertext() if t.strip()]
        if texts and texts[-1].rpartition("~")[2].strip().isdigit():
            return int(texts[-1].rpartition("~")[2])
    return None


def in_report(root: ElementTree.Element) -> dict[str, Found]:
    """The loops of a csynth report, its modules' and those within loops too, by name."""
    found: dict[str, Found] = {}
    for summary in root.iter("SummaryOfLoopLatency"):
        for element in summary.iter():
            timed = any(element.find(name) is not None for name in ("PipelineII", "PipelineDepth", "IterationLatency"))
            if element is summary or not timed:
                continue
            name = (element.findtext("Name") or element.get("name") or element.tag).strip()
            loop = Found(_number(element, "PipelineII"), _number(element, "PipelineDepth", "IterationLatency"))
            found[name] = slower(found.get(name), loop)
    return found


def slower(one: Found | None, other: Found) -> Found:
    """The worse of two instances of a loop."""
    if one is None:
        return other
    interval = None if None in (one.interval, other.interval) else max(one.interval or 0, other.interval or 0)
    return Found(interval, max(one.depth or 0, other.depth or 0) or None)


def by_label(found: dict[str, Found]) -> tuple[dict[str, Found], list[str]]:
    """(by the label of PIPELINED, names that no table has)."""
    known: dict[str, Found] = {}
    strange = []
    for name, loop in found.items():
        label = next((part for part in (name, name.rpartition("_")[2]) if part in PIPELINED), "")
        if label:
            known[label] = slower(known.get(label), loop)
        elif loop.interval is not None or name.startswith(UNLABELLED):
            strange.append(name)
    return known, strange


def beside(design: Design, found: dict[str, Found]) -> list[Row]:
    """One row for each loop that the report has, in the order of the table."""
    known, _ = by_label(found)
    chosen = options(design)
    return [
        Row(
            label,
            loop.stage,
            loop.interval,
            known[label].interval,
            loop.depth(chosen),
            known[label].depth,
            _difference(label, known[label], loop.depth(chosen)),
        )
        for label, loop in PIPELINED.items()
        if label in known
    ]


def _difference(label: str, found: Found, depth: int) -> str:
    """In words, the weightiest first."""
    loop, said = PIPELINED[label], []
    if found.interval is None:
        said.append("not pipelined: an iteration follows the one before when that has ended")
    elif found.interval > loop.interval:
        said.append(
            f"II {found.interval} where {loop.interval} is asked for: {found.interval / loop.interval:g} times the time"
        )
    elif found.interval < loop.interval:
        said.append(f"II {found.interval} where {loop.interval} is asked for: faster than modelled")
    if found.depth is not None and loop.bus and found.depth >= BUS_LATENCY:
        said.append("no burst: each iteration makes its own request")
    elif found.depth is not None and found.depth != depth:
        more = found.depth - depth
        said.append(f"{abs(more)} cycle{'s' * (abs(more) > 1)} {'more' if more > 0 else 'less'} to enter it")
    return "; ".join(said)


def strangers(found: dict[str, Found]) -> list[str]:
    """A sentence for each loop of the report that the source does not label."""
    return [
        f"{name} is a loop without a label: what should have been unrolled was not"
        if name.startswith(UNLABELLED)
        else f"{name} is no loop of this meadow's C++"
        for name in by_label(found)[1]
    ]


def missing(found: dict[str, Found]) -> list[str]:
    """Labels that the report does not have: not part of this design, dissolved, or of a run that was not whole."""
    known, _ = by_label(found)
    return [label for label in PIPELINED if label not in known]


def calibrated(design: Design, rows: Iterable[Row]) -> dict[str, Stage]:
    """The counted loops of a design as the report has them, for the cost model: each as the slowest of what it stands for."""
    made = stages(design)
    worst: dict[str, Stage] = {}
    for row in rows:
        if not row.stage:
            continue
        interval = row.found_interval if row.found_interval is not None else row.found_depth or row.interval
        depth = (row.found_depth or row.depth) + BUS_LATENCY * PIPELINED[row.loop].bus
        had = worst.get(row.stage, Stage(0, 0))
        slowest = max(had.interval, -(-interval * made[row.stage].interval // row.interval))
        worst[row.stage] = Stage(slowest, max(had.depth, depth))
    return {**made, **worst}


def read(paths: Iterable[Path], parse: Any) -> dict[str, Found]:
    """The loops of several reports; `parse` gives the root of each."""
    found: dict[str, Found] = {}
    for path in paths:
        for name, loop in in_report(parse(path)).items():
            found[name] = slower(found.get(name), loop)
    return found
