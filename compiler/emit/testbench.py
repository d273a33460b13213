# SPDX-License-Identifier: Apache-2.0
"""Testbench: a program of a few steps with its memory before and after, small enough for RTL co-simulation.

Made of the compiler's own arithmetic, so that a wrong build shows in seconds and without a model.  Prints no C++.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meadow.machine.arithmetic import int8
from meadow.machine.design import Design
from meadow.machine.engines.array import Array
from meadow.machine.instructions.norm import norm as norm_rows
from meadow.machine.instructions.table import encode
from meadow.machine.isa import Epilogue, Opcode, Value
from meadow.machine.storage.rows import Layout, padded
from meadow.machine.units import BEAT_BYTES, LANE_COLS

TOKENS = 3
COLS = 64
ROWS = 32
PROGRAM, BASES = 0x0, 0x400
"""Addresses; chunk 0 begins at 0, so that slots are addresses."""


@dataclass(frozen=True)
class Testbench:
    """image  uint8, the whole memory before; `depth` beats.  golden  (name, address, bytes that must be there after)."""

    image: NDArray[np.uint8]
    golden: tuple[tuple[str, int, NDArray[np.uint8]], ...]

    @property
    def depth(self) -> int:
        """Beats that a port can reach: what cosim must copy."""
        return self.image.size // BEAT_BYTES


class _Memory:
    """Addresses handed out one after another from behind the program and the table."""

    def __init__(self) -> None:
        self.at = BASES + BEAT_BYTES
        self.pieces: list[tuple[int, NDArray[np.uint8]]] = []

    def put(self, values: NDArray[np.generic]) -> int:
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        place, self.at = self.at, padded(self.at + data.size, BEAT_BYTES)
        self.pieces.append((place, data))
        return place

    def room(self, length: int) -> int:
        return self.put(np.zeros(length, np.uint8))


def testbench(design: Design) -> Testbench:
    """A norm with its quantization, then a linear layer of the INT8 array, or of floats and no linear where there is none."""
    random = np.random.default_rng(1)
    memory = _Memory()
    x = random.standard_normal((TOKENS, COLS)).astype(np.float32)
    gain = random.standard_normal(COLS).astype(np.float32)
    eps = np.float32(1e-5)
    y = norm_rows(x, gain, eps)
    places = {"x": memory.put(x), "gain": memory.put(gain)}
    norm: dict[str, Value] = {
        "source": _slot(places["x"]),
        "gain": _slot(places["gain"]),
        "cols": COLS,
        "eps": float(eps),
        "inverse": float(np.float32(1 / np.float32(COLS))),
    }
    if not design.engine(Array).ports:
        target = memory.room(y.nbytes)
        codes, scale = int8.quantize_rows(y)
        at, scale_at = memory.room(codes.nbytes), memory.room(padded(scale.nbytes, BEAT_BYTES))
        quantize: dict[str, Value] = {"source": _slot(target), "codes": _slot(at), "scale": _slot(scale_at)}
        steps = [
            encode(Opcode.NORM, {**norm, "codes": _slot(target), "scale": 0, "floats": 1}),
            encode(Opcode.QUANTIZE, {**quantize, "cols": COLS}),
        ]
        return _finish(
            memory, steps, (("rows of the norm", target, y), ("codes", at, codes), ("scales", scale_at, scale))
        )
    codes, scale = int8.quantize_rows(y)
    codes_at, scale_at = memory.room(codes.nbytes), memory.room(padded(scale.nbytes, BEAT_BYTES))
    linear, target, result = _linear(random, memory, design, codes, scale)
    linear |= {"codes": _slot(codes_at), "scale": _slot(scale_at)}
    steps = [
        encode(Opcode.NORM, {**norm, "codes": _slot(codes_at), "scale": _slot(scale_at), "floats": 0}),
        encode(Opcode.LINEAR, linear),
    ]
    return _finish(memory, steps, (("codes", codes_at, codes), ("scales", scale_at, scale), ("rows", target, result)))


def _linear(
    random: np.random.Generator,
    memory: _Memory,
    design: Design,
    codes: NDArray[np.int8],
    scale: NDArray[np.float32],
) -> tuple[dict[str, Value], int, NDArray[np.float32]]:
    """A matrix stored raw: the fields of its LINEAR but for where the activations are, the address of its results, and the results."""
    layout = Layout(ROWS, COLS, design.engine(Array).ports, min(design.tile_rows, ROWS // 2))
    weights = random.integers(-127, 128, (ROWS, COLS)).astype(np.int8)
    w_scale = (random.random(ROWS) / 100).astype(np.float32)
    placed = np.zeros(layout.scale_bytes // 4, np.float32)
    placed[layout.scale_places] = w_scale
    streams = [_slot(memory.put(stream)) for stream in layout.split(weights)]
    sums = int8.int8_products(codes.astype(np.float32), weights.astype(np.float32), int8.blocks_for_exact_sums(weights))
    result = int8.rescale(sums, scale, w_scale)
    target = memory.room(result.nbytes)
    idle = ("format", "directory", "table", "entries", "reuse", "hold", "target_scale", "capacity", "append")
    fields: dict[str, Value] = {
        **dict.fromkeys((*idle, "head_dim", "rope", "first_row"), 0),
        "weight_scale": _slot(memory.put(placed)),
        "rows": ROWS,
        "cols": padded(COLS, LANE_COLS),
        "tile_rows": layout.tile_rows,
        "epilogue": int(Epilogue.STORE),
        "target": _slot(target),
        "stride": ROWS,
        **{f"weights{p}": streams[p] if p < len(streams) else 0 for p in range(4)},
    }
    return fields, target, result


def _slot(address: int) -> int:
    return address // BEAT_BYTES


def _finish(memory: _Memory, steps: list[bytes], golden: tuple[tuple[str, int, NDArray[np.generic]], ...]) -> Testbench:
    code = b"".join(steps) + encode(Opcode.END, {})
    assert len(code) <= BASES
    image = np.zeros(padded(memory.at, 4096), np.uint8)
    image[PROGRAM : PROGRAM + len(code)] = np.frombuffer(code, np.uint8)
    for at, data in memory.pieces:  # the table of chunks is one zero: chunk 0 begins at address 0
        image[at : at + data.size] = data
    wanted = tuple((name, at, np.ascontiguousarray(v).reshape(-1).view(np.uint8)) for name, at, v in golden)
    return Testbench(image, wanted)
