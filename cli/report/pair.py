# SPDX-License-Identifier: Apache-2.0
"""The page that sets two packages side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meadow.cli import results
from meadow.cli.report import charts, diagram
from meadow.cli.report.facts import Facts, gather, kinds, phases
from meadow.cli.report.page import memory, render, title_of
from meadow.machine.instructions.instruction import ROLES
from meadow.machine.package.read import Package

Number = Callable[[Facts], float]


def build(first: Package, second: Package) -> str:
    """The page."""
    both = (gather(first), gather(second))
    names = _names(first, second)
    return render(
        "pair.html.j2",
        _figures(both, names),
        names=names,
        titles=[title_of(first), title_of(second)],
        facts=both,
        rows=_rows(both),
        diagrams=[diagram.draw(f.package, f.bandwidth) for f in both],
        results=[results.read(f.package) for f in both],
        folders=[str(first.folder), str(second.folder)],
    )


def _names(first: Package, second: Package) -> list[str]:
    """Two names that differ: the packages', with their boards or folders where these are needed."""
    for tell in (lambda p: p.name, lambda p: f"{p.name}, {p.design.board}", lambda p: str(p.folder)):
        if tell(first) != tell(second):
            return [tell(first), tell(second)]
    return [f"{first.folder}", f"{second.folder} (the same)"]


def _rows(both: tuple[Facts, Facts]) -> list[dict[str, Any]]:
    """Figures of both, and the second over the first."""
    figures: list[tuple[str, str, str, Number]] = [
        ("decode", "tokens/s", "modelled", lambda f: f.summary["decode"]["tokens_per_s"]),
        ("prefill", "tokens/s", "modelled", lambda f: f.summary["prefill"]["tokens_per_s"]),
        (
            "decode, share of the DRAM's ceiling",
            "%",
            "modelled",
            lambda f: 100 * f.summary["decode"]["share_of_roofline"],
        ),
        ("bytes per decoded token", "MB", "modelled", lambda f: sum(sum(e.bytes.values()) for e in f.decode) / 1e6),
        ("bits per weight", "bits", "measured", lambda f: f.summary["weights"]["bits_per_weight"]),
        ("weights", "MB", "measured", lambda f: f.summary["weights"]["stored_bytes"] / 1e6),
        ("memory", "MB", "modelled", lambda f: sum(n for _, _, n in memory(f.summary)) / 1e6),
        ("DRAM", "GB/s", "reported", lambda f: f.bandwidth),
        ("clock", "MHz", "assumed", lambda f: f.package.design.clock_mhz),
        ("token lanes", "", "chosen", lambda f: f.package.design.token_lanes),
        ("float lanes", "", "chosen", lambda f: f.package.design.float_lanes),
        ("tokens of a block", "", "chosen", lambda f: f.package.design.block),
        ("context", "tokens", "chosen", lambda f: f.package.design.context),
    ]
    used = sorted({kind for f in both for kind in f.summary["resources"]})
    for kind in used:
        figures.append((kind, "", "estimated", lambda f, k=kind: f.summary["resources"].get(k, (0, 0))[0]))  # type: ignore[misc]
    rows = []
    for what, unit, kind, number in figures:
        a, b = (float(number(f)) for f in both)
        rows.append({"what": what, "unit": unit, "kind": kind, "values": (a, b), "ratio": b / a if a else None})
    return rows


def _figures(both: tuple[Facts, Facts], names: list[str]) -> dict[str, charts.Figure]:
    steps = dict.fromkeys(kind for f in both for kind in kinds(f.decode))
    by_step = [kinds(f.decode) for f in both]
    shares: dict[str, list[float]] = {}
    for n, f in enumerate(both):
        total = sum(e.duration for e in f.decode)
        for phase, part in phases([f.decode]).items():
            shares.setdefault(phase, [0.0, 0.0])[n] = part[0] * total / 1e5
    tokens = [f.token(f.position).bytes for f in both]
    waits = [f.first_token() for f in both]
    resources = sorted({kind for f in both for kind in f.summary["resources"]})
    return {
        "time": charts.stacked(names, shares, "ms per token"),
        "bytes": charts.stacked(names, {r: [t[r] / 1e6 for t in tokens] for r in ROLES}, "MB per token"),
        "steps": charts.pairs(
            list(steps),
            {name: [s.get(k, (0, 0, 0.0))[2] for k in steps] for name, s in zip(names, by_step, strict=True)},
            "µs",
        ),
        "first": _two_curves(waits, names),
        "resources": charts.pairs(
            resources, {name: _shares(f, resources) for name, f in zip(names, both, strict=True)}, "% of the board"
        ),
    }


def _shares(facts: Facts, kinds_: list[str]) -> list[float]:
    """Percent of the board that a design is estimated to take, by kind of resource; 0 of one that the board has not."""
    found = [facts.summary["resources"].get(kind, (0, 1)) for kind in kinds_]
    return [100 * used / total for used, total in found]


def _two_curves(waits: list[dict[int, float]], names: list[str]) -> charts.Figure:
    """Seconds to the first token of both, for the prompts that both contexts hold."""
    lengths = [n for n in waits[0] if n in waits[1]]
    made = charts.curves(
        lengths,
        {name: [some[n] for n in lengths] for name, some in zip(names, waits, strict=True)},
        "prompt, tokens",
        "seconds",
        "s",
    )
    for trace, which in zip(made["data"], ("first", "second"), strict=True):
        trace["line"]["color"] = charts.color(which)
    return made
