# SPDX-License-Identifier: Apache-2.0
"""Runs the steps of a build: a step that is done is skipped, a tool that falls silent or takes too long is ended, and its log is explained.

Knows no tool's options; tools.py has the steps and failures.py what logs mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meadow.machine.package.read import Package
from meadow.toolchain.failures import BuildFailed, explain, first_error, read_log
from meadow.toolchain.reports import gather
from meadow.toolchain.tools import Release, Step, spell

PHASES = (
    re.compile(r"MEADOW PHASE (.+)"),
    re.compile(r"INFO: \[HLS 200-10\] -- (.+?) *--"),
    re.compile(r"INFO: \[HLS 200-\d+\] (Starting .+?) \.\.\."),
    re.compile(r"^(?:Starting )(\w[\w ]+ Task)"),
    re.compile(r"^(Phase \d+(?:\.\d+)* .+)"),
)
"""How tools say where they are."""
OVERLAY = {"meadow.bit": "meadow.bit", "meadow.hwh": "meadow.hwh", "meadow.xsa": "platform/meadow.xsa"}
"""One name for all three; the xsa in a folder of its own, since pynq takes a .bit beside an .xsa of its name for that .xsa."""
LOOK = 0.5
GRACE = 10
LARGEST_MEMBER = 256 << 20
Tell = Callable[[str, str, float, str], None]
"""tell(step, phase, seconds, last line)."""


@dataclass(frozen=True)
class Limits:
    """minutes  of a step in all, None for the step's own; silence  minutes without a line after which a tool counts as hung."""

    minutes: float | None = None
    silence: float = 60.0


@dataclass(frozen=True)
class Setting:
    """What a build is made with besides its package."""

    release: Release
    tools: dict[str, Path]
    jobs: int = 4
    allow_timing: bool = False
    csim: bool = False
    cosim: bool = False
    limits: Limits = Limits()


def fingerprint(package: Package, step: Step, setting: Setting, before: str) -> str:
    """Inputs of a step: generated sources, tool release, command, and the previous step's key."""
    asked = [setting.allow_timing] * (step.name == "collect") + [setting.csim, setting.cosim] * (
        step.command[:1] == ("vitis_hls",)
    )
    parts = (package.manifest["hardware_digest"], spell(setting.release), " ".join(step.command), repr(asked), before)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def made(package: Path, step: Step) -> bool:
    """Whether everything is there that a step leaves; | parts places of which one is enough."""
    return all(any(any(package.glob(place)) for place in pattern.split("|")) for pattern in step.makes)


def read_state(package: Path) -> dict[str, Any]:
    """What earlier builds did: per step its fingerprint and seconds."""
    try:
        found = json.loads((package / "work" / "state.json").read_text())
    except (OSError, ValueError):
        return {}
    rows = found.items() if isinstance(found, dict) else ()
    return {
        k: v
        for k, v in rows
        if isinstance(v, dict) and isinstance(v.get("fingerprint"), str) and isinstance(v.get("seconds"), (int, float))
    }


def write_state(package: Path, state: dict[str, Any]) -> None:
    path = package / "work" / "state.json"
    beside = path.with_name(".state.json.new")
    beside.write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")
    beside.replace(path)


def todo(package: Package, steps: tuple[Step, ...], setting: Setting, start: str = "") -> list[tuple[Step, str, bool]]:
    """(step, fingerprint, whether it must run): from `start` on, or from the first that is not done."""
    state, before, dirty, found = read_state(package.folder), "", False, []
    for step in steps:
        digest = fingerprint(package, step, setting, before)
        done = state.get(step.name, {}).get("fingerprint") == digest and made(package.folder, step)
        if step.checks:  # its result is used by no other
            found.append((step, digest, not done or step.name == start))
            continue
        before, dirty = digest, dirty or step.name == start or not done
        found.append((step, digest, dirty))
    return found


def build(
    package: Package, steps: tuple[Step, ...], setting: Setting, tell: Tell, start: str = ""
) -> list[dict[str, Any]]:
    """Run what is to be done; returns one row per step.  Raises BuildFailed with what a log means."""
    folder = package.folder
    (folder / "work").mkdir(exist_ok=True)
    _write_options(folder, setting)
    rows = []
    for step, digest, must in todo(package, steps, setting, start):
        if not must:
            rows.append({"step": step.name, "ran": False, "seconds": read_state(folder)[step.name]["seconds"]})
            tell(step.name, "done before", 0.0, "")
            continue
        began = time.monotonic()
        _clear(folder, step)
        if step.command:
            _run(folder, step, setting, tell)
        elif step.name == "ip":
            _find_ip(folder)
        else:
            _collect(package, setting)
        if not made(folder, step):
            missing = [
                pattern for pattern in step.makes if not any(any(folder.glob(place)) for place in pattern.split("|"))
            ]
            raise BuildFailed(
                f"{step.name} ended without an error but left no {', '.join(missing)}; first error in its log: "
                f"{first_error(read_log(_log(folder, step)))} ({_log(folder, step)})",
                6,
            )
        seconds = time.monotonic() - began
        state = read_state(folder)
        state[step.name] = {"fingerprint": digest, "seconds": round(seconds, 1)}
        write_state(folder, state)
        rows.append({"step": step.name, "ran": True, "seconds": seconds})
    return rows


