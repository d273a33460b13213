# SPDX-License-Identifier: Apache-2.0
"""compile: an ONNX model becomes a package, and a summary of what it will cost."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import click

from meadow.cli.output import Volume, emit_json, json_option, megabytes, out, shell, table
from meadow.cli.progress import stages
from meadow.machine.design import SETTABLE, Design
from meadow.machine.errors import MeadowError, UsageError
from meadow.machine.package.read import load
from meadow.machine.storage.coded import schemes

FRONT_SHOWN = 8
"""Designs of the front that are printed, around the one chosen; --json has all."""


def settings(values: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """--set key=value pairs.  Raises UsageError for what is not key=whole number."""
    found: dict[str, int] = {}
    problems = []
    for value in values:
        key, equals, number = (part.strip() for part in value.partition("="))
        if not equals or not number.isdigit():
            problems.append(f"--set {value!r}: KEY=N with a whole number N is expected, for example --set context=1024")
        elif key in found:
            problems.append(f"--set {key} is given twice, {found[key]} and {number}")
        else:
            found[key] = int(number)
    if problems:
        raise UsageError("; ".join(problems))
    return tuple(found.items())


@click.command("compile")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--board", required=True, help="A board's name (meadowc boards), or the path of its .toml file.")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="Package folder [default: build/NAME].")
@click.option(
    "--dataflow",
    type=click.Choice(["auto", "gemm", "tphs"]),
    default="auto",
    show_default=True,
    help="How attention runs; auto lets the cost model choose.",
)
@click.option(
    "--packing",
    type=click.Choice(schemes()),
    default="auto",
    show_default=True,
    help="How INT8 weights are stored: auto packs a matrix where that saves time on the bus; raw; prefix codes; or the published scheme, step by step.",
)
@click.option(
    "--optimize",
    type=click.Choice(["balanced", "prefill", "decode"]),
    default="balanced",
    show_default=True,
    help="The request that should take the least time: a long prompt, a long answer, or both.",
)
@click.option(
    "--quantize",
    "bits",
    type=click.Choice(["int8", "int4", "int2"]),
    help="Round the weights first, as meadowc quantize does by default, into a folder beside the package: PACKAGE-int8.",
)
@click.option("--design", default="", help="A published configuration to start from: meadow-paper.")
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=N",
    help=f"Fix a number of the design: {', '.join(SETTABLE)}.",
)
@json_option
def compile_command(
    source: Path,
    board: str,
    target: Path | None,
    dataflow: str,
    packing: str,
    optimize: str,
    bits: str | None,
    design: str,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compile SOURCE, an ONNX or GGUF file, a folder with one, or a Hugging Face folder, for a board.

    \b
    Examples:
      meadowc compile models/smollm2-int8/model.onnx --board zcu102 -o build/smollm2
      meadowc compile model.onnx --board kv260 --dataflow gemm --set context=1024
      meadowc compile SmolLM2-135M-Instruct.Q4_1.gguf --board kv260
      meadowc compile SmolLM2-135M-Instruct --board zcu102 --quantize int8
    """
    from meadow import boards
    from meadow.compiler.models import quantize
    from meadow.compiler.pipeline import STAGES, Options, compile_model
    from meadow.compiler.sources.source import find_source, name_of

    began = time.perf_counter()
    file = find_source(source)
    folder = target or Path("build") / name_of(file)
    options = Options(dataflow, packing, design, settings(sets), folder.name, optimize)
    before = _board_of(folder)
    with stages((*(["quantize"] if bits else []), *STAGES), as_json) as show:
        if bits:
            model = folder.with_name(f"{folder.name}-{bits}")
            show("quantize", f"{file}, into {model}")
            quantize(source, model, weights=bits)
            source = model
        summary = compile_model(source, boards.load(board), folder, options, show)
    seconds = time.perf_counter() - began
    if as_json:
        emit_json({"package": str(folder), "seconds": {"value": seconds, "kind": "measured"}, **summary})
    elif summary["up_to_date"]:
        out.print(f"{folder} is up to date ({seconds:.1f} s)")
    else:
        _show(folder, summary, seconds)
        if before not in ("", summary["board"]):
            out.print(f"note: {folder} was a package for {before}, which this one replaced; -o FOLDER keeps both")


