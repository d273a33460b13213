# SPDX-License-Identifier: Apache-2.0
"""build: makes a bitstream with Vitis and Vivado, or shows the plan of one."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from meadow.cli.output import Volume, emit_json, err, json_option, out, shell, table
from meadow.machine.errors import DeviceError, UsageError
from meadow.machine.package.read import Package, load

HEARTBEAT = 60.0
"""Seconds between two lines where there is no terminal to write over."""


@click.command("build")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show the plan, run nothing; needs no tool.")
@click.option(
    "--tool",
    "release",
    metavar="RELEASE",
    help="Release of Vitis and Vivado, such as 2024.2 [default: the newest found].",
)
@click.option("--from", "start", metavar="STEP", default="", help="Run from this step on, whatever was done before.")
@click.option("--csim", is_flag=True, help="Run the C test bench first.")
@click.option("--cosim", is_flag=True, help="Run the test bench on the Verilog that HLS made.")
@click.option("--jobs", type=click.IntRange(min=1), default=4, show_default=True, help="Of Vivado at once.")
@click.option("--timeout", type=float, help="Minutes after which a step is ended [default: its own].")
@click.option(
    "--silence",
    type=float,
    default=60.0,
    show_default=True,
    help="Minutes without a line after which a tool counts as hung.",
)
@click.option(
    "--compare",
    is_flag=True,
    help="Show clock, cells and loops as reported beside the predictions; run nothing.",
)
@click.option(
    "--allow-timing-violation", "allow_timing", is_flag=True, help="Take a bitstream whose timing is not met."
)
@json_option
def build_command(
    package: Path,
    dry_run: bool,
    release: str | None,
    start: str,
    csim: bool,
    cosim: bool,
    jobs: int,
    timeout: float | None,
    silence: float,
    compare: bool,
    allow_timing: bool,
    as_json: bool,
) -> None:
    """Make the bitstream of PACKAGE with Vitis and Vivado: overlay/meadow.bit, .hwh and .xsa.

    What was done before is left as it is.  A bitstream serves every package of the same design.  Hours; no step of this has run on a
    machine with the tools yet.

    \b
    Examples:
      meadowc build build/smollm2 --dry-run --tool 2024.2
      meadowc build build/smollm2
      meadowc build build/smollm2 --compare
    """
    from meadow.cli import comparison
    from meadow.toolchain import tools
    from meadow.toolchain.run import Limits, Setting, build

    opened = load(package)
    if compare:
        made = comparison.compare(opened)
        emit_json(made) if as_json else comparison.show(made)
        return
    _check_unchanged(opened)
    wanted = tools.parse(release) if release else None
    if dry_run:
        target = wanted or tools.parse(tools.KNOWN[-1])
        steps = tools.plan(target, csim, cosim)
        _check_start(start, [s.name for s in steps])
        _show_plan(opened, target, steps, wanted is None, as_json)
        return
    found, paths = tools.find(wanted)
    steps = tools.plan(found, csim, cosim)
    _check_start(start, [s.name for s in steps])
    setting = Setting(found, paths, jobs, allow_timing, csim, cosim, Limits(timeout, silence))
    rows = build(opened, steps, setting, _teller(as_json), start)
    _tell_made(opened, found, rows, as_json)


def _tell_made(package: Package, release: tuple[int, int], rows: list[dict[str, Any]], as_json: bool) -> None:
    """The steps that ran, and what was reported beside what was predicted."""
    from meadow.cli import comparison
    from meadow.toolchain.tools import spell

    overlay, compared = package.folder / "overlay" / "meadow.bit", comparison.compare(package)
    if as_json:
        what = {"package": str(package.folder), "release": spell(release), "steps": rows, "overlay": str(overlay)}
        emit_json({**what, "comparison": compared})
        return
    shown = table(f"bitstream of {package.design.id} by {spell(release)}", "step", "time", "")
    for row in rows:
        shown.add_row(row["step"], f"{row['seconds'] / 60:.1f} min", "" if row["ran"] else "done before")
    out.print(shown)
    comparison.show(compared)
    out.print(
        f"{overlay}\nnext: copy {package.folder} to the board and run: {shell('meadowc', 'selftest', package.folder, '--device', 'pynq')}"
    )


def _check_unchanged(package: Package) -> None:
    changed = package.verify_files()
    if changed:
        raise DeviceError(
            f"{package.folder}: {', '.join(changed[:5])} changed since it was compiled; compile the model again before hours go into it"
        )


def _check_start(start: str, names: list[str]) -> None:
    if start and start not in names:
        raise UsageError(f"--from {start}: the steps are {', '.join(names)}")


def _show_plan(
    package: Package, release: tuple[int, int], steps: tuple[Any, ...], guessed: bool, as_json: bool
) -> None:
    from meadow.toolchain.tools import KNOWN, adapter, spell

    hardware = package.manifest["hardware"]
    texts = sorted(
        name
        for name in package.manifest["files"]
        if name.startswith(("vitis/", "vivado/", "rtl/")) or name == "hls/top.cpp"
    )
    plan = {
        "release": spell(release),
        "adapter": adapter(release),
        "part": package.design.part,
        "clocks_mhz": hardware["clocks_mhz"],
        "ports": hardware["ports"],
        "blocks": {k: hex(v) for k, v in hardware["blocks"].items()},
        "ddr": [[hex(at), hex(length)] for at, length in hardware["ddr"]],
        "files": texts,
        "steps": [
            {
                "step": s.name,
                "what": s.what,
                "command": " ".join(s.command),
                "in": s.cwd,
                "makes": list(s.makes),
                "minutes": s.minutes,
            }
            for s in steps
        ],
    }
    if as_json:
        emit_json(plan)
        return
    out.print(
        f"bitstream of design {package.design.id} for {package.design.board} ({package.design.part}) by Vitis and Vivado {plan['release']}"
        + (" (none was named; --tool says another)" if guessed else "")
        + ("" if plan["release"] in KNOWN else f"; plans were written for {', '.join(KNOWN)}")
    )
    rows = table("plan; nothing runs", "step", "in", "command", "ended after")
    for s in steps:
        rows.add_row(s.name, s.cwd, " ".join(s.command) or f"meadow: {s.what}", f"{s.minutes} min")
    rows.columns[1].justify = rows.columns[2].justify = "left"
    out.print(rows)
    out.print(f"clocks: {', '.join(f'{c} MHz' for c in hardware['clocks_mhz'])} (assumed, not closed)")
    rows = table("memory ports, 128 bits", "master", "port of the processor")
    for pin, port in hardware["ports"].items():
        rows.add_row(pin, port)
    out.print(rows)
    rows = table("registers, over M_AXI_HPM0_FPD", "block", "address")
    for name, at in hardware["blocks"].items():
        rows.add_row(name, hex(at))
    out.print(rows)
    out.print("DRAM behind each port: " + ", ".join(f"{length >> 20} MB at {at:#x}" for at, length in hardware["ddr"]))
    out.print(f"leaves {package.folder}/overlay/meadow.bit, .hwh, .xsa and reports.json; logs in {package.folder}/work")
    out.print("Written from the tools' documentation; not run with them yet.")


def _teller(quiet: bool) -> Any:
    """Step, phase, time and the tool's last line: written over on a terminal; elsewhere a line for each phase and minute."""
    quiet = quiet or Volume.quiet
    terminal = sys.stderr.isatty()
    seen: dict[str, Any] = {"phase": "", "at": time.monotonic()}

    def tell(step: str, phase: str, seconds: float, last: str) -> None:
        if quiet:
            return
        text = f"{step} · {phase} · {int(seconds) // 60}:{int(seconds) % 60:02d} · {last}"
        if terminal:
            sys.stderr.write(f"\r\033[K{text[: err.width - 1]}")
            sys.stderr.flush()
        elif (step, phase) != seen["phase"] or time.monotonic() - seen["at"] > HEARTBEAT:
            click.echo(text, err=True)
            seen["phase"], seen["at"] = (step, phase), time.monotonic()

    return tell
