# SPDX-License-Identifier: Apache-2.0
"""column_gemm: INT8 activations times INT8 weights that lie column by column; a column meets all tokens as it comes.

rtl/column_gemm.v is the engine; hls/columns.hpp drives it and hls/sim/columns.hpp is the same in C++.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from meadow.machine.arithmetic import int8 as ar
from meadow.machine.engines.array import Matrix
from meadow.machine.engines.engine import Engine, Place, Unpacked
from meadow.machine.instructions.instruction import (
    FLOATS,
    SCRATCH,
    WEIGHTS,
    Beats,
    Extent,
    Fields,
    Machine,
    Operands,
    PackedBeats,
    Part,
    Tokens,
    beats_of,
    looped,
    need,
)
from meadow.machine.memories import Memory
from meadow.machine.step import Step
from meadow.machine.storage.columns import LISTED, STRIPE, ColumnLayout, is_columns
from meadow.machine.storage.rows import padded
from meadow.machine.types import I8, Elem
from meadow.machine.units import BEAT_BYTES, COLUMN_SUMS, LANE_COLS, LARGEST_CLOCK_MHZ, power_of_two

if TYPE_CHECKING:
    from meadow.machine.design import Design

LATENCY = 60
"""Cycles from the last code to the first sum, through both clocks.  Assumed."""
LUT = {"fixed": 1_500, "port": 450, "token": 1_080}
"""LUT: once, per port, per token (Yosys, make synth)."""


@dataclass(frozen=True)
class Columns(Engine):
    """column_gemm.

    ports      128-bit AXI ports that stream columns: 1, 2 or 4
    tokens     tokens that meet a column: a block has as many at most
    fifo       beats that each of its ports reads ahead
    clock_mhz  its clock; assumed, not closed
    """

    tokens: int = 8
    fifo: int = 512
    clock_mhz: int = 0

    name: ClassVar[str] = "column_gemm"
    weights: ClassVar[str] = "INT8 weights"
    numbers: ClassVar[dict[str, str]] = {
        "column_ports": "ports",
        "column_tokens": "tokens",
        "column_fifo": "fifo",
        "column_clock_mhz": "clock_mhz",
    }
    choices: ClassVar[dict[str, tuple[int, ...]]] = {
        "column_ports": (0, 1, 2, 4),
        "column_tokens": (1, 2, 4, 8, 16, 24, 32),
        "column_fifo": (128, 256, 512, 1024, 2048, 4096, 8192),
    }
    port: ClassVar[str] = "columns"
    pin: ClassVar[str] = "column_gemm/m_axi_{n}"
    activations: ClassVar[str] = "int8"
    own_clock: ClassVar[bool] = True
    instead: ClassVar[bool] = True

    @classmethod
    def takes(cls, word: int) -> bool:
        return is_columns(word)

    @classmethod
    def live_word(cls, word: int) -> int:
        return word | LISTED

    @classmethod
    def stored_word(cls, word: int) -> int:
        return word & ~LISTED

    @classmethod
    def multiplies(cls, elem: Elem) -> bool:
        return elem == I8

    def problems(self, f: Fields, tile_rows: int, design: Design) -> list[str]:
        if f["cols"] % LANE_COLS or tile_rows % BEAT_BYTES:
            return [f"{f['cols']} columns and tiles of {tile_rows} rows are not whole words and beats"]
        return []

    def check(self, design: Design) -> None:
        if not 0 < self.clock_mhz <= LARGEST_CLOCK_MHZ:
            raise ValueError(f"column_clock_mhz is {self.clock_mhz}; 1 to {LARGEST_CLOCK_MHZ} are possible")
        if not self.block_fits(design.block):
            raise ValueError(f"block is {design.block}; column_gemm takes {self.tokens} tokens at once")
        if design.tile_rows % BEAT_BYTES:
            raise ValueError(f"tile_rows is {design.tile_rows}; column_gemm takes multiples of {BEAT_BYTES}")
        if any(e.own_clock and e is not self for e in design.engines):
            raise ValueError("column_ports beside pacq_ports: a design has one engine with a clock of its own")

    def block_fits(self, block: int) -> bool:
        """Whether it takes so many tokens at once."""
        return block <= self.tokens

    def clock(self, design: Design) -> int:
        return self.clock_mhz

    def products_per_cycle(self, design: Design) -> int:
        return self.ports * BEAT_BYTES * self.tokens

    def words(self, design: Design) -> int:
        """Words of 16 codes that a row has at most: a power of two."""
        return power_of_two(design.max_cols // BEAT_BYTES)

    def resources(self, design: Design) -> dict[str, int]:
        """DSP slices as they are written down, and one per port for places; LUT as Yosys finds them (make synth)."""
        return {
            "DSP": self.ports * (BEAT_BYTES // 2 * self.tokens + 1),
            "LUT": LUT["fixed"] + LUT["port"] * self.ports + LUT["token"] * self.tokens,
            "BRAM36": 0,
        }

    def memories(self, design: Design) -> dict[str, Memory]:
        words = self.words(design)
        return {
            "weights read ahead": Memory(self.ports, self.fifo, 8 * BEAT_BYTES),
            "codes of column_gemm": Memory(self.tokens, 2 * words, 8 * BEAT_BYTES),
            "sums of column_gemm": Memory(self.tokens, 2 * STRIPE, 32 * BEAT_BYTES),
            "live columns": Memory(self.ports, 2 * words * BEAT_BYTES // self.ports, 24),
        }

    @property
    def ahead(self) -> int:
        return self.ports * self.fifo

    def identity(self, design: Design) -> tuple[int, int, int]:
        size = self.tokens | self.words(design) // 8 << 16
        return int.from_bytes(b"COLS", "little"), self.ports | self.tokens << 16, size

    def brief(self) -> str:
        return f" column tokens {self.tokens},"

    def describe(self, design: Design) -> str:
        return (
            f"column_gemm at {self.clock_mhz} MHz with {self.ports} port{'s' * (self.ports > 1)} x {BEAT_BYTES} rows x {self.tokens} tokens = "
            f"{self.products_per_cycle(design)} multipliers"
        )

    # -- a step ----------------------------------------------------------------------------------------------------

    def layout(self, o: Fields | Operands, rows: int) -> ColumnLayout:
        """Of the matrix of `rows` output features that a step streams."""
        return ColumnLayout(rows, int(o["cols"]), self.ports)

    def project(self, m: Machine, f: Fields, rows: int, tile_rows: int, first: int) -> NDArray[np.float32]:
        key, layout = (self.port, m.address(f["weights0"]), rows), self.layout(f, rows)
        if key not in m.decoded:
            with m.unpacking():
                codes = layout.unpack(m.array(f["weights0"], np.uint8, layout.nbytes))
                scale = m.array(f["weight_scale"], np.float32, layout.padded_rows)[:rows].copy()
                matrix = Matrix(codes.astype(np.float32), ar.blocks_for_exact_sums(codes), scale)
                m.remember(key, matrix, (f["weights0"], f["weight_scale"]))
        matrix = m.decoded[key]
        tokens = m.run.tokens
        a = m.array(f["codes"], np.int8, tokens, f["cols"])[first:].astype(np.float32)
        scales = m.array(f["scale"], np.float32, tokens)[first:]
        if m.live is not None and f["format"] & LISTED and tokens - first == 1:
            m.live.append(layout.listed_groups(a[0]))
        if m.witness is not None:
            sums = a.astype(np.int64) @ matrix.codes.T.astype(np.int64)
            m.witness(f, a.astype(np.int8), sums.astype(np.int32))
        return ar.rescale(ar.int8_products(a, matrix.codes, matrix.pieces), scales, matrix.scale)

    def extents(self, f: Fields, rows: int, tile_rows: int, design: Design, packed: PackedBeats) -> list[Extent]:
        need(not f["reuse"] and not f["hold"], "only grouped weights keep activations")
        layout = self.layout(f, rows)
        return [
            Extent("codes", design.block * f["cols"], SCRATCH),
            Extent("scale", design.block * 4, SCRATCH),
            Extent("weight_scale", layout.padded_rows * 4, WEIGHTS),
            Extent("weights0", layout.nbytes, WEIGHTS),
        ]

    def activation_beats(self, o: Operands, rows: int, tokens: Tokens, moved: Beats) -> None:
        moved["memory", "read", "activations"] += rows * int(o["cols"]) // BEAT_BYTES + beats_of(tokens.count, FLOATS)

    def weight_beats(self, step: Step, design: Design, rows: int, tile_rows: int, moved: Beats) -> None:
        layout = self.layout(step.numbers, rows)
        for port in range(self.ports):
            moved[f"{self.port}{port}", "read", "weights"] += self._port_beats(step.numbers, layout)
        moved["constants", "read", "weights"] += layout.padded_rows // FLOATS

    def _port_beats(self, o: Operands, layout: ColumnLayout) -> int:
        """Of each port: all columns, or as many groups of live ones as the step is said to read."""
        return int(o["live"]) * layout.column_beats if "live" in o else layout.port_beats

    def stream_beats(self, o: Operands, rows: int) -> int:
        return self.layout(o, rows).port_beats * self.ports

    def parts(self, step: Step, design: Design, rows: int, tile_rows: int, served: int, tokens: Tokens) -> list[Part]:
        o = step.numbers
        layout = self.layout(o, rows)
        slower = design.clock_mhz / self.clock_mhz
        fed = served * layout.padded_cols // BEAT_BYTES
        activations = looped(("load", fed), ("load", beats_of(tokens.count, FLOATS)))
        full, rest = divmod(rows, tile_rows)
        last = padded(rest, BEAT_BYTES)
        results = looped(("sums", served * tile_rows // COLUMN_SUMS, full), ("sums", served * last // COLUMN_SUMS))
        scales = looped(("load", tile_rows // FLOATS, full), ("load", last // FLOATS))
        processes = {"multipliers": looped(("columns", self._port_beats(o, layout))), "vector unit": results}
        return [
            Part({"memory port": activations}),
            Part(processes, slower={"multipliers": slower}),
            Part({}, decided={"latency": float(LATENCY)}),
            Part({"scales": scales}),
        ]

    def decides(self, tokens: int, design: Design) -> tuple[int, ...]:
        return (self.ports, -(-tokens // self.tokens))

    # -- a matrix in a package -------------------------------------------------------------------------------------

    @classmethod
    def fields_of(cls, row: dict[str, Any], place: Place) -> dict[str, Any]:
        return {"cols": padded(row["cols"], LANE_COLS), "weight_scale": place("scale")}

    @classmethod
    def row_problems(cls, row: dict[str, Any]) -> list[str]:
        layout = ColumnLayout(row["rows"], row["cols"], row["ports"])
        streams, scales = [s[2] for s in row["streams"]], row["scale"][2]
        found = [] if streams == [layout.nbytes] else [f"streams of {streams} bytes, the matrix has {layout.nbytes}"]
        return found + [f"scales of {scales} bytes"] * (scales != 4 * layout.padded_rows)

    @classmethod
    def unpack(cls, row: dict[str, Any], streams: list[NDArray[np.uint8]], take: Callable[[str], Any]) -> Unpacked:
        layout = ColumnLayout(row["rows"], row["cols"], row["ports"])
        scale = take("scale").view(np.float32)[: row["rows"]]
        return Unpacked(layout.unpack(streams[0]), scale[:, None], None, 0, 0)
