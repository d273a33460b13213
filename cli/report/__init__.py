# SPDX-License-Identifier: Apache-2.0
"""report: one self-contained page about a package, and a trace of a token's steps.

Gathers what the compiler wrote into the package; charts.py draws it and page.html.j2 says it.
"""

from __future__ import annotations

import json
from datetime import date
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import click

from meadow.cli.output import emit_json, json_option, out
from meadow.machine.errors import DeviceError, UsageError
from meadow.machine.package.read import Package, load

CONTEXTS = (16, 64, 128, 512, 1024, 2048, 4096)
TIMELINE_AT = 512
SHORT = {"attn_output": "attn_o", "ffn_gate_weight+ffn_up": "ffn_gate_up", "token_embd": "head"}


@click.command("report")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The page [default: PACKAGE/report/index.html].")
@json_option
def report_command(package: Path, output: Path | None, as_json: bool) -> None:
    """Write an HTML page about PACKAGE that needs no network, and beside it a trace for Perfetto or chrome://tracing.

    \b
    Example:
      meadowc report build/smollm2
    """
    opened = load(package)
    page = output or package / "report" / "index.html"
    if page.exists() and (page.is_dir() or not page.read_text(errors="replace").startswith("<!doctype html>")):
        raise UsageError(f"{page} is there and is no report; choose another name with -o")
    if not page.parent.is_dir():
        raise UsageError(f"{page.parent} is not a folder")
    trace = page.with_name("trace.json" if output is None else f"{page.stem}.trace.json")
    text, events = build(opened, trace.name)
    for path, content in ((page, text), (trace, json.dumps(events) + "\n")):
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(content)
        beside.replace(path)
    if as_json:
        emit_json({"page": str(page), "trace": str(trace), "bytes": len(text.encode())})
    else:
        out.print(f"{page} ({len(text.encode()) / 1000:.0f} kB, opens in any browser, fetches nothing)")
        out.print(f"{trace} (for ui.perfetto.dev or chrome://tracing)")


