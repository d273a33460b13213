# SPDX-License-Identifier: Apache-2.0
"""How commands speak: one JSON object, or text and tables that fit the terminal; how much, by -q and -v.  Knows no command."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
PLAIN_WIDTH = 120
"""Columns of tables where there is no terminal to ask."""
out = Console(highlight=False, soft_wrap=True, markup=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(
    stderr=True, highlight=False, soft_wrap=True, markup=False, width=None if sys.stderr.isatty() else PLAIN_WIDTH
)


class Volume:
    """How much is said: -q the result and errors alone, -v also what each stage took, the options in force, and where an error is from."""

    quiet = False
    verbose = False

    @classmethod
    def set(cls, quiet: bool = False, verbose: bool = False) -> None:
        cls.quiet, cls.verbose, err.quiet = quiet, verbose, quiet


def emit_json(value: dict[str, Any]) -> None:
    """The command's one object."""
    click.echo(json.dumps(value, indent=1, default=str))


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


def printable(text: str) -> str:
    """`text` without what would steer a terminal: names come from files of others.  Lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def shell(*words: object) -> str:
    """A command as it can be typed: words with spaces are quoted."""
    return shlex.join(str(word) for word in words)


def megabytes(n: float) -> str:
    return f"{n / 1e6:,.1f} MB"


def options(*several: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Options of click as one decorator, in the order in which --help shows them."""

    def decorate(command: Any) -> Any:
        for option in reversed(several):
            command = option(command)
        return command

    return decorate
