# SPDX-License-Identifier: Apache-2.0
"""report: one self-contained page about a package, and a trace of a token's steps."""

from __future__ import annotations

import json
from pathlib import Path

import click

from meadow.cli.output import emit_json, json_option, out
from meadow.machine.errors import UsageError
from meadow.machine.package.read import load


@click.command("report")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The page [default: PACKAGE/report/index.html].")
@json_option
def report_command(package: Path, output: Path | None, as_json: bool) -> None:
    """Write an HTML page about PACKAGE that needs no network, and beside it a trace for Perfetto or chrome://tracing.

    \b
    Example:
      meadowc report build/smollm2
    """
    from meadow.cli.report.page import build

    opened = load(package)
    page = output or package / "report" / "index.html"
    if page.exists() and (page.is_dir() or not page.read_text(errors="replace").startswith("<!doctype html>")):
        raise UsageError(f"{page} is there and is no report; choose another name with -o")
    if not page.parent.is_dir():
        raise UsageError(f"{page.parent} is not a folder")
    trace = page.with_name("trace.json" if output is None else f"{page.stem}.trace.json")
    text, events = build(opened, trace.name)
    for path, content in ((page, text), (trace, json.dumps(events) + "\n")):
        beside = path.with_name(f".{path.name}.new")
        try:
            beside.write_text(content)
            beside.replace(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    if as_json:
        emit_json({"page": str(page), "trace": str(trace), "bytes": len(text.encode())})
    else:
        out.print(f"{page} ({len(text.encode()) / 1000:.0f} kB, opens in any browser, fetches nothing)")
        out.print(f"{trace} (for ui.perfetto.dev or chrome://tracing)")
