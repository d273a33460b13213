# SPDX-License-Identifier: Apache-2.0
"""What verify, eval and the benchmarks found of a package, kept in it for its report."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from meadow.cli.output import shell
from meadow.machine.folder import replace_file
from meadow.machine.package.read import Package

FILE = "report/results.json"
LIMIT = 1 << 20
"""Bytes of the file at most."""
KEPT = 400
"""Rows that are kept: the newest."""


class Row(NamedTuple):
    """One finding: what, its value with its unit, its kind, the command that printed it, and the day."""

    what: str
    value: str
    kind: str
    command: str
    day: str


def keep(package: Package, rows: list[tuple[str, str, str]]) -> None:
    """Note (what, value, kind) of the command that runs, in place of what the same command found before.

    A package that cannot be written to keeps nothing: its numbers were printed all the same.
    """
    command = spoken(click.get_current_context(), package.folder)
    before = [row for row in read(package) if row.command != command]
    day = date.today().isoformat()
    made = [Row(*(_plain(text) for text in (*row, command, day))) for row in rows]
    text = json.dumps({"digest": package.manifest["digest"], "rows": [*before, *made][-KEPT:]}, indent=1)
    with contextlib.suppress(OSError):
        replace_file(package.folder / FILE, text + "\n")


def spoken(ctx: click.Context, package: Path) -> str:
    """The command with the options that were given, in an order of its own; the package as seen from here."""
    words = ctx.command_path.split(" ")
    for parameter in ctx.command.params:
        name, value = str(parameter.name), ctx.params.get(str(parameter.name))
        source = ctx.get_parameter_source(name)
        if isinstance(parameter, click.Argument):
            words.append(os.path.relpath(package) if name == "package" else str(value))
        elif source in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP) and name not in SILENT:
            option = max(parameter.opts, key=len)
            for one in value if isinstance(value, tuple) else (value,):
                words += [option] if one is True else [] if one is False else [option, str(one)]
    return shell(*words)


SILENT = ("as_json", "quiet", "verbose", "trust")
"""Options that change no number."""


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def read(package: Package) -> list[Row]:
    """What was noted of this very package; nothing where the file is missing, damaged, or of another compile."""
    path = package.folder / FILE
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LIMIT:
            return []
        found: Any = json.loads(path.read_text())
        rows = [Row(*row) for row in found["rows"]]
        whole = found["digest"] == package.manifest["digest"] and all(
            isinstance(cell, str) and cell.isprintable() for row in rows for cell in row
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return rows if whole else []
