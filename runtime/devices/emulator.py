# SPDX-License-Identifier: Apache-2.0
"""Emulator: a Device in numpy that executes program.bin through the memory map.  The definition of rung 2.

Every number is made by machine/arithmetic/int8.py; this file only moves bytes.  Weights are kept a second time in FP32
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
from meadow.machine.isa import INSTRUCTION_BYTES, Epilogue, Opcode, decode, unpack_slot
from meadow.machine.storage.groups import GroupFormat, GroupLayout, is_grouped
from meadow.machine.storage.rows import Layout, padded
from meadow.machine.storage.unpack import PREFIX_WORD, Stored, format_of, unpack_alike
from meadow.runtime.devices.device import Bytes, Counters, Run

PAGE = 4096
FIRST_ADDRESS = 0x1000_0000
VIEWS = 1 << 15
"""Arrays that are remembered: a program's own are a few thousand, those of the KV cache do not change with its fill."""
UNPACKED_AT_ONCE = 1 << 23
"""Weights of one shape that are unpacked together: numpy is fast on wide arrays."""
Fields = dict[str, Any]


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
            raise DeviceError(f"{run.tokens} tokens after {run.position}: the design takes {self.design.block} a run "
                              f"and a context of {self.design.context}")  # fmt: skip
        self.run = run
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows saturates (docs/arithmetic.md)
            self._execute(run)
        self.counters.seconds += time.perf_counter() - began
        self.counters.runs += 1

    def _execute(self, run: Run) -> None:
        self._bases = self.memory.view(run.bases, 8 * run.pages).view(np.uint64).tolist()
        for opcode, fields in self._program(run):
            try:
                getattr(self, f"_{opcode.name.lower()}")(fields)
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

    def _array(self, word: int, kind: type, *shape: int) -> NDArray[Any]:
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
            if f["format"] == PREFIX_WORD:
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
                scale = self._array(g["weight_scale"], np.float32, layout.scale_bytes // 4)[layout.scale_places]
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
            if "format" in g and g["format"] == PREFIX_WORD and g["cols"] == f["cols"]:
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
            return np.stack([self._array(f[f"weights{p}"], np.int8, step) for p in range(layout.ports)])
        return self._unpack([f], layout)[0]

    def _unpack(self, several: list[Fields], layout: Layout) -> list[NDArray[np.int8]]:
        """The weights of every port, of matrices of one shape and format."""
        form = format_of(several[0]["format"])
        stored = []
        for f in several:
            directory = self._array(f["directory"], np.uint32, layout.tiles, layout.ports)
            table = self._array(f["table"], np.uint8, form.table_bytes(f["entries"]))
            beats = directory.sum(axis=0, dtype=np.int64)
            streams = [self._array(f[f"weights{p}"], np.uint8, int(n) * BEAT_BYTES) for p, n in enumerate(beats)]
            stored.append(Stored(streams, directory, table, f["entries"]))
        try:
            return unpack_alike(form, stored, layout.tile_weights)
        except ValueError as error:
            raise DeviceError(f"packed weights are damaged: {error}") from None

    def _activations(self, f: Fields) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        tokens = self.run.tokens
        codes = self._array(f["codes"], np.int8, tokens, f["cols"]).astype(np.float32)
        return codes, self._array(f["scale"], np.float32, tokens)

    def _project(self, f: Fields, rows: int, tile_rows: int, first: int = 0) -> NDArray[np.float32]:
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
            streams = [self._array(s, np.uint8, layout.port_beats * BEAT_BYTES) for s in slots]
            self._decoded |= {self.memory.allocation(self._address(s)) for s in slots}
            codes, scale, minimum = layout.unpack(streams)
            self._grouped[key] = fp16.grouped_matrix(codes, layout.form.zero, scale, minimum, layout.form.group)
        x = self._array(f["codes"], np.float32, self.run.tokens, padded(f["cols"], 4))[first:, : f["cols"]]
        a = np.zeros((len(x), layout.padded_cols), np.float16)
        a[:, : f["cols"]] = fp16.half(x)
        y = fp16.linear(a, self._grouped[key])
        if self.witness is not None:
            self.witness(f, a, y)
        return y

    # -- instructions ----------------------------------------------------------------------------------------------

    def _norm(self, f: Fields) -> None:
        tokens, cols = self.run.tokens, f["cols"]
        x = self._array(f["source"], np.float32, tokens, padded(cols, 4))[:, :cols]
        gain = self._array(f["gain"], np.float32, cols)
        y = ar.norm(x, gain, np.float32(f["eps"]))
        if f["floats"]:
            target = self._array(f["codes"], np.float32, tokens, padded(cols, 4))
            target[:, :cols] = y
            target[:, cols:] = 0
        else:
            self._store_int8(f, y)

    def _quantize(self, f: Fields) -> None:
        x = self._array(f["source"], np.float32, self.run.tokens, padded(f["cols"], 4))[:, : f["cols"]]
        self._store_int8(f, x)

    def _store_int8(self, f: Fields, x: NDArray[np.float32]) -> None:
        codes, scale = ar.quantize_rows(x)
        target = self._array(f["codes"], np.int8, self.run.tokens, padded(f["cols"], 32))
        target[:, : f["cols"]] = codes
        target[:, f["cols"] :] = 0
        scales = self._array(f["scale"], np.float32, padded(self.run.tokens, 4))
        scales[: self.run.tokens] = scale
        scales[self.run.tokens :] = 0  # whole beats are written

    def _linear(self, f: Fields) -> None:
        tokens, rows = self.run.tokens, f["rows"]
        first = self.run.first_logit if f["epilogue"] == Epilogue.LOGITS else 0
        if first >= tokens:
            return
        y = self._project(f, rows, f["tile_rows"], first)
        match f["epilogue"]:
            case Epilogue.STORE | Epilogue.LOGITS:
                self._store(f, rows, first, y)
            case Epilogue.ADD:
                self._store(f, rows, 0, ar.add(self._target(f, rows), y))
            case Epilogue.GLU:
                self._store(f, rows // 2, 0, ar.silu_times(y[:, 0::2], y[:, 1::2]))
            case Epilogue.HEADS | Epilogue.ROPE_HEADS:
                self._store_heads(f, y.reshape(tokens, -1, f["head_dim"]))

    def _target(self, f: Fields, cols: int) -> NDArray[np.float32]:
        start = f["first_row"] if f["epilogue"] != Epilogue.GLU else f["first_row"] // 2
        whole: NDArray[np.float32] = self._array(f["target"], np.float32, self.run.tokens, f["stride"])
        return whole[:, start : start + cols]

    def _store(self, f: Fields, cols: int, first: int, y: NDArray[np.float32]) -> None:
        """Rows of results from token `first` on; whole beats are written, so what lies behind them in their last is 0."""
        target = self._target(f, padded(cols, 4))[first:]
        target[:, :cols] = y
        target[:, cols:] = 0

    def _rope(self, f: Fields, y: NDArray[np.float32]) -> NDArray[np.float32]:
        half = f["head_dim"] // 2
        row = padded(f["head_dim"] * 2, BEAT_BYTES) // 2
        last = self.run.position + self.run.tokens
        table = self._array(f["rope"], np.int16, self.design.context, row)[self.run.position : last, : 2 * half]
        return ar.rope(y, table.reshape(len(y), 2, half))

    def _store_heads(self, f: Fields, y: NDArray[np.float32]) -> None:
        if f["epilogue"] == Epilogue.ROPE_HEADS:
            y = self._rope(f, y)
        codes, scale = ar.quantize_rows(y)
        heads, capacity, width = y.shape[1], f["capacity"], padded(f["head_dim"], BEAT_BYTES)
        head = f["first_row"] // f["head_dim"]
        target = self._array(f["target"], np.int8, head + heads, capacity, width)[head:]
        scales = self._array(f["target_scale"], np.float32, head + heads, padded(capacity, 4))[head:]
        start = self.run.position if f["append"] else 0
        stop = start + self.run.tokens
        target[:, start:stop, : f["head_dim"]] = codes.swapaxes(0, 1)
        target[:, start:stop, f["head_dim"] :] = 0
        scales[:, start:stop] = scale.T
        scales[:, stop : padded(stop, 4)] = 0

    def _cache(self, f: Fields, kind: str) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """(codes [kv_heads, seen, head_dim], scales [kv_heads, seen]) of "key" or "value"."""
        return self._cache_codes(f, f"{kind}s"), self._cache_scales(f, f"{kind}_scale")

    def _cache_codes(self, f: Fields, name: str) -> NDArray[np.int8]:
        width = padded(f["head_dim"], BEAT_BYTES)
        whole = self._array(f[name], np.int8, f["kv_heads"], f["capacity"], width)
        return whole[:, : self.run.position + self.run.tokens, : f["head_dim"]]

    def _cache_scales(self, f: Fields, name: str) -> NDArray[np.float32]:
        whole = self._array(f[name], np.float32, f["kv_heads"], padded(f["capacity"], 4))
        return whole[:, : self.run.position + self.run.tokens]

    def _visible(self, group: int) -> NDArray[np.bool_]:
        """[group * tokens, seen]: which keys the rows of one KV head may see."""
        seen = self.run.position + self.run.tokens
        mask = np.arange(seen)[None, :] <= np.arange(self.run.position, seen)[:, None]
        return np.tile(mask, (group, 1))

    def _tphs(self, f: Fields) -> None:
        tokens, heads, dim = self.run.tokens, f["heads"], f["head_dim"]
        y = self._project(f, heads * dim, dim).reshape(tokens, heads, dim)
        codes, scale = ar.quantize_rows(self._rope(f, y))
        keys, k_scale = self._cache(f, "key")
        values, v_scale = self._cache(f, "value")
        group = heads // f["kv_heads"]
        visible = self._visible(group)
        target = self._array(f["target"], np.float32, tokens, f["stride"])
        for kv in range(f["kv_heads"]):
            mine = slice(kv * group, (kv + 1) * group)
            q = codes[:, mine].swapaxes(0, 1).reshape(-1, dim).astype(np.float32)
            s = ar.scores(q @ keys[kv].astype(np.float32).T, scale[:, mine].T.reshape(-1), k_scale[kv],
                          np.float32(f["kappa"]))  # fmt: skip
            w, total, exponent = ar.softmax(s, v_scale[kv], visible)
            out = ar.context(w.astype(np.float64) @ values[kv].astype(np.float64), total, exponent)
            target[:, kv * group * dim : (kv + 1) * group * dim] = (
                out.reshape(group, tokens, dim).swapaxes(0, 1).reshape(tokens, -1)
            )

    def _scores(self, f: Fields) -> None:
        tokens, heads, dim, block = self.run.tokens, f["heads"], f["head_dim"], f["block"]
        queries = self._array(f["queries"], np.int8, heads, block, padded(dim, BEAT_BYTES))[:, :tokens, :dim]
        scale = self._array(f["query_scale"], np.float32, heads, padded(block, 4))[:, :tokens]
        keys, k_scale = self._cache(f, "key")
        target = self._array(f["target"], np.float32, heads, block, f["row"])[:, :tokens, : keys.shape[1]]
        group = heads // f["kv_heads"]
        for head in range(heads):
            kv = head // group
            products = queries[head].astype(np.float32) @ keys[kv].astype(np.float32).T
            target[head] = ar.scores(products, scale[head], k_scale[kv], np.float32(f["kappa"]))

    def _softmax(self, f: Fields) -> None:
        tokens, heads, block = self.run.tokens, f["heads"], f["block"]
        seen = self.run.position + tokens
        scores = self._array(f["scores"], np.float32, heads, block, f["row"])[:, :tokens, :seen]
        target = self._array(f["target"], np.uint16, heads, block, f["row"])[:, :tokens, :seen]
        divisor = self._array(f["divisor"], np.float32, heads, block, 4)
        v_scale = self._cache_scales(f, "value_scale")
        visible = self._visible(1)
        for head in range(heads):
            w, total, exponent = ar.softmax(scores[head], v_scale[head // (heads // f["kv_heads"])], visible)
            target[head] = w.astype(np.uint16)
            divisor[head, :tokens, 0] = total
            divisor[head, :tokens, 1] = exponent.astype(np.int32).view(np.float32)

    def _context(self, f: Fields) -> None:
        tokens, heads, dim, block = self.run.tokens, f["heads"], f["head_dim"], f["block"]
        seen = self.run.position + tokens
        weights = self._array(f["weights"], np.uint16, heads, block, f["row"])[:, :tokens, :seen]
        divisor = self._array(f["divisor"], np.float32, heads, block, 4)[:, :tokens]
        values = self._cache_codes(f, "values")
        target = self._array(f["target"], np.float32, tokens, f["stride"])
        for head in range(heads):
            sums = weights[head].astype(np.float64) @ values[head // (heads // f["kv_heads"])].astype(np.float64)
            exponent = np.ascontiguousarray(divisor[head, :, 1]).view(np.int32)
            target[:, head * dim : (head + 1) * dim] = ar.context(sums, divisor[head, :, 0], exponent)
