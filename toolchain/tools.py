# SPDX-License-Identifier: Apache-2.0
"""Which Vitis and Vivado there are, of which release, and the steps by which each generation makes a bitstream.

Runs nothing but `--version`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from meadow.machine.errors import ToolMissing, UsageError

ROOTS = ("/opt/Xilinx", "/tools/Xilinx", "/opt/AMD", "/tools/AMD", "~/Xilinx", "~/AMD")
LAYOUTS = ("{tool}/{release}/bin", "{release}/{tool}/bin", "{release}/bin")
"""Where installers of different years put a tool below a root."""
FOLDER_OF = {"vivado": "Vivado", "vitis_hls": "Vitis_HLS", "v++": "Vitis", "vitis-run": "Vitis"}
PROBE_SECONDS = 60
UNIFIED_FROM = (2024, 2)
"""From here on v++ --mode hls and vitis-run; until 2024.1 vitis_hls -f (UG1399).  vitis_hls is gone in 2025.1."""
NO_FLOW_TARGET_FROM = (2026, 1)
IP = ("work/hls/**/component.xml", "work/hls/**/meadow_engine.zip", "vitis/meadow_engine.zip")
"""Where a packaged IP may lie."""
KNOWN = ("2023.2", "2024.1", "2024.2", "2025.1", "2025.2", "2026.1")
"""Releases that plans were written for, from their documentation; none has been run yet."""
Release = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """One run of a tool.

    command  with the tool's name first, or () for what meadow does itself
    cwd      where it runs, from the package; the scripts' own paths begin there
    makes    files that it leaves when it went well, from the package: patterns, | between places of which one is enough
    minutes  after which it is given up, unless the user says otherwise
    what     in a sentence
    clears   what of earlier runs goes first: patterns
    checks   whether it only checks: no later step depends on it
    """

    name: str
    command: tuple[str, ...]
    cwd: str
    makes: tuple[str, ...]
    minutes: int
    what: str
    clears: tuple[str, ...] = ()
    checks: bool = False


def parse(text: str) -> Release:
    """2024.2 as (2024, 2).  Raises UsageError."""
    match = re.fullmatch(r"v?(20\d\d)\.(\d)(?:\.\d+)?", text)
    if not match:
        raise UsageError(f"release {text!r} is not known; say it as in {', '.join(KNOWN)}")
    release = int(match[1]), int(match[2])
    if release < (2020, 1):
        raise UsageError(
            f"release {text} is older than Vitis HLS; 2020.1 and later are possible, {', '.join(KNOWN)} are planned for"
        )
    return release


def spell(release: Release) -> str:
    return f"{release[0]}.{release[1]}"


def adapter(release: Release) -> str:
    """The generation a release belongs to."""
    return "unified" if release >= UNIFIED_FROM else "classic"


def plan(release: Release, csim: bool = False, cosim: bool = False) -> tuple[Step, ...]:
    """The steps from C++ and Verilog to a bitstream."""
    first = _unified(release, csim, cosim) if adapter(release) == "unified" else _classic(csim, cosim)
    vivado = ("vivado", "-mode", "batch", "-nojournal", "-notrace", "-source", "vivado/build.tcl")
    return (
        *first,
        Step("ip", (), ".", ("work/ip/meadow_engine/component.xml",), 1, "the IP put where Vivado looks for it"),
        Step(
            "bitstream",
            vivado,
            ".",
            tuple(f"work/vivado/overlay/meadow.{end}" for end in ("bit", "hwh", "xsa")),
            720,
            "block design, synthesis, implementation, bitstream",
            ("work/vivado/overlay", "work/vivado/reports"),
        ),
        Step(
            "collect",
            (),
            ".",
            ("overlay/meadow.bit", "overlay/meadow.hwh", "overlay/platform/meadow.xsa", "overlay/reports.json"),
            1,
            "bit, hwh and xsa under one name, and the reports",
        ),
    )


def _unified(release: Release, csim: bool, cosim: bool) -> tuple[Step, ...]:
    """v++ and vitis-run."""
    config = "hls_config.cfg" if release < NO_FLOW_TARGET_FROM else "hls_config_2026.cfg"
    work = ("--config", config, "--work_dir", "../work/hls")

    def run(what: str) -> tuple[str, ...]:
        return ("vitis-run", "--mode", "hls", f"--{what}", *work)

    return (
        *((Step("csim", run("csim"), "vitis", (), 30, "the C test bench", checks=True),) * csim),
        Step(
            "csynth",
            ("v++", "-c", "--mode", "hls", *work),
            "vitis",
            ("work/hls/hls/syn/report/*csynth.xml",),
            360,
            "C++ to Verilog",
            ("work/hls/hls/syn", "work/hls/hls/impl"),
        ),
        *((Step("cosim", run("cosim"), "vitis", (), 360, "the test bench on the Verilog", checks=True),) * cosim),
        Step("package", run("package"), "vitis", ("|".join(IP),), 60, "the Verilog as an IP", IP),
    )


def _classic(csim: bool, cosim: bool) -> tuple[Step, ...]:
    """vitis_hls, which does all in one."""
    what = (
        "C++ to Verilog, and the Verilog as an IP"
        + ", after the C test bench" * csim
        + ", with the test bench on the Verilog" * cosim
    )
    reports = ("work/hls/meadow/solution1/syn/report/*csynth.xml",)
    return (Step("csynth", ("vitis_hls", "-f", "run_hls.tcl"), "vitis", reports, 360, what, ("work/hls",)),)


def find(release: Release | None) -> tuple[Release, dict[str, Path]]:
    """(the release, path of each tool that its plan needs).  Without a release the newest that is whole is taken.

    Raises ToolMissing with every place that was looked at.
    """
    places = _places(release)
    whole: list[tuple[Release, dict[str, Path]]] = []
    seen: list[str] = []
    for vivado in places["vivado"]:
        found = version(vivado)
        if found is None or (release is not None and found != release):
            seen.append(f"{vivado} ({spell(found) if found else 'no version'})")
            continue
        tools = {"vivado": vivado}
        for name in {step.command[0] for step in plan(found) if step.command} - {"vivado"}:
            fitting = [path for path in places[name] if version(path) == found]
            if fitting:
                tools[name] = fitting[0]
            else:
                seen.append(f"no {name} of {spell(found)}")
        if set(tools) == {step.command[0] for step in plan(found) if step.command}:
            whole.append((found, tools))
    if not whole:
        wanted = f"Vitis and Vivado {spell(release)}" if release else "Vitis and Vivado"
        looked = f"; found {', '.join(seen)}" if seen else ""
        raise ToolMissing(
            f"{wanted} are not on PATH, nor below {', '.join(ROOTS)}{looked}. Source settings64.sh of the installation, or see "
            "what would run: meadowc build PACKAGE --dry-run --tool 2024.2"
        )
    return max(whole, key=lambda item: item[0])


def _places(release: Release | None) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for name, folder in FOLDER_OF.items():
        on_path = shutil.which(name)
        found[name] = [Path(on_path)] if on_path else []
        for root in (Path(r).expanduser() for r in ROOTS):
            for layout in LAYOUTS:
                pattern = layout.format(tool=folder, release=spell(release) if release else "20??.?")
                found[name] += [p / name for p in sorted(root.glob(pattern)) if os.access(p / name, os.X_OK)]
    return found


def version(tool: Path) -> Release | None:
    """What a tool says of itself: the v2024.2 of its banner ("Tool Version Limit" is something else)."""
    option = "--version" if tool.name in ("v++", "vitis-run") else "-version"
    try:
        done = subprocess.run([tool, option], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv(20\d\d)\.(\d)", done.stdout + done.stderr)
    return (int(match[1]), int(match[2])) if match else None
