# SPDX-License-Identifier: Apache-2.0
"""How commands speak: one JSON object, or text with progress on a terminal.  Knows no command."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
PACE_SECONDS = 10.0
"""Between two lines of long work where there is no terminal to write over."""
PLAIN_WIDTH = 120
"""Columns of tables where there is no terminal to ask."""
out = Console(highlight=False, soft_wrap=True, markup=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(
    stderr=True, highlight=False, soft_wrap=True, markup=False, width=None if sys.stderr.isatty() else PLAIN_WIDTH
)


def emit_json(value: dict[str, Any]) -> None:
    """The command's one object."""
    click.echo(json.dumps(value, indent=1, default=str))


@contextmanager
def stages(names: tuple[str, ...], quiet: bool) -> Iterator[Callable[[str, str], None]]:
    """A callback (stage, what) that shows a line for each stage: rewritten in place on a terminal, printed elsewhere."""
    seen: list[str] = []
    terminal = sys.stderr.isatty() and not quiet

    def show(stage: str, what: str) -> None:
        first = stage not in seen
        if first:
            seen.append(stage)
        count = f"[{names.index(stage) + 1}/{len(names)}]" if stage in names else "[-]"
        if quiet:
            return
        if terminal:  # a line that wraps could not be written over
            sys.stderr.write(f"\r\033[K{f'{count} {stage} {what}'[: err.width - 1]}")
            sys.stderr.flush()
        elif first:
            click.echo(f"{count} {stage} {what}".rstrip(), err=True)

    try:
        yield show
    finally:
        if terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


class Pace:
    """Says how far long work is and how long it still takes: written over on a terminal, elsewhere a line now and then.

    total  of what is done one after another
    """

    def __init__(self, what: str, total: int, quiet: bool):
        self.what, self.total, self.quiet = what, total, quiet
        self.terminal = sys.stderr.isatty() and not quiet
        self._began = time.monotonic()
        self._shown = float("-inf")

    def __enter__(self) -> Pace:
        return self

    def __exit__(self, *_: object) -> None:
        if self.terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def at(self, done: int, text: str = "") -> None:
        """`done` of them are done; `text` is what is said of the last, or of the next."""
        now = time.monotonic()
        if self.quiet or (not self.terminal and now - self._shown < PACE_SECONDS and done < self.total):
            return
        spent = now - self._began
        left = f", {_clock(spent / done * (self.total - done))} left" if 0 < done < self.total and spent > 1 else ""
        line = f"{self.what} {done} of {self.total}, {_clock(spent)}{left}" + f" · {text}" * bool(text)
        self._shown = now
        if self.terminal:
            sys.stderr.write(f"\r\033[K{line[: err.width - 1]}")
            sys.stderr.flush()
        else:
            click.echo(line, err=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


@contextmanager
def upload_bar(text: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) in bytes that shows one bar on a terminal and nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class Fitting(Table):
    """A table that breaks no word and no number: where the terminal is too narrow for it, its rows stand one below another."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.__rich_measure__(console, options).minimum <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        if self.title:
            yield Text(str(self.title), style="bold")
        heads = [str(column.header) for column in self.columns]
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            texts = [str(cell) for cell in cells]
            yield Text(texts[0], style="bold")
            pairs = [f"{head} {text}".strip() for head, text in zip(heads[1:], texts[1:], strict=True) if text]
            yield from (Text(line) for line in _lines(pairs, options.max_width))


def _lines(pairs: list[str], width: int) -> Iterator[str]:
    """Indented lines of `pairs` with semicolons, none broken that fits a line."""
    line = ""
    for pair in pairs:
        if line and len(line) + 2 + len(pair) >= width:
            yield f"{line};"
            line = ""
        line = f"{line}; {pair}" if line else f"  {pair}"
    if line:
        yield line


def table(title: str, *columns: str) -> Table:
    """An empty table in the house's style.  The first column is a text and may wrap; the others are numbers, unless justified left."""
    made = Fitting(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", title_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right")
    return made


def listing(title: str, columns: dict[str, Callable[[Any], str]], rows: Iterable[Any]) -> Table:
    """A table with one row per item: each column's heading beside the text that it shows of an item."""
    made = table(title, *columns)
    for row in rows:
        made.add_row(*(show(row) for show in columns.values()))
    return made


def shell(*words: object) -> str:
    """A command as it can be typed: words with spaces are quoted."""
    return shlex.join(str(word) for word in words)


def megabytes(n: float) -> str:
    return f"{n / 1e6:,.1f} MB"
