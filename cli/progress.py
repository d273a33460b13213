# SPDX-License-Identifier: Apache-2.0
"""Progress of long work, with the time that is left: one live line on a terminal, elsewhere a line now and then.  Knows no command."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import click
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text

from meadow.cli import output
from meadow.cli.output import Volume, printable

PACE_SECONDS = 10.0
"""Between two lines of long work where there is no terminal to write over."""
COUNTED = re.compile(r"(\d+)(?:/| of )(\d+)")
"""How a stage says how far it is."""


NARROW = Column(no_wrap=True, min_width=7)
"""Of a time: its column is not squeezed by a long text beside it."""


class Left(ProgressColumn):
    """The time that is left, once there is something to judge by."""

    def render(self, task: Task) -> Text:
        left = _left(task.completed, task.total, task.finished_time or task.elapsed or 0.0)
        return Text(left.strip(", "), style="dim")


def _left(done: float, total: float | None, spent: float) -> str:
    """ ", M:SS left" after `spent` seconds, or nothing where that says little."""
    if not total or not 0 < done < total or spent <= 1:
        return ""
    return f", {clock(spent / done * (total - done))} left"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def live() -> bool:
    """Whether there is a line to write over: a terminal, and no -q or -v."""
    return output.err.is_terminal and not Volume.quiet and not Volume.verbose


@contextmanager
def _line() -> Iterator[Callable[[str, int, int | None, bool], None]]:
    """A callback (text, done, total, anew) that shows one line with its time: anew from zero, or going on."""
    text = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    with Progress(
        text, TimeElapsedColumn(table_column=NARROW), Left(), console=output.err, transient=True, expand=True
    ) as progress:
        task = progress.add_task("", total=None)

        def show(line: str, done: int, total: int | None, anew: bool) -> None:
            if anew:
                progress.reset(task, total=total)
            line = printable(line).replace("\n", " ").replace("[", "\\[")
            progress.update(task, description=line, completed=done, total=total)

        yield show


@contextmanager
def stages(names: tuple[str, ...], quiet: bool) -> Iterator[Callable[[str, str], None]]:
    """A callback (stage, what) that shows a line for each stage: one that lives on a terminal, printed elsewhere.

    Where `what` counts ("12/210", "3 of 8"), the time that is left is said too.  With -v each stage's time and the most memory until
    its end stand below it.
    """
    if quiet or Volume.quiet:
        yield lambda stage, what: None
        return

    def words(stage: str, what: str) -> str:
        count = f"[{names.index(stage) + 1}/{len(names)}]" if stage in names else "[-]"
        return f"{count} {stage} {what}".rstrip()

    if live():
        with _line() as show:
            last = ""

            def over(stage: str, what: str) -> None:
                nonlocal last
                done, total = _count(what)
                show(words(stage, what), done, total, stage != last)
                last = stage

            yield over
        return
    lines = _Lines(words)
    try:
        yield lines.show
    finally:
        lines.end()


def _count(what: str) -> tuple[int, int | None]:
    found = COUNTED.search(what)
    return (int(found[1]), int(found[2])) if found else (0, None)


class _Lines:
    """Stages where nothing can be written over: a line when one begins, and one now and then while it counts."""

    def __init__(self, words: Callable[[str, str], str]):
        self.words = words
        self.stage, self.seen = "", set[str]()
        self.began = self.shown = time.monotonic()

    def show(self, stage: str, what: str) -> None:
        now = time.monotonic()
        if stage != self.stage:
            self.end()
            self.stage, self.began = stage, now
        done, total = _count(what)
        if stage in self.seen and (total is None or now - self.shown < PACE_SECONDS):
            return
        self.seen.add(stage)
        self.shown = now
        click.echo(printable(self.words(stage, what)) + _left(done, total, now - self.began), err=True)

    def end(self) -> None:
        if self.stage and Volume.verbose:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e3 if sys.platform != "darwin" else 1e6)
            click.echo(
                f"      {self.stage}: {time.monotonic() - self.began:.2f} s, at most {peak:,.0f} MB so far", err=True
            )


class Pace:
    """Says how far long work is and how long it still takes.

    total  of what is done one after another
    """

    def __init__(self, what: str, total: int, quiet: bool):
        self.what, self.total, self.quiet = what, total, quiet or Volume.quiet
        self._line: AbstractContextManager[Callable[[str, int, int | None, bool], None]] | None = None
        self._show: Callable[[str, int, int | None, bool], None] | None = None
        self._began = time.monotonic()
        self._shown = float("-inf")

    def __enter__(self) -> Pace:
        if not self.quiet and live():
            self._line = _line()
            self._show = self._line.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._line is not None:
            self._line.__exit__(None, None, None)

    def at(self, done: int, text: str = "") -> None:
        """`done` of them are done; `text` is what is said of the last, or of the next."""
        said = f" · {text}" * bool(text)
        if self._show is not None:
            self._show(f"{self.what} {done} of {self.total}{said}", done, self.total, False)
            return
        now = time.monotonic()
        if self.quiet or (now - self._shown < PACE_SECONDS and done < self.total):
            return
        spent = now - self._began
        self._shown = now
        click.echo(
            f"{self.what} {done} of {self.total}, {clock(spent)}{_left(done, self.total, spent)}{said}", err=True
        )


@contextmanager
def upload_bar(text: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) in bytes that shows one bar on a terminal and nothing elsewhere."""
    if quiet or not live():
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=output.err, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
