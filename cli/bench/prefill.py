# SPDX-License-Identifier: Apache-2.0
"""bench prefill: Prints tokens per second of a prompt, for a model whose linears an engine in Verilog multiplies."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from meadow import boards
from meadow.cli import results
from meadow.cli.output import emit_json, json_option, out, table
from meadow.cli.progress import stages
from meadow.evidence.bench.decode import on_board
from meadow.evidence.bench.prefill import measure
from meadow.evidence.ladder.verilog import program
from meadow.machine.package.read import load


@click.command("prefill")
@click.argument("package", type=click.Path(path_type=Path), default=Path("build/smollm2-int4"))
@click.option("--board", "name", default="", help="Board, or the path of a board file [default: the package's].")
@click.option("--prompt", type=click.IntRange(min=1), default=512, show_default=True, help="Tokens.")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="ONNX to compile for another board [default: the package's source].",
)
@json_option
def prefill_command(package: Path, name: str, prompt: int, reference: Path | None, as_json: bool) -> None:
    """Tokens per second of a prompt for PACKAGE, whose linears pacq_gemv or column_gemm multiplies: a layer in the simulated Verilog, the
    rest modelled, times layers and blocks.

    \b
    Examples:
      meadowc bench prefill build/smollm2-int4 --board zcu102
      meadowc bench prefill build/columns --prompt 2048
    """
    given = load(package)
    board = boards.load(name or given.manifest["board"])
    with stages(("compiling", "building", "simulating"), as_json) as show, tempfile.TemporaryDirectory() as work:
        show("compiling", board.title)
        made = on_board(given, board, Path(work) / "package", reference)
        show("building", "Verilator")
        program(made)
        show("simulating", f"a block of a prompt of {prompt}")
        result = measure(made, board, min(prompt, made.design.context))
    if board.name == given.manifest["board"]:
        share = f"{result['tokens_per_s']:.0f} tokens/s, {result['share_of_array']:.0%} of the engine's products"
        results.keep(given, [(f"prefill of {result['prompt']}, linears in Verilog", share, "simulated and modelled")])
    if as_json:
        emit_json(result)
        return
    rows = table(
        f"a prompt of {result['prompt']} in blocks of {result['block']} on {board.title}", "part", "ms", "kind"
    )
    for part in result["parts"]:
        rows.add_row(part["part"], f"{part['seconds'] * 1e3:.2f}", part["kind"])
    out.print(rows)
    out.print(
        f"{result['tokens_per_s']:.0f} tokens/s: {result['share_of_array']:.1%} of the engine's products, {result['share_of_fabric']:.1%} of the "
        f"fabric's; {result['energy_mj_per_token']:.2f} mJ per token (modelled)"
    )
    out.print(
        f"predicted: {result['predicted_tokens_per_s']:.0f} tokens/s, {result['predicted_cycles']:,} cycles where {result['cycles']:,} are counted"
    )
    out.print(f"{result['kind']}; {result['clock_mhz']} and {result['stream_clock_mhz']} MHz")
    published = result["published"]
    out.print(
        f"published for SmolLM2-135M: {published['tokens_per_s']} tokens/s ({published['what']}; {published['kind']})"
    )
