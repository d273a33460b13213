# SPDX-License-Identifier: Apache-2.0
"""The page about a package: gathers what the compiler wrote into it; charts.py draws it and page.html.j2 says it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from meadow.cli.comparison import built, loop_rows
from meadow.cli.report import charts
from meadow.compiler.price.run import estimate, prompt_estimate
from meadow.compiler.price.timeline import Event, chrome_trace, timeline
from meadow.machine import distribution
from meadow.machine.errors import DeviceError
from meadow.machine.instructions.instruction import ROLES
from meadow.machine.package.read import Package
from meadow.machine.step import Step
from meadow.toolchain.reports import beside

CONTEXTS = (16, 64, 128, 512, 1024, 2048, 4096)
PROMPTS = (16, 64, 128, 256, 512, 1024)
TIMELINE_AT = 512
SHORT = {"attn_output": "attn_o", "ffn_gate_weight+ffn_up": "ffn_gate_up", "token_embd": "head"}


@dataclass(frozen=True)
class Facts:
    """What the page is made of: the package's own files, and the runs that the model of time gives for them.

    runs      events of each step, by a title: first one decoded token, then one block of a prefill
    position  tokens in the cache before the decoded one;  block  tokens of the prefill's block
    """

    package: Package
    summary: dict[str, Any]
    steps: dict[str, tuple[Step, ...]]
    runs: dict[str, list[Event]]
    position: int
    block: int

    @property
    def bandwidth(self) -> float:
        """Of the DRAM, GB/s."""
        return float(self.summary["bandwidth_gb_s"])

    @property
    def ports(self) -> float:
        """Of the weight ports, GB/s."""
        return self.package.design.weight_bytes_per_second / 1e9

    @property
    def decode(self) -> list[Event]:
        return next(iter(self.runs.values()))

    def first_token(self) -> dict[int, float]:
        """Seconds to the first token by prompt length."""
        design = self.package.design
        return {
            n: prompt_estimate(self.steps["prefill"], design, n, self.bandwidth).seconds
            for n in PROMPTS
            if n < design.context
        }


def gather(package: Package) -> Facts:
    """Raises DeviceError when the summary in the package is of an older meadow."""
    summary, design = _summary(package), package.design
    bandwidth = float(summary["bandwidth_gb_s"])
    steps = {p: package.steps(p) for p in ("prefill", "decode")}
    position, block = min(TIMELINE_AT, design.context - 1), min(design.block, design.context)
    runs = {
        f"one token after {position}": timeline(steps["decode"], design, 1, position, bandwidth),
        f"a block of {block} tokens": timeline(steps["prefill"], design, block, 0, bandwidth),
    }
    return Facts(package, summary, steps, runs, position, block)


def build(package: Package, trace_name: str) -> tuple[str, dict[str, Any]]:
    """(the page, the trace)."""
    facts = gather(package)
    environment = Environment(undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((resources.files("meadow.cli.report") / "page.html.j2").read_text())
    text = template.render(charts=_charts_of_time(facts) | _charts_of_bytes(facts), trace=trace_name, **_words(facts))
    return text, chrome_trace(facts.runs, package.design)


def _charts_of_time(facts: Facts) -> dict[str, str]:
    """Pictures whose axis is time, or a rate."""
    decode, prefill = facts.runs.values()
    layer = [e for e in decode if e.layer == 0]
    first_token = facts.first_token()
    return {
        "roofline": charts.roofline(
            _points(decode, "decode") + _points(prefill, f"prefill of {facts.block}"),
            facts.package.design.products_per_second / 1e9,
            [("DRAM", facts.bandwidth), ("weight ports", facts.ports)],
        ),
        "layer": charts.gantt(
            "layer",
            "Layer 0 of a decoded token",
            [(e.kind, e.start - layer[0].start, e.duration, e.limit) for e in layer],
            "microseconds from the layer's beginning",
        ),
        "token": charts.stacked(
            "token",
            "Where the time of a run goes",
            list(facts.runs),
            _phases(list(facts.runs.values())),
            "share of the cycles, %",
            height=2.2,
        ),
        "front": charts.front(
            [
                (c["prefill_tokens_per_s"], c["decode_tokens_per_s"], c["share"], c["chosen"])
                for c in facts.summary["front"]
            ]
        ),
        "first": charts.curves(
            "first",
            "Time to the first token",
            list(first_token),
            {"time to first token": list(first_token.values())},
            "prompt, tokens",
            "seconds",
        ),
    }


def _charts_of_bytes(facts: Facts) -> dict[str, str]:
    """Pictures whose axis is bytes, or a share of what the board has."""
    design, packing, traffic = facts.package.design, facts.package.packing(), facts.summary["traffic"]
    contexts = [c for c in CONTEXTS if c < design.context]
    by_context = [estimate(facts.steps["decode"], design, 1, c, facts.bandwidth).bytes for c in contexts]
    roles = [r for r in ROLES if any(b[r] > sum(b.values()) / 200 for b in by_context)]
    return {
        "bytes": charts.stacked(
            "bytes",
            "DRAM bytes of a decoded token by role",
            [str(c) for c in contexts],
            {r: [b[r] / 1e6 for b in by_context] for r in roles},
            "MB per token; rows: tokens in the cache",
        ),
        "traffic": charts.curves(
            "traffic",
            "DRAM traffic of GEMM and TPHS over prompt length",
            traffic["prompts"],
            {m.upper(): [sum(t.values()) / 1e6 for t in traffic[m]] for m in ("gemm", "tphs")},
            "prompt, tokens",
            "MB of DRAM traffic",
        ),
        "packing": charts.bounds(
            "packing",
            "Bits per weight of every matrix beside its entropy",
            [r["name"] for r in packing],
            [8 * r["bytes"] / (r["rows"] * r["cols"]) for r in packing],
            [r["entropy_bits"] for r in packing],
            "bits per weight",
            [_matrix_kind(r["name"]) for r in packing],
        ),
        "resources": charts.shares(
            "resources",
            "Resources against the board",
            [(k, used / total, facts.summary["budget"][k]) for k, (used, total) in facts.summary["resources"].items()],
        ),
    }


def _words(facts: Facts) -> dict[str, Any]:
    """What the template says around the pictures."""
    package, summary, traffic = facts.package, facts.summary, facts.summary["traffic"]
    made, packing, decode = built(package.folder), package.packing(), facts.decode
    slowest = sorted(_kinds(decode).items(), key=lambda item: -item[1][2])
    total = sum(e.duration for e in decode)
    return {
        "name": package.name,
        "s": summary,
        "design": package.design,
        "others": [e for e in package.design.engines if e.own_clock],
        "version": distribution.version(),
        "today": date.today().isoformat(),
        "memory": _memory(summary),
        "packing": sorted(packing, key=lambda r: -r["bytes"])[:12],
        "matrices": len(packing),
        "position": facts.position,
        "folder": str(package.folder),
        "slowest": [(k, macs, moved, time, time / total) for k, (macs, moved, time) in slowest[:10]],
        "phases": sorted(((k, v[0]) for k, v in _phases(list(facts.runs.values())).items()), key=lambda item: -item[1]),
        "title": package.model.get("name") or package.name,
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
    }


def _points(run: list[Event], phase: str) -> list[tuple[str, float, float, str]]:
    """(kind, MACs per byte, GMAC/s, phase) of every kind of step that multiplies."""
    return [(kind, macs / moved, macs / time / 1e3, phase) for kind, (macs, moved, time) in _kinds(run).items() if macs]


def _recipe(package: Package) -> str:
    """The command that makes the package again, from where this runs."""
    options = package.manifest["options"]
    source = (package.folder.resolve() / package.manifest["source"]["path"]).resolve()
    words = ["meadowc compile", str(source), f"--board {package.manifest['board']}", f"-o {package.folder}"]
    defaults = {"dataflow": "auto", "packing": "auto", "optimize": "balanced", "design": ""}
    words += [f"--{key} {options[key]}" for key, value in defaults.items() if options.get(key, value) != value]
    words += [f"--set {key}={value}" for key, value in options["settings"]]
    return " ".join(words)


def _summary(package: Package) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(package.file("report/summary.json").read_text())
        missing = [k for k in ("traffic", "front", "budget") if k not in found]
    except ValueError:
        missing = ["readable text"]
    if missing:
        raise DeviceError(f"{package.folder}/report/summary.json lacks {', '.join(missing)}; compile the model again")
    return found


def _kinds(run: list[Event]) -> dict[str, tuple[int, int, float]]:
    """(MACs, bytes, microseconds) of all steps of a kind."""
    found: dict[str, tuple[int, int, float]] = {}
    for e in run:
        macs, moved, time = found.get(e.kind, (0, 0, 0.0))
        found[e.kind] = (macs + e.macs, moved + sum(e.bytes.values()), time + e.duration)
    return found


def _phases(runs: list[list[Event]]) -> dict[str, list[float]]:
    """Percent of the cycles of each run by phase."""
    names = dict.fromkeys(phase for run in runs for e in run for phase in e.phases)
    totals = [sum(sum(e.phases.values()) for e in run) for run in runs]
    return {
        n: [100 * sum(e.phases.get(n, 0) for e in run) / t for run, t in zip(runs, totals, strict=True)] for n in names
    }


def _around_chosen(front: list[dict[str, Any]], count: int = 12) -> list[dict[str, Any]]:
    at = next((i for i, c in enumerate(front) if c["chosen"]), 0)
    return front[max(0, min(at - count // 2, len(front) - count)) :][:count]


def _matrix_kind(name: str) -> str:
    """What all layers have alike in a matrix's name."""
    parts = [
        p for p in name.split("#")[0].split(".") if not p.isdigit() and p not in ("blk", "weight", "model", "layers")
    ]
    return SHORT.get("_".join(parts), "_".join(parts)[:14]) or name


def _memory(summary: dict[str, Any]) -> list[tuple[str, int, int]]:
    """(kind, chunks, bytes)."""
    kinds = dict.fromkeys(kind for _, kind, _ in summary["memory"])
    return [
        (k, sum(kind == k for _, kind, _ in summary["memory"]), sum(n for _, kind, n in summary["memory"] if kind == k))
        for k in kinds
    ]
