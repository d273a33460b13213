# SPDX-License-Identifier: Apache-2.0
"""Emulator: a Device in numpy that executes program.bin through the memory map.  The definition of rung 2.

Instructions and engines compute themselves (machine/); this file has memory, programs and what was decoded of them.  Weights are kept
a second time in FP32 (four bytes per weight), because FP32 BLAS is the fast exact integer multiplier numpy has.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.design import Design
from meadow.machine.errors import DeviceError
from meadow.machine.instructions.instruction import Fields, Witness
from meadow.machine.instructions.table import TABLE, decode
from meadow.machine.isa import INSTRUCTION_BYTES, Opcode, unpack_slot
from meadow.machine.package.read import Package
from meadow.machine.storage.rows import padded
from meadow.runtime.devices.device import Abilities, Bytes, Counters, Run

PAGE = 4096
FIRST_ADDRESS = 0x1000_0000
VIEWS = 1 << 15
"""Arrays that are remembered: a program's own are a few thousand, those of the KV cache do not change with its fill."""


class Memory:
    """Separate allocations with gaps between them: an access outside one is an error, not another buffer's bytes."""

    def __init__(self) -> None:
        self.bases: list[int] = []
        self.arrays: list[Bytes] = []
        self.next = FIRST_ADDRESS

    def alloc(self, length: int) -> int:
        address = self.next
        self.bases.append(address)
        self.arrays.append(np.zeros(padded(length, PAGE), np.uint8))
        self.next = address + padded(length, PAGE) + PAGE
        return address

    def allocation(self, address: int) -> int:
        """The index of the allocation that holds `address`, or -1."""
        return bisect_right(self.bases, address) - 1

    def view(self, address: int, length: int) -> Bytes:
        """The bytes themselves.  Raises DeviceError outside of an allocation."""
        index = self.allocation(address)
        if index >= 0:
            offset = address - self.bases[index]
            if length >= 0 and offset + length <= self.arrays[index].size:
                return self.arrays[index][offset : offset + length]
        raise DeviceError(f"an access of {length} bytes at {address:#x} lies outside of every allocation")


class Emulator:
    """See the module.  `design` is the fabric's own: a program for another one is the session's to refuse."""

    name = "emulator"
    emulated = True
    shares_memory = True

    def __init__(self, design: Design):
        self.design = design
        self.memory = Memory()
        self.counters = Counters()
        self.abilities = Abilities()
        self.decoded: dict[tuple[Any, ...], Any] = {}
        self._views: dict[tuple[Any, ...], NDArray[Any]] = {}  # arrays by address, type and shape: the same every token
        self._programs: dict[int, list[tuple[Opcode, Fields]]] = {}
        self.witness: Witness | None = None
        self.live: list[int] | None = None
        self.made = 0
        self._again = False
        self._sources: set[int] = set()  # allocations whose bytes were decoded: writing there forgets what was

    def alloc(self, length: int) -> int:
        return self.memory.alloc(length)

    def write(self, address: int, data: Bytes) -> None:
        target = self.memory.view(address, data.nbytes)
        if self.memory.allocation(address) in self._sources:  # first: an interrupt must not leave what was decoded
            self._programs.clear()
            self.decoded.clear()
            self._sources.clear()
        target[:] = data.reshape(-1).view(np.uint8)

    def read(self, address: int, length: int) -> Bytes:
        return self.memory.view(address, length).copy()

    def start(self, run: Run) -> None:
        began = time.perf_counter()
        if not 0 < run.tokens <= self.design.block or run.position + run.tokens > self.design.context:
            raise DeviceError(
                f"{run.tokens} tokens after {run.position}: the design takes {self.design.block} a run "
                f"and a context of {self.design.context}"
            )
        if run.ahead and (run.tokens != 1 or run.first_logit or run.ahead > self.design.context - run.position):
            raise DeviceError(
                f"{run.ahead} tokens ahead of a run of {run.tokens} after {run.position}: one token, and as many as the context holds"
            )
        self.run, self.made = run, 0
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows saturates (docs/arithmetic.md)
            self._execute(run)
        self.counters.seconds += time.perf_counter() - began
        self.counters.runs += 1

    def _execute(self, run: Run) -> None:
        self._bases = self.memory.view(run.bases, 8 * run.pages).view(np.uint64).tolist()
        self._again = True
        while self._again:
            self._again = False
            for opcode, fields in self._program(run):
                try:
                    TABLE[opcode].run(fields, self)
                except (ValueError, IndexError, TypeError, ArithmeticError) as error:
                    raise DeviceError(f"the program's {opcode.name} does not fit its operands: {error}") from None

    def go_on(self) -> None:
        """Run the program again after its end, a position later."""
        self.made += 1
        self.run = replace(self.run, position=self.run.position + 1)
        self._again = True

    def wait(self, timeout: float | None = None) -> None:
        """Nothing to wait for: start runs to the end."""

    def peek(self, address: int, length: int) -> Bytes:
        return self.read(address, length)

    def ended(self) -> bool:
        return True

    def stop(self) -> None:
        """Nothing to end."""

    def close(self) -> None:
        self.decoded.clear()
        self._views.clear()
        self._programs.clear()
        self.memory = Memory()

    # -- fetching --------------------------------------------------------------------------------------------------

    def _program(self, run: Run) -> list[tuple[Opcode, Fields]]:
        if run.program not in self._programs:
            index = self.memory.allocation(run.program)
            self._sources.add(index)
            room = self.memory.bases[index] + self.memory.arrays[index].size - run.program if index >= 0 else 0
            try:
                code = self.memory.view(run.program, room - room % INSTRUCTION_BYTES)
                self._programs[run.program] = decode(code.tobytes())
            except ValueError as error:
                raise DeviceError(f"the program at {run.program:#x} is damaged: {error}") from None
        return self._programs[run.program]

    def address(self, word: int) -> int:
        """The address that a slot's word points at."""
        chunk, offset = unpack_slot(word)
        if chunk >= len(self._bases):
            raise DeviceError(f"a slot names chunk {chunk} and the run has {len(self._bases)}")
        return self._bases[chunk] + offset

    def array(self, word: int, kind: type, *shape: int) -> NDArray[Any]:
        """The array of `shape` that a slot's word points at, in place."""
        key = (self.address(word), kind, shape)
        found = self._views.get(key)
        if found is None:
            if len(self._views) > VIEWS:
                self._views.clear()
            count = math.prod(shape) * np.dtype(kind).itemsize
            found = self._views[key] = self.memory.view(key[0], count).view(kind).reshape(shape)
        return found

    def remember(self, key: tuple[Any, ...], value: Any, words: Iterable[int]) -> None:
        """Keep `value`, which was decoded of the memory that the slots `words` point at, until that memory is written."""
        self._sources |= {self.memory.allocation(self.address(word)) for word in words}
        self.decoded[key] = value

    @contextmanager
    def unpacking(self) -> Iterator[None]:
        """Time weights that are unpacked apart: a rate is that of what every token takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.counters.unpacked += time.perf_counter() - began

    def instructions(self) -> list[Fields]:
        """The fields of every instruction of the program that is running."""
        return [fields for _, fields in self._programs[self.run.program]]


def opened(package: Package, fault: str) -> Emulator:
    """The emulator of a package's design; it has no faults."""
    return Emulator(package.design)
