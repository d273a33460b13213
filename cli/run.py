# SPDX-License-Identifier: Apache-2.0
"""run, selftest: a package on a device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import click

from meadow.cli.drafting import draft_options, drafting, rounds_line
from meadow.cli.output import emit_json, err, json_option, options, out, table
from meadow.cli.progress import upload_bar
from meadow.cli.remote import answer_remotely, check_remote, remote_options
from meadow.cli.trust import RUNS_CODE, require_trust, trust_option
from meadow.machine.errors import DeviceError, MeadowError, UsageError
from meadow.machine.instructions.next import ENDS
from meadow.machine.package.read import load
from meadow.runtime.answer import Answer
from meadow.runtime.devices.open import DEVICES
from meadow.runtime.drafts import Drafts, figures
from meadow.runtime.session import Session
from meadow.runtime.text.sampler import Sampling

device_option = click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    show_default=True,
    help="Where to run; auto is the board where there is one with its bitstream, else the emulator in numpy.",
)


sampling_options = options(
    click.option(
        "-n", "--max-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Longest answer."
    ),
    click.option("--stop", multiple=True, metavar="TEXT", help="Text at which an answer ends; it is left out."),
    click.option("--temperature", default=0.0, show_default=True, help="0: always the likeliest token."),
    click.option("--top-k", default=0, show_default=True, help="Only so many of the likeliest; 0: all tokens."),
    click.option(
        "--top-p", default=1.0, show_default=True, help="Only the likeliest that together have this probability."
    ),
    click.option(
        "--min-p",
        default=0.0,
        show_default=True,
        help="Only tokens at least this likely, as a share of the likeliest.",
    ),
    click.option(
        "--repeat-penalty", default=1.0, show_default=True, help="Above 1: turn away from the last 64 tokens."
    ),
    click.option("--seed", default=0, show_default=True, help="Of the random choice."),
)
"""How long an answer may be, where it stops, and how its tokens are chosen: max_tokens, stop, and the settings of Sampling."""


@contextmanager
def opened(package: Path, device: str, quiet: bool, trust: bool, **how: Any) -> Iterator[Session]:
    """A Session, with a bar while the weights are uploaded; `how` are its other arguments.

    trust  whether C++ that this meadow did not emit may be built and run
    """
    if device in RUNS_CODE:
        require_trust(load(package), trust)
    with upload_bar("uploading weights", quiet) as bar:
        session = Session(package, device, bar, **how)
    if not quiet:
        for note in session.notes:
            err.print(note, style="dim")
    try:
        yield session
    finally:
        session.close()


def modelled_rates(session: Session) -> dict[str, float]:
    """The board's rates as the compiler modelled them, tokens per second."""
    summary = session.package.summary()
    return {phase: float(summary[phase]["tokens_per_s"]) for phase in ("prefill", "decode") if summary}


def header(session: Session) -> str:
    """What is running where; EMULATED unless it is the board itself."""
    design = session.package.design
    mark = "EMULATED " if session.device.emulated else ""
    return f"{session.package.name} on {mark}{design.board} ({session.device.name}), context {design.context}"


def rates(session: Session) -> str:
    """The line after an answer: measured here, modelled for the board."""
    s, board = session.stats, modelled_rates(session)
    if session.device.name.startswith("replay"):
        return f"[{session.device.name}: {s.prefill_tokens} and {s.decode_tokens} tokens, whose time nobody measured]"
    here = (
        f"prefill {s.prefill_tokens} tokens {s.prefill_rate:.1f}/s, then {s.decode_tokens} tokens {s.decode_rate:.1f}/s"
    )
    if s.unpack_seconds:
        here += f"; weights unpacked in {s.unpack_seconds:.1f} s, once"
    there = (
        f"; {session.package.design.board} {board['prefill']:.0f}/s and {board['decode']:.1f}/s (modelled)"
        if board
        else ""
    )
    return f"[{here} (measured here, {session.device.name}){there}]"


