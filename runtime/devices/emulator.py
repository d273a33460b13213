# SPDX-License-Identifier: Apache-2.0
"""Emulator: a Device in numpy that executes program.bin through the memory map.  The definition of rung 2.

Each instruction computes itself (machine/instructions/); this file has memory, programs and unpacked matrices.  Weights are kept a second time in FP32
(four bytes a weight), because FP32 BLAS is the fast exact integer multiplier numpy has.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meadow.machine.arithmetic import fp16
from meadow.machine.arithmetic import int8 as ar
from meadow.machine.design import BEAT_BYTES, Design
from meadow.machine.errors import DeviceError
from meadow.machine.instructions.instruction import Fields
from meadow.machine.instructions.table import TABLE, decode
from meadow.machine.isa import INSTRUCTION_BYTES, Opcode, unpack_slot
from meadow.machine.storage.coded import Coded, format_of, unpack_alike
from meadow.machine.storage.groups import GroupFormat, GroupLayout, is_grouped
from meadow.machine.storage.rows import Layout, padded
from meadow.runtime.devices.device import Abilities, Bytes, Counters, Run

PAGE = 4096
FIRST_ADDRESS = 0x1000_0000
VIEWS = 1 << 15
"""Arrays that are remembered: a program's own are a few thousand, those of the KV cache do not change with its fill."""
UNPACKED_AT_ONCE = 1 << 23
"""Weights of one shape that are unpacked together: numpy is fast on wide arrays."""


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


class Matrix(NamedTuple):
    """INT8 codes [N, padded K] in FP32, how many pieces K needs for exact sums, and the scale of each row."""

    codes: NDArray[np.float32]
    pieces: int
    scale: NDArray[np.float32]


