# SPDX-License-Identifier: Apache-2.0
"""bench lookup: Prints what drafts from the text so far gain on one board."""

from __future__ import annotations

from pathlib import Path

import click

from meadow import boards
from meadow.cli import results
from meadow.cli.output import emit_json, json_option, out, table
from meadow.cli.progress import stages
from meadow.cli.run import device_option, opened
from meadow.cli.trust import trust_option
from meadow.evidence.bench import decode
from meadow.evidence.bench.lookup import measure
from meadow.evidence.ladder.verilog import program
from meadow.machine.package.read import Package
from meadow.runtime.drafts import GAMMA, MOST


@click.command("lookup")
@click.argument("package", type=click.Path(path_type=Path), default=Path("build/smollm2-int4"))
@click.option(
    "--gamma", type=click.IntRange(1, MOST), default=GAMMA, show_default=True, help="Drafts of a run at most."
)
@click.option("-n", "--max-tokens", type=click.IntRange(min=2), default=96, show_default=True, help="Longest answer.")
@device_option
@trust_option
@json_option
def lookup_command(package: Path, gamma: int, max_tokens: int, device: str, trust: bool, as_json: bool) -> None:
    """Answer prompts that ask for summaries and for edited code with PACKAGE, with drafts from the text so far and without.

    The time of a run is counted in the simulated Verilog where an engine of the design is Verilog, else modelled.

    \b
    Example:
      meadowc bench lookup build/smollm2-int4 --gamma 3
    """
    with opened(package, device, True, trust) as session, stages(("simulating", "answering"), as_json) as show:
        made = session.package
        counted = None
        if made.design.beside is not None:
            show("simulating", f"runs of 1 to {gamma + 1} tokens")
            counted = pass_times(made, gamma + 1)
        result = measure(session, gamma, max_tokens, counted, lambda what: show("answering", what))
    results.keep(
        made,
        [
            (
                "drafts from the text so far",
                f"{result['tokens_per_pass']:.2f} tokens per run, {result['gain']:.2f} x tokens/s",
                result["kind_of_gain"],
            )
        ],
    )
    if as_json:
        emit_json(result)
        return
    rows = table(
        f"{made.name}: drafts from the text so far, at most {gamma}",
        "task",
        "tokens",
        "runs",
        "tokens per run",
        "x tokens/s",
        "same answer",
    )
    for row in [*result["rows"], {"kind": "all", **result}]:
        rows.add_row(
            row["kind"],
            str(row["tokens"]),
            str(row["passes"]),
            f"{row['tokens_per_pass']:.2f}",
            f"{row['gain']:.2f}",
            "yes" if row["same"] else "NO",
        )
    out.print(rows)
    out.print(result["kind_of_gain"])
    if result["cut"]:
        out.print(f"{result['cut']} prompts are longer than the context: only their ends were taken")
    if not result["same"]:
        raise click.exceptions.Exit(4)


def pass_times(package: Package, most: int) -> dict[int, float]:
    """Seconds of a run of 1, 2, ... `most` tokens after 512 others, as `bench decode --tokens` counts them."""
    board = boards.load(package.manifest["board"])
    program(package)
    found = {}
    for count in range(1, most + 1):
        position = min(512, package.design.context - count)
        found[count] = float(decode.measure(package, board, position, count)["seconds"])
    return found