@click.command("run")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("-p", "--prompt", required=True, help="The prompt; - reads standard input.")
@click.option(
    "--raw",
    is_flag=True,
    help="Plain completion: no chat template, and special tokens written in the prompt count as such.",
)
@device_option
@click.option("--record", type=click.Path(path_type=Path), help="Write every transaction with the device into a file.")
@click.option("--replay", type=click.Path(path_type=Path), help="Let a recording answer in place of a device.")
@click.option(
    "--ahead",
    is_flag=True,
    help="Start the engine once and let it go from token to token by itself: the same tokens, and no digest of their logits.",
)
@draft_options
@remote_options
@click.option("--system", default="", help="What the model is told before the prompt, by its chat template.")
@sampling_options
@trust_option
@json_option
def run_command(
    package: Path,
    prompt: str,
    raw: bool,
    device: str,
    ahead: bool,
    record: Path | None,
    replay: Path | None,
    draft: str,
    gamma: int | None,
    target: str,
    fallback: str | None,
    key: str,
    ca: Path | None,
    system: str,
    max_tokens: int,
    stop: tuple[str, ...],
    trust: bool,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Answer one prompt with PACKAGE.

    \b
    Examples:
      meadowc run build/smollm2 -p "What is the capital of France?"
      meadowc run build/smollm2 --raw -p "Once upon a time" -n 40 --device csim
      meadowc run build/smollm2 -p "Hello" --device emulated-pynq
      meadowc run build/smollm2-int4 -p "Repeat after me: one two three four." --draft lookup
    """
    _check_options(device, raw, system, ahead, draft, record, replay)
    check_remote(target, fallback, ca, ahead, draft)
    Sampling(**sampling).check()
    text = sys.stdin.read() if prompt == "-" else prompt
    with opened(package, device, as_json, trust, record=record, replay=replay) as session:
        if not as_json:
            err.print(header(session), style="dim")
            if not raw and session.tokenizer.template is None:
                err.print("this model has no chat template: plain completion", style="dim")
        if system and session.tokenizer.template is None:
            raise UsageError("--system is said by the chat template, and this model has none; put it into the prompt")
        tokens = session.tokenizer.conversation(said(system, text)) if system else session.prompt(text, raw)
        if target:
            how = Sampling(**sampling)
            answer_remotely(session, tokens, target, fallback, key, ca, gamma, max_tokens, stop, how, as_json)
            return
        if ahead:
            require_ahead(session)
        with drafting(session, draft, gamma, lambda words: err.print(words, style="yellow"), trust) as drafts:
            answer = session.answer(tokens, max_tokens, stop=stop, ahead=ahead, drafts=drafts, **sampling)
            say(answer, as_json)
        if as_json:
            emit_json(_result(session, text, answer, drafts))
        else:
            _tell(session, drafts)


def _check_options(
    device: str, raw: bool, system: str, ahead: bool, draft: str, record: Path | None, replay: Path | None
) -> None:
    """Raise UsageError for options that do not go together."""
    if record is not None and replay is not None:
        raise UsageError("--record and --replay are two runs: record one, then replay it")
    if replay is not None and device != "auto":
        raise UsageError(
            f"--replay answers in place of a device, so --device {device} would be ignored; drop one of them"
        )
    if system and raw:
        raise UsageError("--system is said by the chat template, and --raw has none; drop one of them")
    if replay is not None and draft:
        raise UsageError("--replay plays one recording, and a package that drafts is another device; drop one of them")
    if ahead and draft:
        raise UsageError(
            "--ahead lets the engine go on by itself, and the drafts of --draft are the host's to verify; drop one of them"
        )


def _tell(session: Session, drafts: Drafts | None) -> None:
    """What comes behind an answer."""
    click.echo()
    err.print(rates(session), style="dim")
    if drafts is not None:
        err.print(rounds_line(drafts), style="dim")
    if session.operations:
        err.print(operations(session), style="dim")


def require_ahead(session: Session) -> None:
    """Raise UsageError where the engine cannot go on by itself."""
    host = session.package.manifest["ahead"].get("host")
    if host:
        raise UsageError(f"--ahead: the host chooses the tokens of this model: {host}")
    if not session.device.abilities.beside:
        raise UsageError(
            f"--ahead: the {session.device.name} computes a run while the host waits, so tokens would come at the end; "
            "use --device csim, emulated-pynq or a board"
        )
    if not session.loaded.goes_ahead(session.tokenizer.end_tokens):
        raise UsageError(
            f"--ahead: this model has {len(session.tokenizer.end_tokens)} tokens that end an answer, and the engine knows {ENDS}"
        )


def said(system: str, *user: str) -> list[dict[str, str]]:
    """The messages of a conversation in which a user has spoken."""
    begin = [{"role": "system", "content": system}] if system else []
    return begin + [{"role": "user", "content": text} for text in user]


def say(answer: Answer, quiet: bool) -> None:
    """Print an answer as it comes.  What went wrong begins a line of its own."""
    try:
        for piece in answer:
            if not quiet:
                click.echo(piece, nl=False)
    except MeadowError:
        if answer.text and not quiet:
            click.echo()
        raise


def operations(session: Session) -> str:
    """What a board's driver did, counted."""
    done = ", ".join(f"{n} {name}" for name, n in sorted(session.operations.items()))
    return f"[{done}; {'no digest: the engine chose' if session.unread else f'digest {session.digest[:16]}'}]"


def _result(session: Session, prompt: str, answer: Answer, drafts: Drafts | None) -> dict[str, Any]:
    s = session.stats
    return {
        **({} if drafts is None else figures(drafts)),
        "prompt": prompt,
        "text": answer.text,
        "tokens": [token.id for token in answer.tokens],
        "finish_reason": answer.finish_reason,
        "package": session.package.name,
        "board": session.package.design.board,
        "device": session.device.name,
        "emulated": session.device.emulated,
        "digest": None if session.unread else session.digest,
        "tokens_digest": sha256(repr([token.id for token in answer.tokens]).encode()).hexdigest(),
        "starts": session.loaded.starts,
        "operations": session.operations,
        "prefill_tokens": s.prefill_tokens,
        "decode_tokens": s.decode_tokens,
        "measured": None
        if session.device.name.startswith("replay")
        else {"prefill_tokens_per_s": s.prefill_rate, "decode_tokens_per_s": s.decode_rate},
        "modelled": {f"{k}_tokens_per_s": v for k, v in modelled_rates(session).items()},
    }


@click.command("selftest")
@click.argument("package", type=click.Path(path_type=Path))
@device_option
@click.option("--inject", metavar="FAULT", default="", help="A fault for the emulated board to have: see below.")
@trust_option
@json_option
def selftest_command(package: Path, device: str, inject: str, trust: bool, as_json: bool) -> None:
    """Check a device step by step with PACKAGE: memory, weights, one layer, tokens.

    It stops at the first rung that fails, and tells the likely cause.  Faults for --device emulated-pynq: engine-hang,
    corrupted-weights, wrong-id, no-memory, stale-lines, slow-bus, narrow-port.

    \b
    Examples:
      meadowc selftest build/smollm2 --device csim
      meadowc selftest build/smollm2 --device emulated-pynq --inject stale-lines
    """
    code = 0
    rungs: list[tuple[str, bool, str]]
    try:
        with opened(package, device, as_json, trust, fault=inject, check=False) as session:
            rungs, where = session.selftest(), header(session)
            if not all(ok for _, ok, _ in rungs):
                code = 4
    except DeviceError as error:  # the first rung: it cannot be opened
        rungs, where, code = [("open", False, str(error))], f"{package} on {device}", error.exit_code
    if as_json:
        emit_json({"passed": not code, "rungs": [{"rung": n, "passed": ok, "seen": text} for n, ok, text in rungs]})
    else:
        rows = table(where, "rung", "", "seen")
        rows.columns[-1].justify = "left"
        for name, ok, text in rungs:
            rows.add_row(name, "ok" if ok else "FAILED", text)
        out.print(rows)
    if code:
        raise click.exceptions.Exit(code)