def _board_of(folder: Path) -> str:
    """The board of the package that is there, or nothing."""
    with contextlib.suppress(MeadowError):
        return str(load(folder).manifest["board"])
    return ""


def _show(folder: Path, s: dict[str, Any], seconds: float) -> None:
    """What a person asks first; -v shows the rest, and the report draws it."""
    out.print(f"{folder}: {s['model']}\n  for {s['board']}, design {s['design_id']}, {seconds:.1f} s")
    if Volume.quiet:
        return
    design = Design.of(s["design"])
    for engine in design.engines:
        out.print(f"  {engine.describe(design)}")
    out.print(
        f"  {design.token_lanes} token lanes, {design.float_lanes} float lanes, blocks of {design.block}, context {design.context}, "
        f"{design.clock_mhz} MHz"
    )
    dec, pre, w = s["decode"], s["prefill"], s["weights"]
    out.print(
        f"decode: {dec['tokens_per_s']:.1f} tokens/s at context {dec['context']} (modelled), {dec['share_of_roofline']:.0%} of "
        f"the DRAM roofline of {dec['roofline_tokens_per_s']:.1f}; limited by the {dec['limit']}"
    )
    out.print(
        f"prefill: {pre['tokens_per_s']:.0f} tokens/s for a prompt of {pre['tokens']} (modelled); limited by the {pre['limit']}"
    )
    grouped = f", {w['grouped_matrices']} in groups" if w.get("grouped_matrices") else ""
    out.print(
        f"weights: {w['packed_matrices']} of {w['matrices']} packed{grouped}, {w['bits_per_weight']:.2f} bits per weight "
        f"(measured; order-0 entropy {w['entropy_bits']:.2f}), {megabytes(w['stored_bytes'])}"
    )
    shares = ", ".join(f"{kind} {used / total:.0%}" for kind, (used, total) in s["resources"].items() if total)
    memory = megabytes(sum(length for _, _, length in s["memory"]))
    out.print(f"resources: {shares} of the board (estimated); memory: {memory}")
    if Volume.verbose:
        _show_more(s)
    for note in s["notes"]:
        out.print(f"note: {note}")
    out.print(f"more: {shell('meadowc', 'report', folder)}, a page with every figure; -v prints them")
    out.print(
        f'next: {shell("meadowc", "run", folder)} -p "Hello"; for a bitstream: {shell("meadowc", "build", folder, "--dry-run")}'
    )


def _show_more(s: dict[str, Any]) -> None:
    """Why this design, and where its resources, memory and bytes go."""
    out.print(f"chosen for {s['optimize']}: {s['why']}")
    work = s["front_workload"]
    out.print(
        f"Pareto front of {len(s['front'])} designs, tokens/s for a prompt of {work['prompt']} and a token after {work['context']} (modelled):"
    )
    chosen = next(i for i, c in enumerate(s["front"]) if c["chosen"]) if any(c["chosen"] for c in s["front"]) else 0
    for c in s["front"][max(0, chosen - FRONT_SHOWN // 2) :][:FRONT_SHOWN]:
        out.print(f"  {'*' if c['chosen'] else ' '} {c['text']}")
    rows = table("resources (estimated)", "kind", "used", "of", "share", "budget")
    for kind, (used, total) in s["resources"].items():
        rows.add_row(kind, f"{used:,}", f"{total:,}", f"{used / total:.0%}", f"{s['budget'][kind]:.0%}")
    out.print(rows)
    rows = table("memory map", "chunks", "count", "bytes")
    for kind in dict.fromkeys(kind for _, kind, _ in s["memory"]):
        lengths = [n for _, k, n in s["memory"] if k == kind]
        rows.add_row(kind, str(len(lengths)), megabytes(sum(lengths)))
    out.print(rows)
    for phase in ("prefill", "decode"):
        out.print(f"{phase}: attention by {', '.join(s['dataflow'][phase]).upper()} ({s['dataflow_reason'][phase]})")
    out.print(f"greedy decoding: tokens are chosen by {s['tokens_by']}")
    rows = table("bytes per token, decode (modelled)", "role", "bytes")
    for role, n in s["decode"]["bytes_per_token"].items():
        rows.add_row(role, megabytes(n))
    out.print(rows)
