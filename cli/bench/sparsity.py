# SPDX-License-Identifier: Apache-2.0
"""bench sparsity: prints what thresholds cost and how many weights they leave unneeded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from meadow import boards
from meadow.cli.bench.prune import shares_of
from meadow.cli.output import emit_json, json_option, out, table
from meadow.cli.progress import stages
from meadow.compiler.quantize.calibrate import Calibration
from meadow.compiler.sources.source import companions_of, find_source
from meadow.compiler.sparsity import SHAPES, TOKENS
from meadow.evidence.bench.sparsity import measure
from meadow.evidence.ladder.perplexity import pieces_of, text_of
from meadow.machine.errors import UsageError
from meadow.machine.folder import replace_file


@click.command("sparsity")
@click.argument("source", type=click.Path(path_type=Path), default=Path("models/smollm2"))
@click.option("--activations", "shares", default="0.25,0.4,0.5", show_default=True, metavar="SHARE,...")
@click.option("--shapes", default="auto,uniform", show_default=True, metavar="NAME,...")
@click.option("--windows", "count", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--window-tokens", "length", type=click.IntRange(min=2), default=512, show_default=True)
@click.option("--tokens", type=click.IntRange(min=2), default=TOKENS, show_default=True, help="Of calibration text.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--board",
    "name",
    default="zcu102",
    show_default=True,
    help='Compile for it and count bytes and cycles there; "" leaves that out.',
)
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path), default=Path("build/sparsity"), show_default=True
)
@json_option
def sparsity_command(
    source: Path,
    shares: str,
    shapes: str,
    count: int,
    length: int,
    tokens: int,
    seed: int,
    name: str,
    folder: Path,
    as_json: bool,
) -> None:
    """Put thresholds into SOURCE by several shares and shapes and measure what is left: some minutes for each.

    Perplexity is onnxruntime's on Wikipedia's test split; the share of the layers' weights that is not needed is counted on the same
    windows.  On a board, the models in INT8 with their weights column by column: the bytes of decoded tokens are predicted from the emulator's
    codes and counted in C++, tokens per second are counted in Verilog, beside the fastest dense model that is as good.  Rows are kept in OUTPUT/rows.json as they come.

    \b
    Examples:
      meadowc bench sparsity models/smollm2
      meadowc bench sparsity models/smollm2 --activations 0.25 --shapes uniform --json
    """
    names, wanted = [name for name in shapes.split(",") if name], shares_of("--activations", shares)
    if not names or any(name not in SHAPES for name in names):
        raise UsageError(f"--shapes {shapes!r}: {' and '.join(SHAPES)} are known")
    pieces = pieces_of(companions_of(find_source(source)).get("tokenizer.json"), text_of("wikipedia"), count, length)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    board = boards.load(name) if name else None
    with stages(("compiling", "measuring", "simulating", "sparsifying", "counting"), as_json) as show:
        for row in measure(source, wanted, names, folder, pieces, Calibration(tokens=tokens, seed=seed), show, board):
            rows.append(row)
            replace_file(folder / "rows.json", json.dumps(rows, indent=1) + "\n")
    if as_json:
        emit_json({"source": str(source), "windows": count, "window_tokens": length, "rows": rows})
        return
    shown = table(
        f"{count} windows of {length} tokens (onnxruntime, measured); weights of the layers that are not needed there (counted)",
        *("asked for", "shape", "not needed", "perplexity", "ratio"),
    )
    for row in rows:
        shown.add_row(
            f"{row['share']:.0%}" if row["share"] else "nothing",
            row["shape"],
            f"{row['weights_cut']:.1%}",
            f"{row['perplexity']:.2f}",
            f"{row['ratio']:.3f}",
        )
    out.print(shown)
    if board is not None:
        _show_board(rows, board)


def _show_board(rows: list[dict[str, Any]], board: boards.Board) -> None:
    """What the same models do in INT8 on a board."""
    shown = table(
        f"INT8 on {board.title}: bytes of decoded tokens predicted and counted (C++), tokens per second (linears simulated in Verilog, the rest modelled)",
        *(
            "asked for",
            "shape",
            "weight bytes not fetched",
            "predicted",
            "counted",
            "perplexity",
            "ratio to INT8",
            "tokens/s",
        ),
        "fastest dense that is as good",
    )
    for d in rows[0]["dense"]:
        shown.add_row(
            *("nothing", f"dense {d['weights']}", "", "", "", f"{d['perplexity']:.2f}", ""),
            f"{d['tokens_per_s']:.1f}",
            "",
        )
    for row in rows[1:]:
        best = row["dense_at_equal_perplexity"]
        shown.add_row(
            f"{row['share']:.0%}",
            row["shape"],
            f"{row['bytes_not_fetched']:.1%}",
            *(f"{row[name] / 1e6:,.1f} MB" for name in ("predicted_bytes", "counted_bytes")),
            f"{row['perplexity_int8']:.2f}",
            f"{row['perplexity_ratio']:.3f}",
            f"{row['tokens_per_s']:.1f}",
            f"{best['weights']}, {best['tokens_per_s']:.1f}" if best else "none",
        )
    out.print(shown)