def _clear(folder: Path, step: Step) -> None:
    """What an earlier run of the step left must not pass for what this one makes."""
    for place in step.clears:
        for path in folder.glob(place):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _log(folder: Path, step: Step) -> Path:
    return folder / "work" / f"{step.name}.log"


def _write_options(folder: Path, setting: Setting) -> None:
    """What the Tcl reads, since not every release passes arguments."""
    text = f"set meadow_jobs {setting.jobs}\nset meadow_allow_timing {int(setting.allow_timing)}\n"
    (folder / "work" / "vivado.tcl").write_text(text)
    (folder / "work" / "hls.tcl").write_text(
        f"set meadow_csim {int(setting.csim)}\nset meadow_cosim {int(setting.cosim)}\n"
    )


def _run(folder: Path, step: Step, setting: Setting, tell: Tell) -> None:
    log, began = _log(folder, step), time.monotonic()
    command = [str(setting.tools[step.command[0]]), *step.command[1:]]
    minutes = setting.limits.minutes if setting.limits.minutes is not None else float(step.minutes)
    phase, last, heard = "starting", "", began
    try:
        process = subprocess.Popen(
            command,
            cwd=folder / step.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise BuildFailed(f"{command[0]} cannot be started: {error.strerror}", 6) from None
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_listen, args=(process, log, lines), daemon=True).start()
    try:
        while True:
            try:
                line = lines.get(timeout=LOOK)
            except queue.Empty:
                line = ""
            now = time.monotonic()
            if line is None or (not line and process.poll() is not None and lines.empty()):
                break
            if line.strip():
                last, heard = line.strip(), now
                phase = next((m[1].strip() for p in PHASES if (m := p.search(line))), phase)
            tell(step.name, phase, now - began, last)
            if now - began > 60 * minutes:
                raise BuildFailed(
                    f"{step.name} was ended after {minutes:g} minutes, in {phase}: {last}. Give it more with --timeout ({log})",
                    6,
                )
            if now - heard > 60 * setting.limits.silence:
                raise BuildFailed(
                    f"{step.name} said nothing for {setting.limits.silence:g} minutes and was ended, in {phase}: {last}. Likely "
                    f"hung; run again, or wait longer with --silence ({log})",
                    6,
                )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)  # it has said its last line
    finally:
        _end(process)
    text = read_log(log)
    failure = explain(text) if process.returncode else None
    if failure is not None and failure.name == "slack" and made(folder, step):
        return  # the bitstream is there: collect judges its timing, so that allowing it does not cost the hours again
    if failure is not None:
        raise BuildFailed(f"{step.name}: {failure.meaning}; {failure.todo} ({log})", failure.exit_code)
    if process.returncode:
        raise BuildFailed(f"{step.name} failed with {process.returncode}: {first_error(text)} ({log})", 6)


def _listen(process: subprocess.Popen[str], log: Path, lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    with log.open("w") as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """Nothing of a tool outlives its step: Vivado leaves helpers behind, which keep its output open."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def _find_ip(folder: Path) -> None:
    """The packaged IP, unpacked by the tool or still a zip, to work/ip/meadow_engine."""
    target = folder / "work" / "ip" / "meadow_engine"
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    components = sorted((folder / "work" / "hls").rglob("component.xml"), key=lambda p: (len(p.parts), p))
    if components:  # of this run: the steps clear what was there before
        shutil.copytree(components[0].parent, target)
        return
    archives = sorted(
        [*(folder / "work" / "hls").rglob("meadow_engine.zip"), *(folder / "vitis").glob("meadow_engine.zip")]
    )
    if not archives:
        raise BuildFailed(
            f"no IP was packaged below {folder / 'work' / 'hls'}; see the log of the step before ({folder / 'work'})", 6
        )
    with zipfile.ZipFile(archives[0]) as archive:
        for member in archive.infolist():
            if (
                not (target / member.filename).resolve().is_relative_to(target.resolve())
                or member.file_size > LARGEST_MEMBER
            ):
                raise BuildFailed(f"{archives[0]} holds {member.filename!r}, which no IP does", 6)
        archive.extractall(target)


def _collect(package: Package, setting: Setting) -> None:
    """overlay/ as a whole: written beside, then renamed."""
    folder = package.folder
    work, target = folder / "work" / "overlay.new", folder / "overlay"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "platform").mkdir()
    for name, place in OVERLAY.items():
        shutil.copyfile(folder / "work" / "vivado" / "overlay" / name, work / place)
    reports = gather(folder)
    facts = {
        "design_id": package.design.id,
        "hardware_digest": package.manifest["hardware_digest"],
        "release": spell(setting.release),
        "reports": reports,
    }
    (work / "reports.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    timing = reports.get("timing", {}).get("values", {})
    if timing.get("met") is not True and not setting.allow_timing:
        found = (
            f"timing is not met: worst slack {timing['wns_ns']} ns setup, {timing['whs_ns']} ns hold, {timing['wpws_ns']} ns pulse width"
            if timing.get("met") is False
            else "nobody measured the timing: no report says that constraints are met"
        )
        raise BuildFailed(
            f"{found}; compile with a slower clock (--set clock_mhz=...), or take the bitstream as it is: "
            "--allow-timing-violation",
            5,
        )
    shutil.rmtree(target, ignore_errors=True)
    work.rename(target)
