# SPDX-License-Identifier: Apache-2.0
"""Engine: the C simulation of the emitted engine in a process of its own, on memory that it shares with this one.

What kills the simulation is an error in a sentence here.  A run goes on beside the caller; `start` and `wait` may be interrupted
anywhere (csim_worker.py has the protocol).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path

import numpy as np

from meadow.machine.errors import DeviceError
from meadow.machine.facts import LOOPS, PORTS
from meadow.machine.instructions.instruction import ROLES
from meadow.machine.package.read import Package
from meadow.machine.units import BEAT_BYTES
from meadow.runtime.devices import csim_worker
from meadow.runtime.devices.csim_worker import CYCLES, READ, RUN, WRITE, Box
from meadow.runtime.devices.device import Bytes, Counters, Run

CHANNELS = tuple(f"{port}.{role}.{way}" for port in PORTS for way in ("read", "written") for role in ROLES)
CAUGHT = -1
"""Status of a run that the simulation ended."""
SLICE = 0.05
"""Seconds after which a lost wake-up is noticed."""
START_TIMEOUT = 60
Windows = tuple[int, int, int, int]
Counts = list[int]


class SharedMemory:
    """`size` bytes of zeros that another process can map.  Addresses are taken, memory only where it is touched."""

    def __init__(self, size: int, name: str):
        if hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create(name)
        else:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.descriptor)
        self.size = size
        os.ftruncate(self.descriptor, size)
        self.map = mmap.mmap(self.descriptor, size)
        self.bytes: Bytes = np.frombuffer(self.map, np.uint8)


class Engine:
    """The emitted engine of `library` on `memory`, whose addresses are offsets into it.

    Raises DeviceError for C++ of another design, or of another version of meadow.
    """

    def __init__(self, package: Package, library: Path, memory: SharedMemory):
        self.folder = package.folder
        self._box_memory = SharedMemory(ctypes.sizeof(Box), "meadow-box")
        self.box = Box.from_buffer(self._box_memory.map)
        self.turn = threading.RLock()
        self.seconds, self.runs, self._told = 0.0, 0, 0
        box, ram = self._box_memory.descriptor, memory.descriptor
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", csim_worker.__file__, str(library), str(box), str(ram), str(memory.size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=(box, ram),
            start_new_session=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._end = weakref.finalize(self, _end, self.process)
        self._to, self._from = self.process.stdin.fileno(), self.process.stdout.fileno()
        if not select.select([self._from], [], [], START_TIMEOUT)[0] or not os.read(self._from, 1):
            raise self._died()
        found = self.box.design.decode()
        if found != package.design.id:
            self.close()
            raise DeviceError(f"the engine was built for design {found}, the package is for {package.design.id}")

    def _died(self) -> DeviceError:
        """What is known of a simulation that has ended by itself."""
        code = self.process.wait()
        if code == 3:
            return DeviceError(f"the C++ in {self.folder} is of another meadow than this one; compile the model again")
        how = f"signal {-code} ({signal.Signals(-code).name})" if -65 < code < 0 else f"exit code {code}"
        return DeviceError(
            f"the C simulation of {self.folder} died by {how}: its program, its weights or its C++ is damaged. Compile the model again, and "
            "open a new Session"
        )

    # -- requests --------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a request is under way.  One whose caller was interrupted before the process was told, is told now."""
        under_way = bool(self.box.request != self.box.answered)
        if under_way and self._told != self.box.request:
            self._wake()
        if under_way and self.process.poll() is not None:
            raise self._died()
        return under_way

    @property
    def progress(self) -> int:
        """The step of the program that runs, from 1."""
        return int(self.box.progress)

    def _ask(self, kind: int, *words: int) -> None:
        """Begin a request.  Nothing has begun when this is interrupted before the request has its number."""
        if self.busy:
            raise DeviceError("the C simulation still runs; nothing may be asked of it before it ends")
        self.box.kind = kind
        self.box.word[: len(words)] = words
        self.box.request = (self.box.request + 1) & 0xFFFFFFFF
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._to, b".")
        except OSError:
            raise self._died() from None
        self._told = self.box.request

    def _answer(self, timeout: float | None = None) -> None:
        """Wait for the request that is under way, if there is one.  Raises DeviceError when the simulation died, or after
        `timeout` seconds."""
        ends = None if timeout is None else time.monotonic() + timeout
        while self.busy:
            if select.select([self._from], [], [], SLICE)[0] and not os.read(self._from, 4096) and self.busy:
                raise self._died()
            if ends is not None and time.monotonic() > ends and self.busy:
                raise DeviceError(f"the C simulation did not end within {timeout:g} s, at step {self.progress}")

    # -- runs ------------------------------------------------------------------------------------------------------

    def start(self, windows: Windows, run: Run) -> None:
        """Begin a program run.  `windows`: begin and end of both halves of the DRAM, outside of which no access may lie."""
        self._ask(RUN, *windows, run.program, run.bases, run.pages, run.position, run.tokens, run.first_logit)

    def wait(self, timeout: float | None = None) -> int:
        """The status of the run that is under way, or of the last.  Raises DeviceError for what the simulation caught, when it
        died, or after `timeout` seconds."""
        self._answer(timeout)
        if self.box.counted != self.box.request:
            self.box.counted = self.box.request
            self.seconds += self.box.seconds
            self.runs += 1
        if self.box.status == CAUGHT:
            raise DeviceError(f"the engine stopped: {self.box.message.decode(errors='replace')}")
        return int(self.box.status)

    def settle(self) -> None:
        """Wait for a run that an interrupt left behind; what it stopped for is nobody's error any more."""
        if self.busy:
            self._answer()

    def run(self, windows: Windows, run: Run) -> int:
        """One program run to its end; returns the engine's status."""
        with self.turn:
            self.start(windows, run)
            return self.wait()

    def counts(self) -> Counts:
        """Beats and bursts by channel, then iterations by loop, since this engine was made."""
        return list(self.box.counts[: 2 * len(CHANNELS) + len(LOOPS)])

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

    # -- pacq_gemv in Verilog --------------------------------------------------------------------------------------

    def read_register(self, offset: int) -> int:
        """A register of pacq_gemv in Verilog (evidence/ladder/cosim_board.py)."""
        return self._value(READ, offset)

    def write_register(self, offset: int, value: int) -> None:
        self._value(WRITE, offset, value)

    def clock_cycles(self) -> int:
        """Of pacq_gemv's clock, since this engine was made."""
        return self._value(CYCLES)

    def _value(self, kind: int, *words: int) -> int:
        with self.turn:
            self._answer()
            self._ask(kind, *words)
            self._answer()
            return int(self.box.value)

    def close(self) -> None:
        """End the process.  Safe to call twice."""
        self._end()


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
