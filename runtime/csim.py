# SPDX-License-Identifier: Apache-2.0
"""CSim: a Device that is the package's own HLS C++, built by g++ into a shared library.  Rung 3.

The library is built once for each design and kept in the user's cache.  The bytes of every port are counted by the C++.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from meadow.compiler.design import BEAT_BYTES
from meadow.compiler.errors import DeviceError, ToolMissing
from meadow.compiler.layout import padded
from meadow.compiler.package import Package
from meadow.runtime.device import Bytes, Counters, Run

PAGE = 4096
PORTS = ("weights0", "weights1", "weights2", "weights3", "constants", "memory", "pacq0", "pacq1", "pacq2", "pacq3")
ROLES = ("weights", "activations", "kv", "intermediates", "program")
LOOPS = (
    "fetch",
    "unpack",
    "multiply",
    "rescale",
    "epilogue",
    "norm",
    "scores",
    "softmax",
    "context",
    "pacq",
    "feed",
    "results",
)
"""As hls/types.hpp numbers them."""
CHANNELS = tuple(f"{port}.{role}.{way}" for port in PORTS for way in ("read", "written") for role in ROLES)
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
         "-shared", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique",
         "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-label")  # fmt: skip
"""Hidden and not unique: engines of several designs live in one process, and their static buffers have one name."""
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g", "-DMEADOW_PLAIN_LANES")
"""With the loops that are synthesized, where a fast build decodes and multiplies in AVX-512 (hls/sim/lanes.hpp)."""
STATUS = {
    1: "the program holds an opcode that the engine does not know",
    2: "the engine refused the run's registers",
    3: "the program has weights that no engine of this design takes",
}
CAUGHT = -1
"""Status of a run that the simulation ended."""
BUILD_TIMEOUT = 300
SLACK = 16 << 20
"""Bytes of simulated memory beside what the package allocates: the chunk table, test patterns, other programs."""


def cache_folder() -> Path:
    """Where built libraries are kept: $XDG_CACHE_HOME/meadow or ~/.cache/meadow."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meadow"


def build(package: Package, sanitize: bool = False) -> Path:
    """The shared library of the package's C++, built if it is not in the cache.

    Raises ToolMissing without g++, DeviceError when it does not compile (with the first error).
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise ToolMissing("the C simulation needs g++: apt-get install g++ (or use the emulator: --device emulator)")
    sources = sorted(p for p in (package.folder / "hls").rglob("*") if p.is_file())
    flags = FLAGS + (SANITIZERS if sanitize else ())
    version = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=False).stdout
    digest = hashlib.sha256("\0".join((*flags, version, cpu())).encode())
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    library = cache_folder() / "csim" / f"{digest.hexdigest()[:32]}.so"
    if library.is_file():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        made = Path(work) / "engine.so"
        command = [compiler, *flags, f"-DMEADOW_WEIGHT_PORTS={package.design.weight_ports}",
                   f"-DMEADOW_PACQ_PORTS={package.design.pacq_ports}",
                   f"-I{package.folder / 'hls' / 'sim'}", f"-I{package.folder / 'hls'}",
                   str(package.folder / "hls" / "sim" / "csim.cpp"), "-o", str(made)]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise DeviceError(f"g++ did not end within {BUILD_TIMEOUT} s") from None
        if done.returncode != 0:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise DeviceError(f"g++ refused the engine's C++: {first}")
        made.replace(library)
    return library


def cpu() -> str:
    """The processor's features: a library built with -march=native runs on its like only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


Counts = list[int]


