# SPDX-License-Identifier: Apache-2.0
"""bench boards: Prints what many boards on one server saw."""

from __future__ import annotations

from typing import Any

import click

from meadow.cli.output import emit_json, json_option, out
from meadow.cli.progress import stages


@click.command("boards")
@click.option("--target", default="onnx:models/smollm2", show_default=True, metavar="KIND:PATH", help="What verifies.")
@click.option("--boards", "count", type=click.IntRange(1, 400), default=200, show_default=True, help="At once.")
@click.option("--seconds", type=click.FloatRange(1), default=120.0, show_default=True, help="Of asking.")
@click.option(
    "--leaving",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of boards that leave answers in the middle.",
)
@json_option
def boards_command(target: str, count: int, seconds: float, leaving: float, as_json: bool) -> None:
    """Let many light boards draft for one server over real links, some of which leave in the middle of an answer.

    Every answer must be the target's own; exit code 4 where one is not, or a link breaks.

    \b
    Example:
      meadowc bench boards --boards 200 --seconds 120
    """
    from meadow.evidence.bench.boards import Load, run
    from meadow.evidence.bench.speculate import fifty

    def prompts_of(model: Any) -> list[list[int]]:
        if model.tokenizer is None:
            return [[n + 1] for n in range(10)]
        return [model.tokenizer.encode(text) for text in fifty()[:10]]

    with stages(("asking",), as_json) as show:
        found = run(target, Load(count, seconds, leaving), prompts_of, lambda what: show("asking", what))
    if as_json:
        emit_json(found)
    else:
        out.print(
            f"{found['boards']} boards, {found['seconds']:.0f} s: {found['answers']} answers, {found['wrong']} of them not the target's own; "
            f"{found['left']} left in the middle; {found['lost']} links lost"
        )
        out.print(
            f"{found['rounds']} rounds, {found['tokens_per_s']:.1f} tokens/s together; a round takes {found['p50_s']:.2f} s (median), {found['p99_s']:.2f} s (p99)"
        )
        out.print(
            f"the server's memory: {found['memory_mb_first_half']:.0f} MB at most in the first half, {found['memory_mb_second_half']:.0f} MB in the second"
        )
        for why in found["lost_why"]:
            out.print(f"lost: {why}")
        out.print(found["kind"])
    if found["wrong"] or found["lost"]:
        raise click.exceptions.Exit(4)
