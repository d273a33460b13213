# SPDX-License-Identifier: Apache-2.0
"""Known failures of Vitis and Vivado: what a log says, what it means, what to do.  Reads logs, runs nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from meadow.machine.errors import MeadowError

LONGEST_LOG = 64 << 20
"""Bytes of a log that are looked at: its end."""


class BuildFailed(MeadowError):
    """A step of a build failed.  exit_code: 4 wrong results, 5 resources or timing, 6 the tool or its installation."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Failure:
    """`pattern` finds it in a log; `meaning` and `todo` are sentences, with {0} the pattern's first group."""

    name: str
    pattern: str
    meaning: str
    todo: str
    exit_code: int


FAILURES = (
    Failure(
        "licence",
        r"A valid license was not found for feature '([^']+)'",
        "there is no licence for {0}",
        "see the licence manager (vlm); the free edition has the parts of KV260 and KR260, not the ZCU102's",
        6,
    ),
    Failure(
        "part",
        r"\[HLS 200-1023\] Part '([^']+)'|\[Coretcl 2-106\] Specified part|MEADOW FAILED part \"?([\w-]+)",
        "the board's part {0} is not installed, or has no licence",
        "add Zynq UltraScale+ devices in the installer",
        6,
    ),
    Failure(
        "killed",
        r"rdiArgs\.sh: line \d+:\s*\d+ Killed|Out of memory: Killed process|std::bad_alloc",
        "the machine ran out of memory and the tool was killed",
        "use fewer jobs (--jobs 1), or a machine with 32 GB or more",
        5,
    ),
    Failure(
        "crash",
        r"rdiArgs\.sh: line \d+:\s*\d+ Segmentation fault|Abnormal program termination \((\d+)\)",
        "the tool itself crashed",
        "run the step again; if it stays, try another release or fewer jobs",
        6,
    ),
    Failure(
        "disk",
        r"No space left on device|Disk quota exceeded|HDDMProto::writeMessage failed|\[Common 17-1294\]",
        "the disk is full",
        "free 20 GB and run the same command: it goes on where it stopped",
        5,
    ),
    Failure(
        "revision",
        r"core_revision (\d{10})",
        "the tool cannot count to today's date (revision {0} does not fit 32 bits)",
        "install AMD's patch AR 76960 (Y2K22), or a release from 2022.1 on",
        6,
    ),
    Failure(
        "board",
        r"\[Board 49-71\][^\n]*?([\w.-]+:[\w.-]+:part\d:[\d.]+)",
        "the board files {0} are not installed",
        "install them from Vivado's board store; the part alone is enough for an overlay",
        6,
    ),
    Failure(
        "ip",
        r"\[BD 5-216\] VLNV <([^>]+)>|MEADOW FAILED no IP (\S+)",
        "the IP {0} is not in the catalog",
        "if it is meadow_engine, its packaging failed: run again with --from package",
        6,
    ),
    Failure(
        "csim",
        r"\[SIM 211-100\] [^\n]*nonzero return value|FAILED: byte (\d+) of|\[COSIM 212-4\]|\[COSIM 212-3(?:59|62)\]",
        "the test bench found wrong bytes",
        "this is a bug: please report it with the log",
        4,
    ),
    Failure(
        "deadlock",
        r"DEADLOCK DETECTED at ([\d.]+ \w+)",
        "the co-simulation found a deadlock at {0}",
        "this is a bug: please report it with the log",
        4,
    ),
    Failure(
        "depth",
        r"A depth specification is required for interface port '(\w+)'",
        "port {0} has no depth",
        "this is a bug: please report it with the log",
        6,
    ),
    Failure(
        "source",
        r"ERROR: \[HLS 20[07]-\d+\] ([^\n]*)\n(?:[^\n]*\n)*?[^\n]*(?:\[HLS 200-1715\]|Pre-synthesis failed)",
        "HLS refused the C++: {0}",
        "please report it with the release of the tool",
        6,
    ),
    Failure(
        "dataflow",
        r"ERROR: \[HLS 214-\d+\] ([^\n]*)|ERROR: \[HLS 200-(?:779|979|471)\] ([^\n]*)",
        "HLS refused a construct: {0}",
        "please report it with the release of the tool",
        6,
    ),
    Failure(
        "resources",
        r"This design requires (?:more )?([\w/ ]+?) (?:cells )?than are available|\[DRC UTLZ-1\][^:]*: ([\w ]+?) over-utilized",
        "the design does not fit: {0}",
        "compile with fewer lanes or ports (--set token_lanes=..., --set weight_ports=...), "
        "see the resources that compile prints",
        5,
    ),
    Failure(
        "placer",
        r"\[Place 30-(?:99|487)\] ([^\n]*)",
        "the placer found no place: {0}",
        "compile with fewer lanes or a slower clock",
        5,
    ),
    Failure(
        "clock pins",
        r"\[BD 41-758\][^\n]*\n\s*(\S+)?",
        "a clock pin of the block design is not connected: {0}",
        "this is a bug: please report it with the log",
        6,
    ),
    Failure(
        "clocks differ",
        r"ERROR: \[BD 41-237\] ([^\n]*)",
        "two ends of a bus have different clocks: {0}",
        "this is a bug: please report it with the log",
        6,
    ),
    Failure(
        "locale",
        r"locale::facet::_S_create_c_locale name not valid",
        "the tool wants the locale en_US.UTF-8",
        "sudo locale-gen en_US.UTF-8",
        6,
    ),
    Failure(
        "slack",
        r"MEADOW FAILED negative slack (\S+) ns",
        "timing is not met: the worst path misses its clock by {0} ns",
        "compile with a slower clock (--set clock_mhz=...), or take the bitstream as it is: --allow-timing-violation",
        5,
    ),
)
"""In the order in which they are looked for: causes before what follows from them."""


def explain(log: str) -> Failure | None:
    """The first known failure that a log shows, its sentences filled in."""
    for failure in FAILURES:
        match = re.search(failure.pattern, log)
        if match:
            group = next((g for g in match.groups() if g), "").strip() or "?"
            return Failure(
                failure.name,
                failure.pattern,
                failure.meaning.format(group),
                failure.todo.format(group),
                failure.exit_code,
            )
    return None


def first_error(log: str) -> str:
    """The first line that is an error by itself, or the last line that says anything."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(?:ERROR|@E|MEADOW FAILED|error)\b", line)]
    return (errors or lines[-1:] or ["it said nothing"])[0][:300]


def read_log(path: Path) -> str:
    """A log's end, as text."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LONGEST_LOG))
        return file.read().decode(errors="replace")
