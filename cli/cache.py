# SPDX-License-Identifier: Apache-2.0
"""cache: shows what meadow keeps in the user's cache, and removes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from meadow.cli.output import emit_json, json_option, megabytes, out, table
from meadow.machine.cache import PARTS, cache_folder


@click.command("cache")
@click.option(
    "--clear", multiple=True, type=click.Choice([*PARTS, "all"]), help="Remove this; it is made again when needed."
)
@json_option
def cache_command(clear: tuple[str, ...], as_json: bool) -> None:
    """Show what lies in the cache: downloads and built simulations, which can all be made again.

    \b
    Examples:
      meadowc cache
      meadowc cache --clear csim --clear verilated
    """
    root = cache_folder()
    for part in PARTS if "all" in clear else clear:
        place = root / part
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
    rows = [{"part": part, "what": what, "bytes": size(root / part)} for part, what in PARTS.items()]
    if as_json:
        emit_json({"folder": str(root), "cleared": list(clear), "parts": rows})
        return
    shown = table(f"{root}{' (cleared: ' + ', '.join(clear) + ')' if clear else ''}", "part", "bytes", "what")
    shown.columns[-1].justify = "left"
    for row in rows:
        shown.add_row(str(row["part"]), megabytes(float(str(row["bytes"]))), str(row["what"]))
    out.print(shown)


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count as nothing."""
    if path.is_symlink() or not path.exists():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())
