# SPDX-License-Identifier: Apache-2.0
"""Device: the verbs that a board owes the runtime, and nothing else.

Implemented by emulator.py (numpy), csim.py (the emitted C++) and zynq.py (a board, also an emulated one).  session.py uses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Run:
    """The registers of one program run.

    program      address of its first instruction
    bases        address of the chunk table: uint64 address of each chunk
    pages        entries of the chunk table
    position     tokens in the KV cache before this run
    tokens       tokens of this run
    first_logit  first of them whose logits are wanted; `tokens` for none
    ahead        tokens that the engine chooses and goes on to by itself; 0 for one run
    """

    program: int
    bases: int
    pages: int
    position: int
    tokens: int
    first_logit: int
    ahead: int = 0


@dataclass
class Counters:
    """What a device counted since it was made.

    bytes    DRAM traffic by "PORT.ROLE.read" and "PORT.ROLE.written", at each port access
    bursts   the same, in bursts
    cycles   iterations of the pipelined loops, by loop
    entries  how often each of these loops was entered
    seconds  this machine's time spent running
    unpacked of these, the seconds in which weights were unpacked, which is done once
    """

    bytes: dict[str, int] = field(default_factory=dict)
    bursts: dict[str, int] = field(default_factory=dict)
    cycles: dict[str, int] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    runs: int = 0
    unpacked: float = 0.0


@dataclass
class Abilities:
    """What a device can tell besides; empty or None where it cannot.

    notes       sentences for the user about what was found when it was opened
    operations  register and buffer operations, counted by a board's driver
    clocks_mhz  clocks as they were read back
    cycles      clock cycles that the engine counted
    beside      whether a run goes on beside the host, so that memory can be looked at meanwhile
    """

    notes: list[str] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)
    clocks_mhz: list[float] = field(default_factory=list)
    cycles: Callable[[], int] | None = None
    beside: bool = False


class Device(Protocol):
    """One engine with its memory.  Addresses are bytes; allocations are whole 4 KiB pages.

    A run may be left by an interrupt between `start` and the end of `wait`: what comes next waits for its end first.

    shares_memory  whether what the host writes is what the engine reads, with no cache or bus between
    """

    name: str
    emulated: bool
    shares_memory: bool
    abilities: Abilities

    def alloc(self, length: int) -> int:
        """Reserve `length` bytes of zeros; returns their address.  Raises DeviceError when memory is short."""

    def write(self, address: int, data: Bytes) -> None:
        """Copy `data` to `address`."""

    def read(self, address: int, length: int) -> Bytes:
        """A copy of `length` bytes at `address`."""

    def start(self, run: Run) -> None:
        """Begin a program run."""

    def peek(self, address: int, length: int) -> Bytes:
        """As `read`, also while a run is under way."""

    def ended(self) -> bool:
        """Whether the run that was started has ended; then `wait` returns at once.  Raises DeviceError when nothing moves any more."""

    def stop(self) -> None:
        """End the run that is under way before its next instruction, and wait for that; what it says is nobody's."""

    def wait(self, timeout: float | None = None) -> None:
        """Return when the run has ended.  Raises DeviceError on an error of the engine or after `timeout` seconds."""

    @property
    def counters(self) -> Counters:
        """What was counted so far."""

    def close(self) -> None:
        """Give everything back.  Safe to call twice."""
