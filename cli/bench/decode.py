# SPDX-License-Identifier: Apache-2.0
"""bench decode: Prints tokens per second of a model whose linears an engine in Verilog multiplies."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from meadow import boards
from meadow.cli import results
from meadow.cli.output import emit_json, json_option, out, table
from meadow.cli.progress import stages
from meadow.evidence.bench.decode import PUBLISHED, measure, on_board
from meadow.evidence.ladder.verilog import program
from meadow.machine.package.read import load
from meadow.runtime.drafts import MOST


def what(tokens: int) -> str:
    """Of a run."""
    return "a token" if tokens == 1 else f"a run of {tokens} tokens"


@click.command("decode")
@click.argument("package", type=click.Path(path_type=Path), default=Path("build/smollm2-int4"))
@click.option("--board", "name", default="", help="Board, or the path of a board file [default: the package's].")
@click.option("--context", type=click.IntRange(min=1), default=512, show_default=True, help="Tokens in the cache.")
@click.option(
    "--tokens",
    type=click.IntRange(1, MOST + 1),
    default=1,
    show_default=True,
    help="Tokens of the run: more than 1 as drafts are verified, all with logits.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="ONNX to compile for another board [default: the package's source].",
)
@json_option
def decode_command(package: Path, name: str, context: int, tokens: int, reference: Path | None, as_json: bool) -> None:
    """Tokens per second of PACKAGE, whose linears pacq_gemv or column_gemm multiplies: those in the simulated Verilog, the rest modelled.

    \b
    Examples:
      meadowc bench decode build/smollm2-int4 --board zcu102
      meadowc bench decode build/smollm2-int4 --tokens 4      # what verifying three drafts takes
    """
    given = load(package)
    board = boards.load(name or given.manifest["board"])
    with stages(("compiling", "building", "simulating"), as_json) as show, tempfile.TemporaryDirectory() as work:
        show("compiling", board.title)
        made = on_board(given, board, Path(work) / "package", reference)
        show("building", "Verilator")
        program(made)
        show("simulating", f"{what(tokens)} after {context}")
        result = measure(made, board, min(context, made.design.context - tokens), tokens)
    if tokens == 1 and board.name == given.manifest["board"]:
        share = f"{result['tokens_per_s']:.1f} tokens/s, {result['share_of_roofline']:.0%} of the DRAM's ceiling"
        results.keep(
            given,
            [(f"decode after {result['context']}, linears in Verilog", share, "simulated and modelled")],
        )
    if as_json:
        emit_json(result)
        return
    rows = table(f"{what(tokens)} after {result['context']} on {board.title}", "part", "ms", "kind")
    for part in result["parts"]:
        rows.add_row(part["part"], f"{part['seconds'] * 1e3:.3f}", part["kind"])
    out.print(rows)
    out.print(
        f"{result['tokens_per_s']:.1f} tokens/s, {result['share_of_roofline']:.1%} of the DRAM roofline of "
        f"{result['roofline_tokens_per_s']:.1f} ({sum(result['bytes_per_token'].values()) / 1e6:.1f} MB per token at "
        f"{board.bandwidth_gb_s} GB/s); the memory's beats used: {result['share_of_offered']:.1%}"
    )
    out.print(
        f"the compiler's price of the same run: {result['modelled_tokens_per_s']:.1f} tokens/s (modelled; search, summary and report use it)"
    )
    out.print(f"{result['kind']}; {result['clock_mhz']} and {result['stream_clock_mhz']} MHz")
    out.print(
        f"published for this model: {PUBLISHED['tokens_per_s']} tokens/s ({PUBLISHED['what']}; {PUBLISHED['kind']})"
    )
