# SPDX-License-Identifier: Apache-2.0
"""Control: starts the engine by its registers and waits for it, without ever hanging (UG1399, ap_ctrl_hs).

Knows nothing of pynq nor of buffers; the fabric reads and writes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from meadow.machine.errors import DeviceError
from meadow.machine.facts import STATUS_TEXT
from meadow.machine.registers import IDLE, START
from meadow.runtime.devices.device import Run
from meadow.runtime.devices.fabric import Fabric
from meadow.runtime.devices.interrupt import Interrupt

SLICE = 0.02
"""Seconds between two looks at a long run: the longest that Ctrl-C waits."""
STALL = 10.0
"""Seconds without progress after which a run counts as hung."""


@dataclass
class _Watch:
    """What is known of a run that is waited for: when it is given up, when it moved last, where it was, whether Ctrl-C came."""

    ends: float
    moved: float
    progress: int = -1
    pause: float = 0.0
    stopped: bool = False


class Control:
    """Of one engine.

    registers  offset of each of its registers by name
    stall      seconds without progress after which a run is given up
    """

    interrupt: Interrupt | None = None
    """Tells the end of a run, where there is one."""

    def __init__(self, fabric: Fabric, registers: dict[str, int], stall: float = STALL):
        self.fabric, self.registers, self.stall = fabric, registers, stall
        self.seconds, self.runs, self._began = 0.0, 0, 0.0
        self._watch = _Watch(float("inf"), 0.0)
        self.running = False  # whether a run was started whose end nobody has seen

    def state(self) -> str:
        """Where the engine is, in words: for errors and people."""
        return self.fabric.state(self.registers)

    def settle(self) -> None:
        """End a run that an interrupt left behind.  Raises DeviceError when it does not end: until then memory is the engine's."""
        if self.running:
            if not self.settled():
                raise self.hung()
            self.running = False

    def hung(self) -> DeviceError:
        """What is to be said of an engine that not even an abort ends: the fabric must not be loaded while it runs."""
        return DeviceError(
            f"the engine is still running: {self.state()}; it did not end when it was told to. Switch the board off and on: loading "
            "the overlay while reads are under way can stop the processor's memory port"
        )

    def start(self, run: Run) -> None:
        if not self.settled():
            raise self.hung()
        for port in (name for name in self.registers if name.startswith("weights") or name in ("constants", "memory")):
            self._write_wide(port, 0)
        self._write_wide("instructions", run.program)
        self._write_wide("bases", run.bases)
        for name in ("pages", "position", "tokens", "first_logit", "ahead"):
            self.fabric.write("meadow_engine", self.registers[name], getattr(run, name))
        if self.interrupt is not None:
            self.interrupt.arm()
        self._began = time.perf_counter()
        self._watch = _Watch(float("inf"), time.monotonic())
        self.running = True
        self.fabric.write("meadow_engine", self.registers["CTRL"], START)

    def _write_wide(self, name: str, value: int) -> None:
        self.fabric.write("meadow_engine", self.registers[name], value & 0xFFFFFFFF)
        self.fabric.write("meadow_engine", self.registers[name] + 4, value >> 32)

    def _idle(self) -> bool:
        return self.fabric.read("meadow_engine", self.registers["CTRL"]) & (START | IDLE) == IDLE

    def ended(self) -> bool:
        """Whether the run has ended.  Raises DeviceError when nothing moved for `stall` seconds."""
        if not self._idle():
            self._check(self._watch)
            return False
        return True

    def settled(self) -> bool:
        """Whether the engine is idle, or becomes so within `stall` seconds after it is told to end its run."""
        ends = time.monotonic() + self.stall
        told = False
        try:
            while not self._idle():
                if not told:
                    self.fabric.write("meadow_engine", self.registers["abort"], 1)
                    told = True
                if time.monotonic() > ends:
                    return False
                time.sleep(SLICE)
        except DeviceError:  # an emulated engine that was caught: it has ended
            pass
        if told:
            self.fabric.write("meadow_engine", self.registers["abort"], 0)
            self.fabric.clear()
        return True

    def wait(self, timeout: float | None = None) -> None:
        """Look until the run is done, in short slices; Ctrl-C ends with the run that is under way, a second one at once.  Raises
        DeviceError for an error of the engine, after `timeout` seconds, or when nothing moved for `stall` seconds: with the
        engine's state, and never a hang."""
        watch = _Watch(time.monotonic() + timeout if timeout is not None else float("inf"), time.monotonic())
        while True:
            try:
                if self._idle():
                    break
                self._look(watch)
            except KeyboardInterrupt:
                if watch.stopped:
                    raise
                watch.stopped = True
        self.running = False
        self.seconds += time.perf_counter() - self._began
        self.runs += 1
        if watch.stopped:
            raise KeyboardInterrupt
        status = self.fabric.read("meadow_engine", self.registers["ap_return"])
        if status:
            raise DeviceError(f"the engine stopped: {STATUS_TEXT.get(status, f'status {status}')}")

    def _look(self, watch: _Watch) -> None:
        """Wait a slice, and give up a run that does not move."""
        if self.interrupt is not None:
            if self.interrupt.wait(SLICE):
                return
        else:
            time.sleep(watch.pause)
            watch.pause = min(SLICE, watch.pause + 1e-4)
        self._check(watch)

    def _check(self, watch: _Watch) -> None:
        """Raise DeviceError for a run that does not move."""
        now, progress = time.monotonic(), self.fabric.read("meadow_engine", self.registers["progress"])
        if progress != watch.progress:
            watch.moved, watch.progress = now, progress
        if now - watch.moved > self.stall or now > watch.ends:
            raise DeviceError(
                f"the engine did not finish: nothing moved for {now - watch.moved:.1f} s at {self.state()}. Likely causes: a memory port "
                "without clock or reset, a wrong address in the table of chunks, a FIFO between the engines that is full"
            )
