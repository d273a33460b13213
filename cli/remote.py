# SPDX-License-Identifier: Apache-2.0
"""run --target: the board drafts, a server's model verifies; the answer is the server's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meadow.cli.output import emit_json, err, options
from meadow.machine.errors import UsageError
from meadow.runtime.drafts import MOST
from meadow.runtime.session import Session
from meadow.runtime.text.sampler import Sampling
from meadow.runtime.text.stop import Stop
from meadow.runtime.text.tokenizer import Streamer

remote_options = options(
    click.option(
        "--target",
        default="",
        metavar="URL",
        help="PACKAGE only drafts; the model behind ws://HOST:PORT (meadowc serve --target) answers.",
    ),
    click.option(
        "--fallback",
        type=click.Choice(["stop", "draft"]),
        default=None,
        help="Once the server is gone: stop with an error, or go on with PACKAGE alone [default: stop].",
    ),
    click.option(
        "--key", default="", envvar="MEADOW_API_KEY", help="Key of the server [default: $MEADOW_API_KEY, or none]."
    ),
    click.option(
        "--ca",
        type=click.Path(path_type=Path),
        default=None,
        help="Certificates to trust besides the system's, PEM.",
    ),
)
"""--target, --fallback, --key, --ca."""


def check_remote(target: str, fallback: str | None, ca: Path | None, ahead: bool, draft: str) -> None:
    """Raise UsageError for options that do not go together."""
    if not target and (fallback or ca):
        raise UsageError("--fallback and --ca are of a server that verifies; name it with --target")
    if target and (ahead or draft):
        other = "--ahead" if ahead else "--draft"
        raise UsageError(
            f"--target lets PACKAGE draft for a server, and {other} is of PACKAGE's own answers; drop one of them"
        )


def answer_remotely(
    session: Session,
    prompt: list[int],
    url: str,
    fallback: str | None,
    key: str,
    ca: Path | None,
    gamma: int | None,
    limit: int,
    stop: tuple[str, ...],
    sampling: Sampling,
    as_json: bool,
) -> None:
    """Print the server's answer as it comes, and what it took."""
    from meadow.serve.address import Server
    from meadow.serve.remote import Remote

    remote = Remote(session, Server(url, key, ca, fallback or "stop"), sampling, gamma or MOST)
    try:
        streamer, stops, text, tokens = Streamer(session.tokenizer), Stop(stop), "", []
        for token in remote.answer(prompt, limit, session.tokenizer.end_tokens):
            tokens.append(token)
            piece = stops.push(streamer.push(token))
            text += piece
            if piece and not as_json:
                click.echo(piece, nl=False)
            if stops.found:
                break
        else:
            tail = stops.push(streamer.finish())
            tail += "" if stops.found else stops.finish()
            text += tail
            if not as_json:
                click.echo(tail, nl=False)
        found = figures(remote)
        if as_json:
            emit_json({"text": text, "tokens": tokens, "package": session.package.name, "target": url, **found})
            return
        click.echo()
        if remote.fell_back:
            err.print(f"the server is gone ({remote.fell_back}): {session.package.name} went on alone", style="yellow")
        err.print(line(found), style="dim")
    finally:
        remote.close()


def figures(remote: Any) -> dict[str, Any]:
    """What the last answer took, measured here."""
    assert remote.drafter is not None
    c, (sent, received) = remote.drafter.counts, remote.bytes_on_link
    return {
        "rounds": c.rounds,
        "tokens_per_round": c.tokens_per_round,
        "drafted": c.drafted,
        "accepted": c.accepted,
        "acceptance": c.acceptance,
        "drafted_ahead": c.ahead,
        "kept": c.kept,
        "early": c.early,
        "early_right": c.early_right,
        "begun": c.begun,
        "sent_again": c.sent_again,
        "bytes_sent": sent,
        "bytes_received": received,
        "fell_back": remote.fell_back,
        "draft_ms": 1e3 * remote.draft_seconds,
        "round_ms": 1e3 * remote.round_seconds,
    }


def line(f: dict[str, Any]) -> str:
    """The same for people."""
    return (
        f"[{f['rounds']} rounds, {f['tokens_per_round']:.2f} tokens each; {f['accepted']} of {f['drafted']} drafts accepted; "
        f"{f['drafted_ahead']} tokens drafted ahead, {f['kept']} of them kept; {f['bytes_sent']} bytes sent, {f['bytes_received']} received (measured here)]"
    )
