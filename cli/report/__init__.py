# SPDX-License-Identifier: Apache-2.0
"""report: one self-contained page about a package with a trace of a token's steps, or about two packages side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click

from meadow.cli.output import emit_json, json_option, out
from meadow.machine.errors import DeviceError, UsageError
from meadow.machine.folder import replace_file
from meadow.machine.guard import guard
from meadow.machine.package.read import load

REMEDY = "compile the model again"


@click.command("report")
@click.argument("package", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path), required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The page [default: PACKAGE/report/index.html; of two, build/PACKAGE-and-OTHER.html].",
)
@json_option
def report_command(package: Path, other: Path | None, output: Path | None, as_json: bool) -> None:
    """Write an HTML page about PACKAGE that needs no network, and beside it a trace for Perfetto or chrome://tracing.

    With OTHER, a page that sets the two packages side by side: two boards, two formats, two models.

    \b
    Examples:
      meadowc report build/smollm2
      meadowc report build/smollm2 build/smollm2-int4 -o both.html
    """
    from meadow.cli.report import page, pair

    opened = load(package)
    if other is not None:
        target = output or Path("build") / f"{package.resolve().name}-and-{other.resolve().name}.html"
        if output is None:
            target.parent.mkdir(exist_ok=True)
        _check(target)
        second = load(other)
        with guard(second.folder, DeviceError, REMEDY), guard(opened.folder, DeviceError, REMEDY):
            text = pair.build(opened, second)
        _write({target: text})
        _tell(target, None, text, as_json)
        return
    target = output or package / "report" / "index.html"
    _check(target)
    trace = target.with_name("trace.json" if output is None else f"{target.stem}.trace.json")
    with guard(opened.folder, DeviceError, REMEDY):
        text, events = page.build(opened, trace.name)
    _write({target: text, trace: json.dumps(events) + "\n"})
    _tell(target, trace, text, as_json)


def _check(target: Path) -> None:
    """Raise UsageError for a file that is no report, and for a folder that is not there."""
    if target.exists() and not (target.is_file() and _begins(target, "<!doctype html>")):
        raise UsageError(f"{target} is there and is no report; choose another name with -o")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent} is not a folder")


def _begins(file: Path, text: str) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(text)) == text.encode()


def _write(files: dict[Path, str]) -> None:
    for path, content in files.items():
        try:
            replace_file(path, content)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _tell(target: Path, trace: Path | None, text: str, as_json: bool) -> None:
    if as_json:
        files = {"page": str(target), **({"trace": str(trace)} if trace is not None else {})}
        emit_json({**files, "bytes": len(text.encode())})
        return
    out.print(f"{target} ({len(text.encode()) / 1000:.0f} kB, opens in any browser, fetches nothing)")
    if trace is not None:
        out.print(f"{trace} (for ui.perfetto.dev or chrome://tracing)")
