# SPDX-License-Identifier: Apache-2.0
"""Buffers: contiguous memory that host and device share without coherent caches, flushed and invalidated by the runtime alone.

Knows nothing of pynq; zynq.py says how memory is allocated.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meadow.machine.errors import DeviceError
from meadow.runtime.devices.device import Bytes

LINE = 64
"""Bytes of a cache line."""
AT_ONCE = 1 << 16
"""Writes of so many bytes are flushed at once, smaller ones with the next start."""
PAGE = 4096


@dataclass
class Buffer:
    """Contiguous memory that knows what the host wrote and the device has not seen, and whether the device wrote since.

    host   the same bytes as a plain array: slices of the other have a destructor in Python, in which an interrupt would be lost
    dirty  [begin, end) of what the host wrote last; newest on the host
    stale  whether the engine ran since the host read: the device may have the newest bytes
    """

    memory: Any
    host: Bytes
    dirty: list[tuple[int, int]] = field(default_factory=list)
    stale: bool = False

    @property
    def address(self) -> int:
        return int(self.memory.physical_address)

    @property
    def length(self) -> int:
        return int(self.memory.nbytes)

    def lines(self, begin: int, end: int) -> tuple[int, int]:
        """The whole cache lines around [begin, end)."""
        return begin // LINE * LINE, min(-(-end // LINE) * LINE, self.length)


class Buffers:
    """The buffers of a session, found by address.

    allocate    makes `length` bytes: a uint8 array with physical_address and freebuffer() (pynq.buffer.PynqBuffer)
    sync        moves cache lines: of such an array, from byte to byte, to the device or from it
    operations  where operations are counted
    """

    def __init__(
        self, allocate: Callable[[int], Any], sync: Callable[[Any, int, int, bool], None], operations: Counter[str]
    ):
        self.allocate, self.sync, self.operations = allocate, sync, operations
        self.held: list[Buffer] = []
        self.limit = 1 << 40

    def alloc(self, length: int) -> int:
        try:
            memory = self.allocate(-(-max(length, 1) // PAGE) * PAGE)
        except (MemoryError, RuntimeError, OSError) as error:
            raise DeviceError(
                f"Could not allocate {length} bytes of contiguous memory: {error}. If memory is short (CmaFree in /proc/meminfo), close what "
                "holds it or add cma=1024M to the kernel's boot arguments"
            ) from None
        self.operations["allocations"] += 1
        buffer = Buffer(memory, np.asarray(memory).view(np.ndarray))
        if buffer.address + buffer.length > self.limit:
            memory.freebuffer()
            raise DeviceError(
                f"memory came from {buffer.address:#x}, but this overlay maps the DRAM below {self.limit:#x} alone: it was built "
                "without the board's files. Install them in Vivado and build again, or keep cma below 2 GB (cma=1024M@0x40000000)"
            )
        buffer.host[:] = 0
        buffer.dirty.append((0, buffer.length))
        self._flush(buffer)
        bisect.insort(self.held, buffer, key=lambda b: b.address)
        return buffer.address

    def _holding(self, address: int, length: int) -> tuple[Buffer, int]:
        place = bisect.bisect_right([b.address for b in self.held], address) - 1
        if place >= 0:
            buffer = self.held[place]
            if address + length <= buffer.address + buffer.length:
                return buffer, address - buffer.address
        raise DeviceError(f"{length} bytes at {address:#x} are in no buffer of this session")

    def write(self, address: int, data: Bytes) -> None:
        buffer, at = self._holding(address, data.nbytes)
        if buffer.stale:
            self._refresh(buffer, at, at + data.nbytes)  # lines around the write hold what the device wrote
        buffer.host[at : at + data.nbytes] = data.reshape(-1).view(np.uint8)
        buffer.dirty.append((at, at + data.nbytes))
        self.operations["buffer writes"] += 1
        if data.nbytes >= AT_ONCE:
            self._flush(buffer)

    def read(self, address: int, length: int) -> Bytes:
        buffer, at = self._holding(address, length)
        self._flush(buffer)  # what is read is what the device has, also of what the host wrote
        self._invalidate(buffer, at, at + length)
        self.operations["buffer reads"] += 1
        return buffer.host[at : at + length].copy()

    def _flush(self, buffer: Buffer) -> None:
        for begin, end in buffer.dirty:
            self.sync(buffer.memory, *buffer.lines(begin, end), True)
            self.operations["flushes"] += 1
        buffer.dirty = []

    def _refresh(self, buffer: Buffer, begin: int, end: int) -> None:
        self._flush(buffer)
        self._invalidate(buffer, begin, end)

    def _invalidate(self, buffer: Buffer, begin: int, end: int) -> None:
        self.sync(buffer.memory, *buffer.lines(begin, end), False)
        self.operations["invalidates"] += 1

    def hand_over(self) -> None:
        """Before the device runs: it sees what the host wrote, and may write anything."""
        for buffer in self.held:
            self._flush(buffer)
            buffer.stale = True

    def close(self) -> None:
        """Give everything back."""
        for buffer in self.held:
            buffer.memory.freebuffer()
        self.held = []
