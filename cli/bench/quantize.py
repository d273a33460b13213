# SPDX-License-Identifier: Apache-2.0
"""bench quantize: prints one model by many recipes of quantization, and which of them no other beats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from meadow import boards
from meadow.cli.output import emit_json, json_option, megabytes, out, shell, table
from meadow.cli.progress import stages
from meadow.cli.report.recipes import build
from meadow.compiler.quantize.calibrate import Calibration
from meadow.evidence.bench.quantize import RECIPES, front, measure, other_text
from meadow.evidence.ladder.perplexity import text_of
from meadow.machine.folder import replace_file


@click.command("quantize")
@click.argument("source", type=click.Path(path_type=Path), default=Path("models/smollm2"))
@click.option(
    "--recipes",
    default=",".join(RECIPES),
    metavar="NAME,...",
    help="WEIGHTS[-channel|-tensor|-gN][-head][-rotated][-METHOD], such as int2-g64-shift  [default: twelve of them].",
)
@click.option("--board", default="zcu102", show_default=True)
@click.option("--windows", "count", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--window-tokens", "length", type=click.IntRange(min=2), default=512, show_default=True)
@click.option(
    "--calibrate", "text", default="wikipedia", show_default=True, help="Text of the solver: wikipedia or a file."
)
@click.option("--tokens", type=click.IntRange(min=2), default=12288, show_default=True, help="Of that text.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("build/quantize"),
    show_default=True,
    help="Folder of models and packages.",
)
@json_option
def quantize_command(
    source: Path,
    recipes: str,
    board: str,
    count: int,
    length: int,
    text: str,
    tokens: int,
    seed: int,
    folder: Path,
    as_json: bool,
) -> None:
    """Quantize SOURCE by several recipes, compile each, and measure it: some minutes for each.  Rows are kept in OUTPUT/rows.json as they come;
    OUTPUT/recipes.html draws perplexity against bytes per token.

    Perplexity is the emulator's, whose bits are the board's, on Wikipedia's test split and on another text (pydoc's); KL is the float
    model's distribution from it, in nats per token; rates are modelled.

    \b
    Examples:
      meadowc bench quantize models/smollm2 --recipes int2,int2-gptq,int2-shift
      meadowc bench quantize models/smollm2 --json
    """
    names = [name for name in recipes.split(",") if name]
    texts = {"wikipedia": text_of("wikipedia"), "pydoc": other_text()}
    folder.mkdir(parents=True, exist_ok=True)
    with stages(("quantizing", "compiling", "measuring"), as_json) as show:
        calibration = Calibration(text, tokens, seed)
        rows: list[dict[str, Any]] = []
        for row in measure(source, names, boards.load(board), folder, count, length, texts, calibration, show):
            rows.append(row)
            # An hour's work is not lost with its last recipe.
            replace_file(folder / "rows.json", json.dumps(rows, indent=1) + "\n")
    best = front(rows)
    page = folder / "recipes.html"
    windows = f"Perplexity of {count} windows of {length} tokens of Wikipedia's test split, by the emulator"
    command = shell("meadowc", "bench", "quantize", source, "--recipes", ",".join(names), "--board", board)
    replace_file(page, build(source.name, rows, best, board, windows, command))
    if as_json:
        emit_json(
            {
                "source": str(source),
                "board": board,
                "windows": count,
                "window_tokens": length,
                "front": best,
                "page": str(page),
                "rows": rows,
            }
        )
        return
    _print(rows, best, board, count, length)
    out.print(f"page: {page}")


def _print(rows: list[dict[str, Any]], best: list[str], board: str, count: int, length: int) -> None:
    shown = table(
        f"{count} windows of {length} tokens (measured); decode on {board} (modelled); * no other has fewer bytes and less perplexity",
        *("recipe", "bits per weight", "bytes per token", "perplexity", "other text", "KL", "tokens/s", "seconds"),
    )
    for row in rows:
        bits, size, rate = row["bits_per_weight"], row["bytes_per_token"], row["tokens_per_s"]
        shown.add_row(
            row["recipe"] + " *" * (row["recipe"] in best),
            f"{bits:.2f}" if bits else "",
            megabytes(size) if size else "",
            f"{row['perplexity']:.2f}",
            f"{row['perplexity_out_of_domain']:.2f}",
            f"{row['kl']:.3f}",
            f"{rate:.1f}" if rate else "",
            f"{row['seconds']:.0f}",
        )
    out.print(shown)
