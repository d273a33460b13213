# SPDX-License-Identifier: Apache-2.0
"""bench speculate: Prints a board that drafts for a server beside the server alone and its rivals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meadow.cli.exits import numbers
from meadow.cli.output import emit_json, json_option, out, table
from meadow.cli.progress import stages
from meadow.cli.run import device_option, opened
from meadow.cli.trust import trust_option
from meadow.machine.errors import UsageError
from meadow.speculate.network import Network, parsed

PRECISE = 0.85
"""Of an exit on held-out text, where nobody says which exits are to tell."""
NETWORK = "rtt=120ms,loss=5%,reorder=5%"


@click.command("speculate")
@click.argument("package", type=click.Path(path_type=Path), default=Path("build/smollm2"))
@click.option("--target", default="onnx:models/smollm2", show_default=True, metavar="KIND:PATH", help="What verifies.")
@click.option(
    "--exits",
    default="",
    metavar="N,N,...",
    help="Layers after which it tells early [default: those that were fitted beside it, with a precision of 0.85].",
)
@click.option("--tau", type=click.FloatRange(0, 1), default=0.6, show_default=True, help="How sure an exit must be.")
@click.option("--network", default=NETWORK, show_default=True, help="Of the link; also jitter=, up=, down=.")
@click.option(
    "--draft-ms", type=click.FloatRange(0.01), default=None, help="Of a drafted token [default: 72, as published]."
)
@click.option(
    "--board", "by_board", is_flag=True, help="Take the modelled time of PACKAGE on its board for a drafted token."
)
@click.option(
    "--verify-ms", type=click.FloatRange(0.01), default=620.0, show_default=True, help="Of a round on the server."
)
@click.option(
    "--server-draft-ms",
    type=click.FloatRange(0.01),
    default=None,
    help="Of a token that the server drafts itself [default: as the board].",
)
@click.option("--gamma", type=click.IntRange(1, 16), default=4, show_default=True, help="Drafts of a round at most.")
@click.option(
    "--prompts", "count", type=click.IntRange(1, 50), default=50, show_default=True, help="Of the bundled ones."
)
@click.option("-n", "--max-tokens", type=click.IntRange(min=2), default=64, show_default=True, help="Longest answer.")
@device_option
@trust_option
@json_option
def speculate_command(
    package: Path,
    target: str,
    exits: str,
    tau: float,
    network: str,
    draft_ms: float | None,
    by_board: bool,
    verify_ms: float,
    server_draft_ms: float | None,
    gamma: int,
    count: int,
    max_tokens: int,
    device: str,
    trust: bool,
    as_json: bool,
) -> None:
    """Let PACKAGE draft for a server's model over a network that loses, reorders and breaks, and compare with the server alone.

    Real models say the tokens; the clock is a virtual one of stated times.  Every answer must be the target's own.

    \b
    Examples:
      meadowc bench speculate
      meadowc bench speculate build/smollm2-int4 --board --verify-ms 200 --network rtt=60ms,jitter=10ms,loss=1%
    """
    from meadow.evidence.bench.rounds import Draft, Judge, Times
    from meadow.evidence.bench.speculate import Setting, fifty, measure
    from meadow.runtime.drafts import pass_seconds
    from meadow.runtime.text.vocabulary import Vocabulary, require_same
    from meadow.targets.target import open_target, split

    if by_board and draft_ms is not None:
        raise UsageError("--board takes the time of PACKAGE, and --draft-ms another; drop one of them")
    link = _link(network)
    layers = numbers(exits, "--exits") if exits else _fitted(*split(target))
    with (
        opened(package, device, True, trust) as session,
        stages(("reading", "alone", "faults", "comparing"), as_json) as show,
    ):
        show("reading", target)
        model = open_target(target, layers)
        require_same(session.vocabulary, Vocabulary.of(model.tokenizer, model.vocab), session.package.name, model.name)
        draft = pass_seconds(session.package)[0] if by_board else (draft_ms or 72.0) / 1e3
        times = Times(draft, verify_ms / 1e3, draft if server_draft_ms is None else server_draft_ms / 1e3)
        prompts = (
            [session.prompt(text) for text in fifty()[:count]]
            if session.has_tokenizer
            else [[n + 1] for n in range(count)]
        )
        setting = Setting(prompts, max_tokens, gamma, link, times, session.context)
        result = measure(Draft(session), Judge(model, tau), setting, show)
        result = {"draft": session.package.name, "target": model.name, "exits": list(model.exits), **result}
        model.close()
    if as_json:
        emit_json(result)
    else:
        _show(result)
    if result["identical"] != result["streams"]:
        raise click.exceptions.Exit(4)


def _link(description: str) -> Network:
    try:
        return parsed(description)
    except ValueError as wrong:
        raise UsageError(f"--network {wrong}") from None


def _fitted(kind: str, path: Path) -> tuple[int, ...]:
    """Layers of the maps beside a model that are right often enough; none where nobody fitted them, or for a package."""
    from meadow.compiler.sources.source import find_source, read_source
    from meadow.targets.exits import load_exits

    if kind == "package":
        return ()
    file = find_source(path)
    maps = file.parent / "exits.safetensors"
    if not maps.is_file():
        return ()
    return tuple(r["layer"] for r in load_exits(maps, read_source(file)).rows if r["precision"] >= PRECISE)


def _show(r: dict[str, Any]) -> None:
    rows = table(
        f"{r['draft']} drafts for {r['target']}, {r['streams']} answers",
        "",
        "ms per token",
        "server ms per token",
        "tokens per round",
        "bytes per token",
        "kept of drafted ahead",
    )
    for row in r["rows"]:
        ahead = f"{row['kept']} of {row['drafted_ahead']}" if row.get("drafted_ahead") else ""
        rows.add_row(
            row["name"],
            f"{1e3 * row['seconds_per_token']:.0f}",
            f"{1e3 * row['server_seconds_per_token']:.0f}",
            f"{row['tokens_per_round']:.2f}" if "tokens_per_round" in row else "",
            f"{row['bytes_per_token']:.1f}" if "bytes_per_token" in row else "",
            ahead,
        )
    out.print(rows)
    f = r["faults"]
    out.print(
        f"{r['identical']} of {r['streams']} answers are the target's own on {r['network']}, with {f['restarts']} restarts of the server, and without faults "
        f"({f['sent_again']} messages said again, {f['begun'] - r['streams']} texts sent again in {f['rounds']} rounds)"
    )
    out.print(
        f"acceptance {r['acceptance']:.3f}, {r['tokens_per_round']:.2f} tokens per round; {r['latency_gain']:.1%} less time than the server alone, "
        f"drafting ahead ({r['ahead_by']}) {r['ahead_gain']:.1%} on top; published: up to {r['published']['latency_gain']:.0%} and {r['published']['ahead_gain']:.0%}"
    )
    needed = r["acceptance_for_35_percent"]
    out.print(
        f"35 % less takes an acceptance of {needed:.2f} at these times"
        if needed is not None
        else "35 % less is not possible at these times, with any acceptance"
    )
    out.print(
        f"server seconds per token {r['server_seconds_per_token']:.3f}, by the closed form {r['closed_form']:.3f}; one server serves {r['server_gain']:.2f} times "
        f"the boards that it would if it drafted itself (derived of both: 1 + drafts per round x draft / verify)"
    )
    out.print(r["kind"])
