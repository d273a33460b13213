# SPDX-License-Identifier: Apache-2.0
"""verify: runs the ladder and prints what agrees."""

from __future__ import annotations

from pathlib import Path

import click

from meadow.cli import results
from meadow.cli.output import emit_json, json_option, out, table
from meadow.cli.progress import Pace
from meadow.cli.trust import require_trust, trust_option
from meadow.evidence.ladder.verify import BLOCKS, Verdict, verify
from meadow.machine.errors import UsageError
from meadow.machine.package.read import load

RUNGS = ("onnx", "graph", "emulator", "csim")
MORE_RUNGS = ("torch", "rtl")
"""Not by default: torch is the extra of that name, and the Verilog of pacq_gemv takes Verilator and a minute to build."""


@click.command("verify")
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--rungs", default=",".join(RUNGS), show_default=True, help="Which rungs to compare, separated by commas."
)
@click.option("--tokens", type=click.IntRange(min=1), default=16, show_default=True, help="New tokens for each prompt.")
@click.option(
    "--prompts",
    "file",
    type=click.Path(path_type=Path, exists=True),
    help="JSON list of {text, raw} or {ids} [default: eight].",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first prompts [default: all].")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="ONNX of rung 0 [default: your own file, which the package was compiled or quantized from].",
)
@trust_option
@json_option
def verify_command(
    package: Path,
    rungs: str,
    tokens: int,
    file: Path | None,
    limit: int | None,
    reference: Path | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Check that onnxruntime, the graph, the emulator and the C simulation of PACKAGE agree; with the rung torch also the
    transformers model that the ONNX file came from, and with the rung rtl also the Verilog of
    pacq_gemv, on whole matrices of the first, middle and last layer and the head.

    \b
    Examples:
      meadowc verify build/smollm2 --rungs onnx,graph,emulator,csim --tokens 16
      meadowc verify build/smollm2-int4 --rungs emulator,rtl --limit 1
      meadowc verify build/mine --rungs torch,onnx,graph,emulator,csim
    """
    wanted = tuple(r.strip() for r in rungs.split(",") if r.strip())
    unknown = [r for r in wanted if r not in RUNGS + MORE_RUNGS]
    if unknown or not wanted:
        raise UsageError(f"--rungs {rungs!r}: known are {', '.join(RUNGS + MORE_RUNGS)}")
    opened = load(package)
    if {"csim", "rtl"} & set(wanted):
        require_trust(opened, trust)
    with Pace("prompts", 0, as_json) as pace:

        def tell(done: int, total: int, text: str) -> None:
            pace.total = total
            pace.at(done, text)

        verdict = verify(opened, wanted, tokens, file, limit or 0, reference, tell)
    results.keep(
        opened,
        [
            (
                f"same tokens on {', '.join(wanted)}",
                f"{'yes' if verdict.same_tokens else 'NO'}, {len(verdict.prompts)} prompts",
                "measured",
            ),
            (
                "same bits from the emulator down",
                f"{'yes' if verdict.bit_exact else 'NO'}, {verdict.digests} digests",
                "measured",
            ),
        ],
    )
    if as_json:
        emit_json({**vars(verdict), "passed": not verdict.problems, "rungs": list(wanted), "blocks": list(BLOCKS)})
    else:
        _show(verdict, wanted)
    if verdict.problems:
        raise click.exceptions.Exit(4)


def _close(verdict: Verdict) -> str:
    """What is to be said of prompts whose tokens part where the reference itself is not sure."""
    gaps = [part["gap"] for row in verdict.prompts for part in row["partings"]]
    if not gaps or not verdict.same_tokens:
        return ""
    prompts = sum(bool(row["partings"]) for row in verdict.prompts)
    return f" where the reference is sure ({prompts} part where its two best tokens are within {max(gaps):.2f})"


def _show(verdict: Verdict, rungs: tuple[str, ...]) -> None:
    rungs = tuple(r for r in rungs if r in ("torch", *RUNGS))
    rows = table("the ladder", "prompt", "tokens", *rungs, "answer")
    for row in verdict.prompts:
        parts = {p["rung"]: p for p in row["partings"]}
        cells = []
        for rung in rungs:
            part = parts.get("emulator" if rung == "csim" else rung)
            cells.append(
                "reference"
                if rung == rungs[0]
                else "same"
                if part is None
                else f"parts at {part['step']} (gap {part['gap']:.2f})"
            )
        rows.add_row(
            row["prompt"][:36].replace("\n", " "),
            str(row["prompt_tokens"]),
            *cells,
            row["text"][:48].replace("\n", " "),
        )
    out.print(rows)
    out.print(
        f"bit-exact from the emulator down: {'yes' if verdict.bit_exact else 'NO'} ({verdict.digests} digests: both dataflows, "
        f"prefill lengths {', '.join(map(str, BLOCKS))})"
    )
    out.print(
        f"same tokens: {'yes' if verdict.same_tokens else 'NO'}{_close(verdict)}; flipped weight bit detected: {verdict.flipped_bit_detected}"
    )
    if verdict.rtl:
        same = sum(row["same"] for row in verdict.rtl)
        out.print(
            f"pacq_gemv in Verilog: {same} of {len(verdict.rtl)} matrices give the emulator's bits "
            f"({sum(row['cycles'] for row in verdict.rtl):,} cycles, simulated)"
        )
    if verdict.rewritten:
        out.print(verdict.rewritten["text"])
    for note in verdict.notes:
        out.print(f"note: {note}")
    for problem in verdict.problems:
        out.print(f"  {problem}")