def build(package: Package, trace_name: str) -> tuple[str, dict[str, Any]]:
    """(the page, the trace)."""
    from jinja2 import Environment, StrictUndefined

    from meadow.cli.report import charts
    from meadow.compiler.price.run import estimate, prompt_estimate
    from meadow.compiler.price.timeline import Event, chrome_trace, timeline
    from meadow.machine.instructions.instruction import ROLES
    from meadow.toolchain.reports import beside

    summary, built = _summary(package), _built(package)
    design, bandwidth = package.design, float(summary["bandwidth_gb_s"])
    steps = {p: package.steps(p) for p in ("prefill", "decode")}
    position = min(TIMELINE_AT, design.context - 1)
    block = min(design.block, design.context)
    runs = {
        f"one token after {position}": timeline(steps["decode"], design, 1, position, bandwidth),
        f"a block of {block} tokens": timeline(steps["prefill"], design, block, 0, bandwidth),
    }
    decode, prefill = runs.values()
    packing = package.packing()
    contexts = [c for c in CONTEXTS if c < design.context]
    by_context = [estimate(steps["decode"], design, 1, c, bandwidth).bytes for c in contexts]
    traffic = summary["traffic"]
    first_token = {
        n: prompt_estimate(steps["prefill"], design, n, bandwidth).seconds
        for n in (16, 64, 128, 256, 512, 1024)
        if n < design.context
    }

    def points(run: list[Event], phase: str) -> list[tuple[str, float, float, str]]:
        found = []
        for kind, (macs, moved, time) in _kinds(run).items():
            if macs:
                found.append((kind, macs / moved, macs / time / 1e3, phase))
        return found

    peak = design.products_per_second / 1e9
    ports = design.weight_bytes_per_second / 1e9
    layer = [e for e in decode if e.layer == 0]
    roles = [r for r in ROLES if any(b[r] > sum(b.values()) / 200 for b in by_context)]
    drawn = {
        "roofline": charts.roofline(
            points(decode, "decode") + points(prefill, f"prefill of {block}"),
            peak,
            [("DRAM", bandwidth), ("weight ports", ports)],
        ),
        "bytes": charts.stacked(
            "bytes",
            "DRAM bytes of a decoded token by role",
            [str(c) for c in contexts],
            {r: [b[r] / 1e6 for b in by_context] for r in roles},
            "MB a token; rows: tokens in the cache",
        ),
        "traffic": charts.curves(
            "traffic",
            "DRAM traffic of GEMM and TPHS over prompt length",
            traffic["prompts"],
            {m.upper(): [sum(t.values()) / 1e6 for t in traffic[m]] for m in ("gemm", "tphs")},
            "prompt, tokens",
            "MB of DRAM traffic",
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
            list(runs),
            _phases(list(runs.values())),
            "share of the cycles, %",
            height=2.2,
        ),
        "packing": charts.bounds(
            "packing",
            "Bits a weight of every matrix beside its entropy",
            [r["name"] for r in packing],
            [8 * r["bytes"] / (r["rows"] * r["cols"]) for r in packing],
            [r["entropy_bits"] for r in packing],
            "bits a weight",
            [_matrix_kind(r["name"]) for r in packing],
        ),
        "resources": charts.shares(
            "resources",
            "Resources against the board",
            [(k, used / total, summary["budget"][k]) for k, (used, total) in summary["resources"].items()],
        ),
        "front": charts.front(
            [(c["prefill_tokens_per_s"], c["decode_tokens_per_s"], c["share"], c["chosen"]) for c in summary["front"]]
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
    environment = Environment(undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((resources.files("meadow.cli.report") / "page.html.j2").read_text())
    slowest = sorted(_kinds(decode).items(), key=lambda item: -item[1][2])
    total = sum(e.duration for e in decode)
    text = template.render(
        name=package.name,
        s=summary,
        design=design,
        charts=drawn,
        version=metadata.version("meadow"),
        today=date.today().isoformat(),
        trace=trace_name,
        memory=_memory(summary),
        packing=sorted(packing, key=lambda r: -r["bytes"])[:12],
        matrices=len(packing),
        position=position,
        folder=str(package.folder),
        slowest=[(k, macs, moved, time, time / total) for k, (macs, moved, time) in slowest[:10]],
        phases=sorted(((k, v[0]) for k, v in _phases(list(runs.values())).items()), key=lambda i: -i[1]),
        title=package.model.get("name") or package.name,
        recipe=_recipe(package),
        saved={
            n: 1 - sum(t.values()) / sum(g.values())
            for n, g, t in zip(traffic["prompts"], traffic["gemm"], traffic["tphs"], strict=True)
        },
        ports_gb_s=ports,
        ports_tokens=ports * 1e9 / sum(e.bytes["weights"] for e in decode),
        built=built,
        built_rows=beside(summary, built["reports"]) if built else [],
        bytes_a_token=sum(sum(e.bytes.values()) for e in decode),
        shown=_around_chosen(summary["front"]),
    )
    return text, chrome_trace(runs, design)


def _built(package: Package) -> dict[str, Any]:
    """What a build reported, or nothing."""
    path = package.folder / "overlay" / "reports.json"
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found if isinstance(found["reports"], dict) else {}
    except (ValueError, KeyError, TypeError):
        raise DeviceError(f"{path} is damaged; build again: meadowc build {package.folder} --from collect") from None


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


def _kinds(run: list[Any]) -> dict[str, tuple[int, int, float]]:
    """(MACs, bytes, microseconds) of all steps of a kind."""
    found: dict[str, tuple[int, int, float]] = {}
    for e in run:
        macs, moved, time = found.get(e.kind, (0, 0, 0.0))
        found[e.kind] = (macs + e.macs, moved + sum(e.bytes.values()), time + e.duration)
    return found


def _phases(runs: list[list[Any]]) -> dict[str, list[float]]:
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
