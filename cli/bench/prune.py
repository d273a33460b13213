# SPDX-License-Identifier: Apache-2.0
"""bench prune: prints what heads are worth by several scores, and what a board saves without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from meadow import boards
from meadow.cli.output import emit_json, json_option, megabytes, out, table
from meadow.cli.progress import stages
from meadow.cli.prune import SCORES
from meadow.compiler.quantize.calibrate import Calibration
from meadow.compiler.sources.source import companions_of, find_source
from meadow.evidence.bench.prune import measure
from meadow.evidence.ladder.perplexity import pieces_of, text_of
from meadow.machine.errors import UsageError
from meadow.machine.folder import replace_file


@click.command("prune")
@click.argument("source", type=click.Path(path_type=Path), default=Path("models/smollm2"))
@click.option("--heads", default="0.1,0.2,0.3", show_default=True, metavar="SHARE,...", help="Of all query heads.")
@click.option(
    "--scores", default=",".join(SCORES), show_default=True, metavar="NAME,...", help="The first also with its repair."
)
@click.option("--board", default="zcu102", show_default=True, help="none: perplexity alone.")
@click.option("--windows", "count", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--window-tokens", "length", type=click.IntRange(min=2), default=512, show_default=True)
@click.option("--tokens", type=click.IntRange(min=2), default=12288, show_default=True, help="Of calibration text.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path), default=Path("build/prune"), show_default=True
)
@json_option
def prune_command(
    source: Path,
    heads: str,
    scores: str,
    board: str,
    count: int,
    length: int,
    tokens: int,
    seed: int,
    folder: Path,
    as_json: bool,
) -> None:
    """Take heads from SOURCE by several scores and measure what is left: about a minute for each.  Rows are kept in OUTPUT/rows.json as they come.

    Perplexity is onnxruntime's on Wikipedia's test split.  Bytes and loops of a token are predicted and counted in C++, of INT8 models of
    the first score; rates are modelled.

    \b
    Examples:
      meadowc bench prune models/smollm2
      meadowc bench prune models/smollm2 --heads 0.1 --scores layer-energy,random --board none --json
    """
    names, shares = [name for name in scores.split(",") if name], shares_of("--heads", heads)
    wrong = [name for name in names if name not in SCORES]
    if wrong or not names:
        raise UsageError(f"--scores {scores!r}: {', '.join(SCORES)} are known")
    texts = companions_of(find_source(source))
    pieces = pieces_of(texts.get("tokenizer.json"), text_of("wikipedia"), count, length)
    folder.mkdir(parents=True, exist_ok=True)
    some = None if board == "none" else boards.load(board)
    rows: list[dict[str, Any]] = []
    with stages(("measuring", "pruning", "compiling", "counting"), as_json) as show:
        for row in measure(source, shares, names, some, folder, pieces, Calibration(tokens=tokens, seed=seed), show):
            rows.append(row)
            replace_file(folder / "rows.json", json.dumps(rows, indent=1) + "\n")
    if as_json:
        emit_json({"source": str(source), "board": board, "windows": count, "window_tokens": length, "rows": rows})
        return
    _print(rows, board, count, length)


def shares_of(option: str, text: str) -> list[float]:
    """The numbers of an option.  Raises UsageError for what is none."""
    try:
        found = [float(part) for part in text.split(",") if part]
    except ValueError:
        found = []
    if not found:
        raise UsageError(f"{option} {text!r} are no shares such as 0.1,0.2")
    return found


def _print(rows: list[dict[str, Any]], board: str, count: int, length: int) -> None:
    shown = table(
        f"{count} windows of {length} tokens (onnxruntime, measured); bytes of a token in INT8 (C++, counted); rates on {board} (modelled)",
        *("heads", "by", "left", "KV", "perplexity", "ratio", "bytes per token", "as predicted", "decode", "prefill"),
    )
    for row in rows:
        size = row.get("counted_bytes")
        shown.add_row(
            f"{row['heads']:.0%}" if row["heads"] else "all",
            row["score"] + " with repair" * row["repaired"],
            str(row.get("query_heads", "")),
            str(row.get("kv_heads", "")),
            f"{row['perplexity']:.2f}",
            f"{row['ratio']:.3f}",
            megabytes(size) if size else "",
            ("yes" if row["equal"] else "no") if size else "",
            f"{row['decode_tokens_per_s']:.1f}" if size else "",
            f"{row['prefill_tokens_per_s']:.0f}" if size else "",
        )
    out.print(shown)