class Engine:
    """The emitted engine as a library: runs on whatever memory it is given, and counts.

    Engines of one design share the library with its buffers and counts, so that one runs at a time in a process.
    """

    turn = threading.Lock()

    def __init__(self, package: Package, library: Path):
        self.library = ctypes.CDLL(str(library))
        try:
            self.library.meadow_design_id.restype = ctypes.c_char_p
        except AttributeError:
            raise DeviceError(
                f"the C++ in {package.folder} is of another meadow than this one; compile the model again"
            ) from None
        found = self.library.meadow_design_id().decode()
        if found != package.design.id:
            raise DeviceError(f"the engine was built for design {found}, the package is for {package.design.id}")
        self.progress = ctypes.c_uint32()
        self.seconds = 0.0
        self.runs = 0

    def run(self, memory: Bytes, windows: tuple[int, int, int, int], run: Run) -> int:
        """One program run on `memory`, whose addresses are offsets into it; returns the engine's status.

        windows  begin and end of both halves of the DRAM, outside of which no access may lie
        Raises DeviceError for what the simulation catches.
        """
        began = time.perf_counter()
        message = ctypes.create_string_buffer(256)
        u64, u32 = ctypes.c_uint64, ctypes.c_uint32
        with self.turn:
            status = self.library.meadow_csim_run(
                ctypes.c_void_p(memory.ctypes.data), (u64 * 4)(*windows), u64(run.program), u64(run.bases), u32(run.pages),
                u32(run.position), u32(run.tokens), u32(run.first_logit), ctypes.byref(self.progress), message, u64(len(message)),
            )  # fmt: skip
        self.seconds += time.perf_counter() - began
        self.runs += 1
        if status == CAUGHT:
            raise DeviceError(f"the engine stopped: {message.value.decode()}")
        return int(status)

    def counts(self) -> Counts:
        """Beats and bursts by channel, then iterations by loop, since the library was loaded."""
        found = (ctypes.c_uint64 * (2 * len(CHANNELS) + len(LOOPS)))()
        self.library.meadow_csim_traffic(found)
        return list(found)

    def counters(self, before: Counts) -> Counters:
        """What was counted since `before`."""
        now = [a - b for a, b in zip(self.counts(), before, strict=True)]
        beats, bursts = now[0 : 2 * len(CHANNELS) : 2], now[1 : 2 * len(CHANNELS) : 2]
        return Counters(
            {name: n * BEAT_BYTES for name, n in zip(CHANNELS, beats, strict=True)},
            dict(zip(CHANNELS, bursts, strict=True)),
            dict(zip(LOOPS, now[2 * len(CHANNELS) :], strict=True)),
            self.seconds,
            self.runs,
        )


class CSim:
    """The emitted engine on a simulated DRAM of its own."""

    name = "csim"
    emulated = True

    def __init__(self, package: Package, sanitize: bool = False):
        self.design = package.design
        self.engine = Engine(package, build(package, sanitize))
        self.size = sum(padded(c.length, PAGE) + PAGE for c in package.chunks) + SLACK
        self._map: mmap.mmap | None = mmap.mmap(-1, self.size)
        self.memory: Bytes = np.frombuffer(self._map, np.uint8)
        self.next = PAGE
        self._before = self.engine.counts()

    def alloc(self, length: int) -> int:
        address = self.next
        self.next += padded(length, PAGE) + PAGE
        if self.next > self.size:
            raise DeviceError(f"the simulated memory of {self.size} bytes is full")
        return address

    def _view(self, address: int, length: int) -> Bytes:
        if not 0 <= address <= address + length <= self.size:
            raise DeviceError(f"{length} bytes at {address:#x} lie outside of the simulated memory")
        return self.memory[address : address + length]

    def write(self, address: int, data: Bytes) -> None:
        self._view(address, data.nbytes)[:] = data.reshape(-1).view(np.uint8)

    def read(self, address: int, length: int) -> Bytes:
        return self._view(address, length).copy()

    def start(self, run: Run) -> None:
        status = self.engine.run(self.memory, (0, self.size, 0, 0), run)
        if status:
            raise DeviceError(f"the engine stopped: {STATUS.get(status, f'status {status}')}")

    def wait(self, timeout: float | None = None) -> None:
        """Nothing to wait for: start runs to the end."""

    @property
    def counters(self) -> Counters:
        return self.engine.counters(self._before)

    def close(self) -> None:
        self.memory = np.zeros(0, np.uint8)
        self._map = None
