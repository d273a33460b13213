# SPDX-License-Identifier: Apache-2.0
"""chat and run as they are typed: commands, line editing, Ctrl-C, and settings that are refused before anything is loaded."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from meadow.runtime import Session


def typed(
    meadowc: Any, monkeypatch: pytest.MonkeyPatch, package: Path, *lines: str, options: tuple[Any, ...] = ()
) -> Any:
    left = iter(lines)

    def answer(prompt: str = "") -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    return meadowc("chat", package, "-n", 4, *options)


def test_chat_answers_line_by_line_and_ends_with_the_input(
    meadowc: Any, talkative: Path, tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = meadowc("chat", tiny_package)
    assert refused.code == 2 and "no chat template" in refused.err
    found = typed(meadowc, monkeypatch, talkative, "s", "", "t", options=("--json",)).json
    assert [m["role"] for m in found["messages"]] == ["user", "assistant"] * 2  # an empty line is none


def test_commands_do_what_help_says(
    meadowc: Any, talkative: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "talk.json"
    lines = (
        "s",
        "/help",
        "/stats",
        f"/save {file}",
        f"/save {file}",
        "/system be kind",
        "/reset",
        "t",
        "/nope",
        "/exit",
        "u",
    )
    done = typed(meadowc, monkeypatch, talkative, *lines)
    for said in (
        "/save FILE",
        "of 128 tokens of context",
        "[forgotten]",
        "be kind",
        "/nope is no command",
        "cut at 4 tokens",
    ):
        assert said in done.err
    assert "File exists" in done.err and len(json.loads(file.read_text())["messages"]) == 2
    told = typed(meadowc, monkeypatch, talkative, "s", "/system be kind", "t", options=("--json",)).json
    assert [m["role"] for m in told["messages"]] == ["system", "user", "assistant"]


def test_a_full_context_is_said_and_the_conversation_stands(
    meadowc: Any, talkative: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = typed(meadowc, monkeypatch, talkative, "s", "w " * 200, "t", options=("--json",))
    assert [m["content"] for m in done.json["messages"] if m["role"] == "user"] == ["s", "t"]
    assert "/reset begins anew" in done.err


def test_run_takes_a_system_prompt_and_stops_at_a_text(meadowc: Any, talkative: Path, tiny_package: Path) -> None:
    whole = meadowc("run", talkative, "-p", "s", "-n", 8, "--json").json
    told = meadowc("run", talkative, "-p", "s", "-n", 8, "--system", "be kind", "--json").json
    assert told["prefill_tokens"] > whole["prefill_tokens"] and len(whole["tokens"]) == 8
    assert whole["finish_reason"] == "length"
    stopped = meadowc("run", talkative, "-p", "s", "-n", 8, "--stop", whole["text"][2:4], "--json").json
    assert stopped["text"] == whole["text"][: whole["text"].find(whole["text"][2:4])]
    for options, said in (
        (("--temperature", "-1", "--min-p", "2"), "min_p is 2.0; it is from 0 to 1"),
        (("--system", "x", "--raw"), "--raw has none"),
    ):
        refused = meadowc("run", talkative, "-p", "s", *options)
        assert refused.code == 2 and said in refused.err
    assert "this model has none" in meadowc("run", tiny_package, "-p", "s", "--system", "x").err


def _take_terminal() -> None:
    """The terminal behind standard input becomes the new session's own, so that Ctrl-C in it is a signal, which is not ignored as in
    what a shell runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """`meadowc chat` behind a terminal of its own."""

    def __init__(self, package: Path, home: Path, *options: str):
        self.here, there = pty.openpty()
        environment = {**os.environ, "XDG_CACHE_HOME": str(home), "TERM": "dumb", "NO_COLOR": "1"}
        command = [sys.executable, "-m", "meadow", "chat", str(package), *options]
        self.process = subprocess.Popen(
            command,
            stdin=there,
            stdout=there,
            stderr=there,
            env=environment,
            start_new_session=True,
            close_fds=True,
            preexec_fn=_take_terminal,
        )
        os.close(there)
        self.seen = ""

    def until(self, text: str, seconds: float = 30) -> str:
        """What is shown up to `text`."""
        ends = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < ends and self.process.poll() is None, self.seen
            if select.select([self.here], [], [], 0.2)[0]:
                self.seen += os.read(self.here, 4096).decode(errors="replace")
        shown, _, self.seen = self.seen.partition(text)
        return shown

    def interrupt(self, text: str) -> None:
        """Ctrl-C until `text` is shown: one that comes between two reads of a line is seen by readline at the next key alone."""
        for _ in range(20):
            self.type("\x03")
            with contextlib.suppress(AssertionError):
                self.until(text, 1.5)
                return
        raise AssertionError(self.seen)

    def type(self, text: str) -> None:
        os.write(self.here, text.encode())


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(
    meadowc: Any, talkative: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, count = Session._step, 0

    def interrupted(self: Session, token: int) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return step(self, token)

    monkeypatch.setattr(Session, "_step", interrupted)
    done = typed(meadowc, monkeypatch, talkative, "s", "t")
    assert done.code == 0 and "[stopped]" in done.err and "cut at 4 tokens" in done.err


def test_a_line_can_be_recalled_and_ctrl_c_forgets_one(talkative: Path, tmp_path: Path) -> None:
    terminal = Terminal(talkative, tmp_path, "-n", "2")
    terminal.until("> ")
    terminal.type("s one\r")
    terminal.until("[cut")
    terminal.until("> ")
    terminal.type("half a li")
    terminal.until("half a li")  # readline waits for more
    terminal.interrupt("/exit ends")
    terminal.until("> ")
    terminal.type("/reset\r")
    terminal.until("[forgotten]")
    terminal.until("> ")
    terminal.type("\x1b[A\x1b[A")  # up, up: the line before /reset
    terminal.until("s one")
    terminal.type("\x15/exit\r")
    assert terminal.process.wait(60) == 0
    assert (tmp_path / "meadow" / "chat_history").read_text().splitlines()[:2] == ["s one", "/reset"]
