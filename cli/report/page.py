# SPDX-License-Identifier: Apache-2.0
"""The page about a package, or about two side by side: charts.py draws, the templates say it."""

from __future__ import annotations

import json
from datetime import date
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from meadow.cli import results
from meadow.cli.comparison import built, loop_rows
from meadow.cli.report import charts, diagram
from meadow.cli.report.facts import Facts, gather, kinds, phases, work_of
from meadow.compiler.graph.calibration import sentence
from meadow.compiler.price.timeline import Event, chrome_trace
from meadow.machine import distribution
from meadow.machine.instructions.instruction import ROLES
from meadow.machine.package.read import Package
from meadow.toolchain.reports import beside


def build(package: Package, trace_name: str) -> tuple[str, dict[str, Any]]:
    """(the page, the trace)."""
    facts = gather(package)
    figures = _figures_of_time(facts) | _figures_of_bytes(facts) | _figures_of_calibration(facts)
    text = render("page.html.j2", figures, trace=trace_name, **_words(facts))
    return text, chrome_trace(facts.runs, package.design)


def render(template: str, figures: dict[str, charts.Figure], **words: Any) -> str:
    """A template with the page's style, script and chart library put in: the page asks nobody for anything."""
    environment = Environment(
        undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_source)
    )
    # "<" would let a name end the script element that the data stands in
    data = json.dumps(figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    shared = {
        "figures": data,
        "style": _source("page.css"),
        "script": _source("page.js"),
        "library": _source("plotly-basic.min.js"),
        "light": charts.variables(dark=False),
        "dark": charts.variables(dark=True),
        "version": distribution.version(),
        "today": date.today().isoformat(),
    }
    return environment.get_template(template).render(**shared, **words)


def _source(name: str) -> str:
    return (resources.files("meadow.cli.report") / name).read_text()


def _figures_of_time(facts: Facts) -> dict[str, charts.Figure]:
    """Pictures whose axis is time, or a rate."""
    decode, prefill = facts.runs.values()
    layer = [e for e in decode if e.layer == 0]
    workload, waits = facts.summary["front_workload"], facts.first_token()
    return {
        "roofline": charts.roofline(
            _points(decode, "decode") + _points(prefill, f"prefill of {facts.block}"),
            facts.package.design.products_per_second / 1e9,
            [("DRAM", facts.bandwidth), ("weight ports", facts.ports)],
        ),
        "layer": charts.gantt(
            [(e.kind, e.start - layer[0].start, e.duration, e.limit, _said(e)) for e in layer],
            "µs from the layer's beginning",
        ),
        "token": charts.stacked(list(facts.runs), phases(list(facts.runs.values())), "%"),
        "front": charts.front(
            [
                (c["prefill_tokens_per_s"], c["decode_tokens_per_s"], c["share"], c["chosen"], c["text"].strip())
                for c in facts.summary["front"]
            ]
        ),
        "first": charts.curves(list(waits), {"prefill": list(waits.values())}, "prompt, tokens", "seconds", "s"),
        "rates": charts.curves(
            facts.contexts,
            {"decode": [1 / facts.token(c).seconds for c in facts.contexts]},
            f"tokens in the cache (the tiles: {workload['context']})",
            "tokens/s",
            "tokens/s",
            log=False,
        ),
    }


def _said(event: Event) -> str:
    moved = ", ".join(f"{n / 1e3:,.1f} kB {role}" for role, n in event.bytes.items() if n)
    return f"{moved or 'nothing crosses DRAM'}; {event.macs:,} MAC"


def _figures_of_bytes(facts: Facts) -> dict[str, charts.Figure]:
    """Pictures whose axis is bytes, or a share of what the board has."""
    packing, traffic = facts.package.packing(), facts.summary["traffic"]
    by_context = [facts.token(c).bytes for c in facts.contexts]
    roles = [r for r in ROLES if any(b[r] > sum(b.values()) / 200 for b in by_context)]
    budget = facts.summary["budget"]
    return {
        "bytes": charts.stacked(
            [f"{c:,}" for c in facts.contexts],
            {r: [b[r] / 1e6 for b in by_context] for r in roles},
            "MB per token",
            "tokens in the cache",
        ),
        "traffic": charts.curves(
            traffic["prompts"],
            {m.upper(): [sum(t.values()) / 1e6 for t in traffic[m]] for m in ("gemm", "tphs")},
            "prompt, tokens",
            "MB of DRAM traffic",
            "MB",
        ),
        "packing": charts.bounds(
            [r["name"] for r in packing],
            [_bits(r) for r in packing],
            [r["entropy_bits"] for r in packing],
            "bits per weight",
            [work_of(r["role"]) for r in packing],
        ),
        "resources": charts.shares(
            [
                (kind, used / total, budget[kind], f"{used:,} of {total:,}")
                for kind, (used, total) in facts.summary["resources"].items()
            ]
        ),
    }


def _figures_of_calibration(facts: Facts) -> dict[str, charts.Figure]:
    """What the solver did, where the weights were calibrated."""
    calibration = facts.summary.get("calibration")
    if not calibration:
        return {}
    rows = calibration["errors"]
    series = {"rounded to nearest": [row[1] for row in rows], "as solved": [row[2] for row in rows]}
    names = [row[0] for row in rows]
    words = ("matrices that share an input, from the first layer on", "relative error of their outputs")
    return {"errors": charts.along(names, series, *words)}


def _bits(row: dict[str, Any]) -> float:
    """Stored bits per weight of a row of packing.json, with everything that its streams hold."""
    return float(8 * row["bytes"] / (row["rows"] * row["cols"]))


def _words(facts: Facts) -> dict[str, Any]:
    """What the template says around the pictures."""
    package, summary, traffic = facts.package, facts.summary, facts.summary["traffic"]
    made, packing, decode = built(package.folder), package.packing(), facts.decode
    slowest = sorted(kinds(decode).items(), key=lambda item: -item[1][2])
    total = sum(e.duration for e in decode)
    spent = phases(list(facts.runs.values()))
    return {
        "name": package.name,
        "s": summary,
        "design": package.design,
        "others": [e for e in package.design.engines if e.own_clock],
        "memory": memory(summary),
        "packing": [{**r, "bits": _bits(r), "share": r["entropy_bits"] / _bits(r)} for r in packing],
        "diagram": diagram.draw(package, facts.bandwidth),
        "results": results.read(package),
        "position": facts.position,
        "calibrated": sentence(summary["calibration"]) if summary.get("calibration") else "",
        "folder": str(package.folder),
        "slowest": [(k, macs, moved, time, time / total) for k, (macs, moved, time) in slowest],
        "phases": sorted(((k, v[0]) for k, v in spent.items()), key=lambda item: -item[1]),
        "title": title_of(package),
        "recipe": _recipe(package),
        "saved": {
            n: 1 - sum(t.values()) / sum(g.values())
            for n, g, t in zip(traffic["prompts"], traffic["gemm"], traffic["tphs"], strict=True)
        },
        "ports_gb_s": facts.ports,
        "ports_tokens": facts.ports * 1e9 / sum(e.bytes["weights"] for e in decode),
        "built": made,
        "built_rows": beside(summary, made["reports"]) if made else [],
        "built_loops": loop_rows(package.design, made["reports"]) if made else {},
        "bytes_a_token": sum(sum(e.bytes.values()) for e in decode),
        "shown": _around_chosen(summary["front"]),
        "parameters": sum(r["rows"] * r["cols"] for r in packing),
    }


def title_of(package: Package) -> str:
    """The package's own name, and the model's where that says more."""
    inside = str(package.model.get("name") or "")
    return package.name if not inside or inside == package.name else f"{package.name} ({inside})"


def _points(run: list[Event], phase: str) -> list[tuple[str, float, float, str]]:
    """(kind, MACs per byte, GMAC/s, phase) of every kind of step that multiplies."""
    return [(kind, macs / moved, macs / time / 1e3, phase) for kind, (macs, moved, time) in kinds(run).items() if macs]


def _recipe(package: Package) -> str:
    """The command that makes the package again, from where this runs."""
    options = package.manifest["options"]
    source = (package.folder.resolve() / package.manifest["source"]["path"]).resolve()
    words = ["meadowc compile", str(source), f"--board {package.manifest['board']}", f"-o {package.folder}"]
    defaults = {"dataflow": "auto", "packing": "auto", "optimize": "balanced", "design": ""}
    words += [f"--{key} {options[key]}" for key, value in defaults.items() if options.get(key, value) != value]
    words += [f"--set {key}={value}" for key, value in options["settings"]]
    return " ".join(words)


def _around_chosen(front: list[dict[str, Any]], count: int = 12) -> list[dict[str, Any]]:
    at = next((i for i, c in enumerate(front) if c["chosen"]), 0)
    return front[max(0, min(at - count // 2, len(front) - count)) :][:count]


def memory(summary: dict[str, Any]) -> list[tuple[str, int, int]]:
    """(kind, chunks, bytes)."""
    names = dict.fromkeys(kind for _, kind, _ in summary["memory"])
    return [
        (k, sum(kind == k for _, kind, _ in summary["memory"]), sum(n for _, kind, n in summary["memory"] if kind == k))
        for k in names
    ]