Witness = Callable[[Fields, fp16.Halves, NDArray[np.float32]], None]
"""Sees what pacq_gemv would: an instruction's fields, its activations, its results."""


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
        self._weights: dict[tuple[int, int], Matrix] = {}
        self._grouped: dict[tuple[int, int], fp16.GroupedMatrix] = {}
        self._views: dict[tuple[Any, ...], NDArray[Any]] = {}  # arrays by address, type and shape: the same every token
        self._programs: dict[int, list[tuple[Opcode, Fields]]] = {}
        self.witness: Witness | None = None
        self._decoded: set[int] = set()  # allocations whose bytes were decoded: writing there forgets what was

    def alloc(self, length: int) -> int:
        return self.memory.alloc(length)

    def write(self, address: int, data: Bytes) -> None:
        target = self.memory.view(address, data.nbytes)
        if (
            self.memory.allocation(address) in self._decoded
        ):  # forgotten first: an interrupt must not leave what was decoded
            self._programs.clear()
            self._weights.clear()
            self._grouped.clear()
            self._decoded.clear()
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
        self.run = run
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows saturates (docs/arithmetic.md)
            self._execute(run)
        self.counters.seconds += time.perf_counter() - began
        self.counters.runs += 1

    def _execute(self, run: Run) -> None:
        self._bases = self.memory.view(run.bases, 8 * run.pages).view(np.uint64).tolist()
        for opcode, fields in self._program(run):
            try:
                TABLE[opcode].run(fields, self)
            except (ValueError, IndexError, TypeError, ArithmeticError) as error:
                raise DeviceError(f"the program's {opcode.name} does not fit its operands: {error}") from None

    def wait(self, timeout: float | None = None) -> None:
        """Nothing to wait for: start runs to the end."""

    def close(self) -> None:
        self._weights.clear()
        self._grouped.clear()
        self._views.clear()
        self._programs.clear()
        self.memory = Memory()

    # -- fetching --------------------------------------------------------------------------------------------------

    def _program(self, run: Run) -> list[tuple[Opcode, Fields]]:
        if run.program not in self._programs:
            index = self.memory.allocation(run.program)
            self._decoded.add(index)
            room = self.memory.bases[index] + self.memory.arrays[index].size - run.program if index >= 0 else 0
            try:
                code = self.memory.view(run.program, room - room % INSTRUCTION_BYTES)
                self._programs[run.program] = decode(code.tobytes())
            except ValueError as error:
                raise DeviceError(f"the program at {run.program:#x} is damaged: {error}") from None
        return self._programs[run.program]

    def _address(self, word: int) -> int:
        chunk, offset = unpack_slot(word)
        if chunk >= len(self._bases):
            raise DeviceError(f"a slot names chunk {chunk} and the run has {len(self._bases)}")
        return self._bases[chunk] + offset

    def array(self, word: int, kind: type, *shape: int) -> NDArray[Any]:
        """The array of `shape` that a slot's word points at, in place."""
        key = (self._address(word), kind, shape)
        found = self._views.get(key)
        if found is None:
            if len(self._views) > VIEWS:
                self._views.clear()
            count = math.prod(shape) * np.dtype(kind).itemsize
            found = self._views[key] = self.memory.view(key[0], count).view(kind).reshape(shape)
        return found

    def _matrix(self, f: Fields, rows: int, tile_rows: int) -> Matrix:
        """A matrix as numpy multiplies it.  One that is not unpacked yet takes with it those of its shape that follow."""
        key = (self._address(f["weights0"]), rows)
        if key not in self._weights:
            alike = [f]
            if format_of(f["format"]).together:
                alike += [g for g in self._alike(f, rows) if g is not f]
            layout = Layout(rows, f["cols"], self.design.weight_ports, tile_rows)
            codes = [self._codes(g, layout) for g in alike] if len(alike) == 1 else self._unpack(alike, layout)
            for g, some in zip(alike, codes, strict=True):
                slots = [
                    g["weight_scale"],
                    g["table"],
                    g["directory"],
                    *(g[f"weights{p}"] for p in range(layout.ports)),
                ]
                self._decoded |= {self.memory.allocation(self._address(s)) for s in slots}
                scale = self.array(g["weight_scale"], np.float32, layout.scale_bytes // 4)[layout.scale_places]
                joined = layout.join(some)
                self._weights[self._address(g["weights0"]), rows] = Matrix(
                    joined.astype(np.float32), ar.blocks_for_exact_sums(joined), scale
                )
        return self._weights[key]

    def _alike(self, f: Fields, rows: int) -> list[Fields]:
        """Instructions of the program that is running whose prefix codes are not unpacked and have the shape of `f`."""
        most = max(1, UNPACKED_AT_ONCE // (rows * f["cols"]))
        found = []
        for _, g in self._programs[self.run.program]:
            if "format" in g and g["format"] == f["format"] and g["cols"] == f["cols"]:
                same = g.get("rows", g["heads"] * g["head_dim"] if "heads" in g else 0) == rows
                if (
                    same
                    and g.get("tile_rows") == f.get("tile_rows")
                    and (self._address(g["weights0"]), rows) not in self._weights
                ):
                    found.append(g)
        return found[:most]

    def _codes(self, f: Fields, layout: Layout) -> NDArray[np.int8]:
        """The weights of every port."""
        if f["format"] == 0:
            step = layout.raw_beats * BEAT_BYTES
            return np.stack([self.array(f[f"weights{p}"], np.int8, step) for p in range(layout.ports)])
        return self._unpack([f], layout)[0]

    def _unpack(self, several: list[Fields], layout: Layout) -> list[NDArray[np.int8]]:
        """The weights of every port, of matrices of one shape and format."""
        form = format_of(several[0]["format"])
        stored = []
        for f in several:
            directory = self.array(f["directory"], np.uint32, layout.tiles, layout.ports)
            table = self.array(f["table"], np.uint8, form.table_bytes(f["entries"]))
            beats = directory.sum(axis=0, dtype=np.int64)
            streams = [self.array(f[f"weights{p}"], np.uint8, int(n) * BEAT_BYTES) for p, n in enumerate(beats)]
            stored.append(Coded(streams, directory, table, f["entries"]))
        try:
            return unpack_alike(form, stored, layout.tile_weights)
        except ValueError as error:
            raise DeviceError(f"packed weights are damaged: {error}") from None

    def _activations(self, f: Fields) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        tokens = self.run.tokens
        codes = self.array(f["codes"], np.int8, tokens, f["cols"]).astype(np.float32)
        return codes, self.array(f["scale"], np.float32, tokens)

    def project(self, f: Fields, rows: int, tile_rows: int, first: int = 0) -> NDArray[np.float32]:
        """FP32 results [tokens - first, rows] of a linear layer."""
        if is_grouped(f["format"]):
            return self._project_grouped(f, rows, first)
        m = self._matrix(f, rows, tile_rows)
        codes, scale = self._activations(f)
        return ar.rescale(ar.int8_products(codes[first:], m.codes, m.pieces), scale[first:], m.scale)

    def _project_grouped(self, f: Fields, rows: int, first: int) -> NDArray[np.float32]:
        """The same by pacq_gemv: FP32 rows are rounded to FP16, columns padded to whole groups."""
        key = (self._address(f["weights0"]), rows)
        layout = GroupLayout(rows, f["cols"], self.design.pacq_ports, GroupFormat.of_word(f["format"]))
        if key not in self._grouped:
            slots = [f[f"weights{p}"] for p in range(layout.ports)]
            streams = [self.array(s, np.uint8, layout.port_beats * BEAT_BYTES) for s in slots]
            self._decoded |= {self.memory.allocation(self._address(s)) for s in slots}
            codes, scale, minimum = layout.unpack(streams)
            self._grouped[key] = fp16.grouped_matrix(codes, layout.form.zero, scale, minimum, layout.form.group)
        x = self.array(f["codes"], np.float32, self.run.tokens, padded(f["cols"], 4))[first:, : f["cols"]]
        a = np.zeros((len(x), layout.padded_cols), np.float16)
        a[:, : f["cols"]] = fp16.half(x)
        y = fp16.linear(a, self._grouped[key])
        if self.witness is not None:
            self.witness(f, a, y)
        return y
