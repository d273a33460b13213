# SPDX-License-Identifier: Apache-2.0
"""bench llm: prints pp512 and tg128 of a package, measured here and modelled for its board."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import click

from meadow.cli import results
from meadow.cli.output import emit_json, json_option, out, table
from meadow.cli.progress import stages
from meadow.cli.run import device_option, opened
from meadow.cli.trust import trust_option
from meadow.evidence.bench.llm import check, measure
from meadow.machine.errors import UsageError
from meadow.machine.package.read import load

COLUMNS = ("model", "board", "device", "test", "tokens_per_s", "stddev", "kind")
FORMATS = ("table", "md", "csv")


@click.command("llm")
@click.argument("package", type=click.Path(path_type=Path), default=Path("build/smollm2"))
@click.option(
    "-p", "--prompts", default="512", show_default=True, metavar="N,...", help="Tokens of prompts; empty: none."
)
@click.option(
    "-n", "--answers", default="128", show_default=True, metavar="N,...", help="Tokens of answers; empty: none."
)
@click.option("-r", "--repeats", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True)
@device_option
@trust_option
@json_option
def llm_command(
    package: Path, prompts: str, answers: str, repeats: int, output: str, device: str, trust: bool, as_json: bool
) -> None:
    """Time prompts (pp) and answers (tg) of PACKAGE in tokens per second, by the names that llama-bench gives them.

    Each measured row stands beside what is modelled for the board.  An emulated board says nothing of a board's speed.

    \b
    Examples:
      meadowc bench llm build/smollm2 --device csim
      meadowc bench llm build/smollm2 -p 128,512 -n 32 -o md
    """
    if as_json and output != "table":
        raise UsageError(f"--json is a format of its own; drop -o {output}")
    asked, told = _lengths(prompts), _lengths(answers)
    check(load(package).design.context, asked, told)
    names = ("warm", *(f"pp{n}" for n in asked), *(f"tg{n}" for n in told))
    with opened(package, device, as_json, trust) as session, stages(names, as_json) as show:
        rows = list(measure(session, asked, told, repeats, show))
        mine = [
            (f"{r['test']} on {r['device']}", f"{_rate(r)} tokens/s", r["kind"])
            for r in rows
            if r["kind"] != "modelled"
        ]
        results.keep(session.package, mine)
    if as_json:
        emit_json({"repeats": repeats, "rows": rows})
    else:
        _print(rows, output, repeats)


def _lengths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        raise UsageError(f"{text!r}: whole numbers with commas are expected") from None


def _print(rows: list[dict[str, Any]], output: str, repeats: int) -> None:
    if output == "csv":
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    cells = [(r["model"], r["board"], r["device"], r["test"], _rate(r), r["kind"]) for r in rows]
    heads = ("model", "board", "device", "test", "tokens/s", "kind")
    if output == "md":
        for line in (heads, ("---", "---", "---", "---", "---:", "---"), *cells):
            click.echo(f"| {' | '.join(line)} |")
        return
    shown = table(f"tokens per second, mean of {repeats}", *heads)
    for cell in cells:
        shown.add_row(*cell)
    out.print(shown)


def _rate(row: dict[str, Any]) -> str:
    return f"{row['tokens_per_s']:.1f}" + (f" ± {row['stddev']:.1f}" if row["stddev"] else "")
