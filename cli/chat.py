# SPDX-License-Identifier: Apache-2.0
"""chat: a conversation with a package, line by line."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from meadow.cli.drafting import lookup_option
from meadow.cli.output import emit_json, err, json_option
from meadow.cli.run import device_option, header, opened, rates, said, sampling_options
from meadow.cli.trust import trust_option
from meadow.machine.cache import cache_folder
from meadow.machine.errors import MeadowError, UsageError
from meadow.runtime.session import Session
from meadow.runtime.text.sampler import Sampling

HELP = """/help            this
/reset           forget the conversation
/system TEXT     forget it, and tell the model TEXT first; without TEXT: show what it is told
/stats           what was computed, and how fast
/save FILE       write the conversation as JSON
/exit            end; so does Ctrl-D.  Ctrl-C stops an answer"""
HISTORY_LINES = 1000


class Chat:
    """A conversation: its messages, and how the session answers.  `how` is what Session.chat takes."""

    def __init__(self, session: Session, system: str, limit: int, quiet: bool, how: dict[str, Any]):
        self.session, self.system, self.limit, self.quiet, self.how = session, system, limit, quiet, how
        self.messages = said(system)

    def turn(self, line: str) -> bool:
        """One line of the user: a command, or something to answer.  False at the end."""
        if not line:
            return True
        if line.startswith("/"):
            return self._command(*line[1:].partition(" ")[::2])
        self.messages.append({"role": "user", "content": line})
        try:
            self._answer()
        except UsageError as error:  # the context is full, for example: the conversation stands as it was
            self.messages.pop()
            err.print(f"{error}; /reset begins anew")
        return True

    def _answer(self) -> None:
        answer = self.session.chat(self.messages, self.limit, ahead=None, **self.how)
        stopped = False
        try:
            for piece in answer:
                if not self.quiet:
                    click.echo(piece, nl=False)
        except KeyboardInterrupt:
            answer.close()
            stopped = True
        if not self.quiet:
            click.echo()
            if stopped:
                err.print("[stopped]", style="dim")
            elif answer.finish_reason == "length":
                full = self.session.position >= self.session.context
                why = "the context is full; /reset begins anew" if full else "-n allows more"
                err.print(f"[cut at {len(answer.tokens)} tokens; {why}]", style="dim")
        self.messages.append({"role": "assistant", "content": answer.text})

    def _command(self, name: str, rest: str) -> bool:
        rest = rest.strip()
        if name in ("exit", "quit", "bye"):
            return False
        if name == "help":
            click.echo(HELP, err=True)
        elif name == "reset":
            self.messages = said(self.system)
            err.print("[forgotten]", style="dim")
        elif name == "system":
            if rest:
                self.system = rest
                self.messages = said(rest)
            err.print(f"[the model is told: {self.system or 'nothing'}]", style="dim")
        elif name == "stats":
            err.print(rates(self.session), style="dim")
            at = f"{self.session.position} of {self.session.context}"
            err.print(f"[{at} tokens of context; {self.session.stats.reused_tokens} not computed again]", style="dim")
        elif name == "save":
            self._save(rest)
        else:
            err.print(f"/{name} is no command; /help shows them")
        return True

    def _save(self, name: str) -> None:
        if not name:
            err.print("/save FILE: a name is missing")
            return
        file = Path(name).expanduser()
        try:
            with file.open("x") as out:  # what is there stays
                json.dump({"messages": self.messages}, out, indent=1, ensure_ascii=False)
                out.write("\n")
        except OSError as error:
            err.print(f"{file}: {error.strerror}")
        else:
            err.print(f"[{file}]", style="dim")


@click.command("chat")
@click.argument("package", type=click.Path(path_type=Path))
@device_option
@click.option("--system", default="", help="What the model is told first.")
@lookup_option
@sampling_options
@trust_option
@json_option
def chat_command(
    package: Path,
    device: str,
    system: str,
    draft: str | None,
    max_tokens: int,
    stop: tuple[str, ...],
    trust: bool,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Talk with PACKAGE, line by line; /help shows the commands, Ctrl-C stops an answer, Ctrl-D ends.

    What was said stays in the KV cache: a turn computes its own tokens alone.

    \b
    Example:
      meadowc chat build/smollm2 --temperature 0.7
    """
    Sampling(**sampling).check()
    with opened(package, device, as_json, trust) as session:
        if session.tokenizer.template is None:
            raise UsageError("this model has no chat template, so there is no chat; use meadowc run --raw")
        chat = Chat(session, system, max_tokens, as_json, {"stop": stop, "drafts": draft, **sampling})
        if not as_json:
            err.print(header(session), style="dim")
        with line_editing():
            while (line := _ask(as_json)) is not None and chat.turn(line):
                pass
        if as_json:
            emit_json({"messages": chat.messages, "device": session.device.name, "emulated": session.device.emulated})
        elif session.stats.prefill_tokens:
            err.print(rates(session), style="dim")


def _ask(quiet: bool) -> str | None:
    """The next line; None at the end.  Ctrl-C forgets the line that was being written."""
    while True:
        try:
            return input("" if quiet or not sys.stdin.isatty() else "> ").strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            click.echo("\n(Ctrl-D or /exit ends)", err=True)


@contextlib.contextmanager
def line_editing() -> Any:
    """Arrows, history and search in the line, where there is a terminal; the history is kept in the user's cache."""
    if not sys.stdin.isatty():
        yield
        return
    try:
        import readline
    except ImportError:  # a Python without it: lines are read as they come
        yield
        return
    file = cache_folder() / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, MeadowError):
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)
