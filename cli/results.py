# SPDX-License-Identifier: Apache-2.0
"""What verify, eval and the benchmarks found of a package, kept in it for its report."""

from __future__ import annotations

import json
from datetime import date
from typing import Any, NamedTuple

from meadow.cli.output import shell
from meadow.machine.package.read import Package

FILE = "report/results.json"
LIMIT = 1 << 20
"""Bytes of the file at most."""
MOST = 60
"""Rows that are shown."""


class Row(NamedTuple):
    """One finding: what, its value with its unit, its kind, the command that printed it, and the day."""

    what: str
    value: str
    kind: str
    command: str
    day: str


def keep(package: Package, name: str, rows: list[tuple[str, str, str]]) -> None:
    """Note (what, value, kind) of a run of `meadowc NAME PACKAGE`, in place of what an earlier run of it found.

    A package that cannot be written to keeps nothing: its numbers were printed all the same.
    """
    command = shell("meadowc", *name.split(" "), package.folder)
    before = [row for row in read(package) if row.command != command]
    made = [Row(what, value, kind, command, date.today().isoformat()) for what, value, kind in rows]
    text = json.dumps({"digest": package.manifest["digest"], "rows": [*before, *made]}, indent=1)
    path = package.folder / FILE
    beside = path.with_name(".results.json.new")
    try:
        beside.write_text(text + "\n")
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)


def read(package: Package) -> list[Row]:
    """What was noted of this very package; nothing where the file is missing, damaged, or of another compile."""
    path = package.folder / FILE
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LIMIT:
            return []
        found: Any = json.loads(path.read_text())
        rows = [Row(*row) for row in found["rows"]]
        whole = found["digest"] == package.manifest["digest"] and all(
            isinstance(c, str) and c.isprintable() for r in rows for c in r
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return rows[:MOST] if whole else []
