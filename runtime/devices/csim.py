# SPDX-License-Identifier: Apache-2.0
"""CSim: a Device that is the package's own HLS C++, built by g++ into a shared library and run in a process of its own.  Rung 3.

The library is built once for each design and kept in the user's cache.  The bytes of every port are counted by the C++.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from meadow.machine.engines.array import Array
from meadow.machine.errors import DeviceError, ResourceExceeded, ToolMissing
from meadow.machine.facts import STATUS_TEXT
from meadow.machine.package.read import Package
from meadow.machine.storage.rows import padded
from meadow.runtime.devices.built import is_whole, keep, place
from meadow.runtime.devices.csim_engine import Engine, SharedMemory
from meadow.runtime.devices.device import Abilities, Bytes, Counters, Run

PAGE = 4096
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-unused-label",
)
"""Hidden and not unique: engines of several designs live in one process, and their static buffers have one name."""
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g", "-DMEADOW_PLAIN_LANES")
"""With the loops that are synthesized, where a fast build decodes and multiplies in AVX-512 (hls/sim/lanes.hpp)."""
BUILD_TIMEOUT = 300
SLACK = 16 << 20
"""Bytes of simulated memory beside what the package allocates: the chunk table, test patterns, other programs."""


def build(package: Package, sanitize: bool = False) -> Path:
    """The shared library of the package's C++, built if it is not in the cache.

    Raises ToolMissing without g++, DeviceError when it does not compile (with the first error).
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise ToolMissing("the C simulation needs g++: apt-get install g++ (or use the emulator: --device emulator)")
    flags = FLAGS + (SANITIZERS if sanitize else ())
    version = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=False).stdout
    design = package.design
    ports = [f"-DMEADOW_WEIGHT_PORTS={design.engine(Array).ports}", f"-DMEADOW_GEMV={int(design.beside is not None)}"]
    sources = {name: path.read_bytes() for name, path in package.sources("hls").items()}
    library = place("csim", [*flags, *ports, version, cpu()], sources, ".so")
    if is_whole(library):
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        made = Path(work) / "engine.so"
        command = [
            compiler,
            *flags,
            *ports,
            f"-I{package.folder / 'hls' / 'sim'}",
            f"-I{package.folder / 'hls'}",
            str(package.folder / "hls" / "sim" / "csim.cpp"),
            "-o",
            str(made),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise DeviceError(f"g++ did not end within {BUILD_TIMEOUT} s") from None
        if done.returncode != 0:
            if "No space left on device" in done.stderr:
                raise ResourceExceeded(f"g++ found no space left on the device for {library.parent}; nothing was kept")
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise DeviceError(f"g++ refused the engine's C++: {first}")
        return keep(made, library)


def cpu() -> str:
    """The processor's features: a library built with -march=native runs on its like only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


class CSim:
    """The emitted engine on a simulated DRAM of its own."""

    name = "csim"
    emulated = True
    shares_memory = True

    def __init__(self, package: Package, sanitize: bool = False):
        self.design = package.design
        self.size = sum(padded(c.length, PAGE) + PAGE for c in package.chunks) + SLACK
        self._shared = SharedMemory(self.size, "meadow-dram")
        self.memory: Bytes = self._shared.bytes
        self.engine = Engine(package, build(package, sanitize), self._shared)
        self.next = PAGE
        self._before = self.engine.counts()
        self.abilities = Abilities(beside=True)

    def alloc(self, length: int) -> int:
        address = self.next
        self.next += padded(length, PAGE) + PAGE
        if self.next > self.size:
            raise DeviceError(f"the simulated memory of {self.size} bytes is full")
        return address

    def _view(self, address: int, length: int) -> Bytes:
        """Memory, once a run that was left by an interrupt has ended: until then it is the engine's."""
        self.engine.settle()
        if not 0 <= address <= address + length <= self.size:
            raise DeviceError(f"{length} bytes at {address:#x} lie outside of the simulated memory")
        return self.memory[address : address + length]

    def peek(self, address: int, length: int) -> Bytes:
        if not 0 <= address <= address + length <= self.size:
            raise DeviceError(f"{length} bytes at {address:#x} lie outside of the simulated memory")
        return self.memory[address : address + length].copy()

    def ended(self) -> bool:
        return not self.engine.busy

    def stop(self) -> None:
        if self.engine.busy:
            self.engine.abort()
        self.engine.settle()

    def write(self, address: int, data: Bytes) -> None:
        self._view(address, data.nbytes)[:] = data.reshape(-1).view(np.uint8)

    def read(self, address: int, length: int) -> Bytes:
        return self._view(address, length).copy()

    def start(self, run: Run) -> None:
        self.engine.settle()
        self.engine.start((0, self.size, 0, 0), run)

    def wait(self, timeout: float | None = None) -> None:
        status = self.engine.wait(timeout)
        if status:
            raise DeviceError(f"the engine stopped: {STATUS_TEXT.get(status, f'status {status}')}")

    @property
    def counters(self) -> Counters:
        return self.engine.counters(self._before)

    def close(self) -> None:
        self.engine.close()
        self.memory = np.zeros(0, np.uint8)


def opened(package: Package, fault: str) -> CSim:
    """The C simulation of a package; it has no faults."""
    return CSim(package)
