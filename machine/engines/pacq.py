# SPDX-License-Identifier: Apache-2.0
"""pacq_gemv: FP16 activations times grouped INT8, INT4 and INT2 weights, several in one multiplier (PacQ).

rtl/pacq_gemv.v is the engine; hls/pacq.hpp drives it and hls/sim/pacq.hpp is the same in C++.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from meadow.machine.arithmetic import fp16
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
    float_rows,
    looped,
)
from meadow.machine.memories import Memory
from meadow.machine.step import Step
from meadow.machine.storage.groups import MOST_GROUPS, GroupFormat, GroupLayout, is_grouped
from meadow.machine.storage.rows import padded
from meadow.machine.types import Elem
from meadow.machine.units import BEAT_BYTES, LARGEST_CLOCK_MHZ, LARGEST_GROUP, power_of_two

if TYPE_CHECKING:
    from meadow.machine.design import Design

LATENCY = 60
"""Cycles from the last activation to the first result, through both clocks.  Assumed."""
LUT = {"fixed": 8_700, "port": 2_500, "column": 75, "lane": 35, "scale": 1_800}
"""LUT: once, per port, per column of a token lane, per lane of a column, per unit of pacq_scale (Yosys, make synth)."""
BLOCK_TOKENS = 64
"""Tokens of a block for each token lane, at most."""


@dataclass(frozen=True)
class Pacq(Engine):
    """pacq_gemv.

    ports      128-bit AXI ports that stream grouped weights: 1, 2 or 4
    lanes      codes of a port's column that it takes at once: 4, or 8 to take INT2 at the rate of the bus
    tokens     tokens that meet a beat of its weights in a cycle: 1, 2 or 4
    fifo       beats that each of its ports reads ahead
    clock_mhz  its clock; assumed, not closed
    """

    lanes: int = 4
    tokens: int = 1
    fifo: int = 512
    clock_mhz: int = 0

    name: ClassVar[str] = "pacq_gemv"
    weights: ClassVar[str] = "grouped weights"
    numbers: ClassVar[dict[str, str]] = {
        "pacq_ports": "ports",
        "pacq_lanes": "lanes",
        "pacq_tokens": "tokens",
        "pacq_fifo": "fifo",
        "pacq_clock_mhz": "clock_mhz",
    }
    choices: ClassVar[dict[str, tuple[int, ...]]] = {
        "pacq_ports": (0, 1, 2, 4),
        "pacq_lanes": (4, 8),
        "pacq_tokens": (1, 2, 4),
        "pacq_fifo": (128, 256, 512, 1024, 2048, 4096, 8192),
    }
    port: ClassVar[str] = "pacq"
    pin: ClassVar[str] = "pacq_gemv/m_axi_{n}"
    activations: ClassVar[str] = "float"
    keeps: ClassVar[bool] = True
    own_clock: ClassVar[bool] = True

    @classmethod
    def takes(cls, word: int) -> bool:
        return is_grouped(word)

    @classmethod
    def multiplies(cls, elem: Elem) -> bool:
        return elem.group > 0

    def problems(self, f: Fields, tile_rows: int, design: Design) -> list[str]:
        try:
            form = GroupFormat.of_word(int(f["format"]))
        except ValueError as error:
            return [str(error)]
        if form.bits == 2 and self.lanes < 8:
            return [f"the design has no engine for {form}"]
        if -(-int(f["cols"]) // form.group) > MOST_GROUPS:
            return [f"more than {MOST_GROUPS} groups per row"]
        if tile_rows % (self.ports * form.lanes):
            return [f"tiles of {tile_rows} rows, {form} come {self.ports * form.lanes} at a time"]
        return []

    def check(self, design: Design) -> None:
        if not 0 < self.clock_mhz <= LARGEST_CLOCK_MHZ:
            raise ValueError(f"pacq_clock_mhz is {self.clock_mhz}; 1 to {LARGEST_CLOCK_MHZ} are possible")
        if not self.block_fits(design.block):
            raise ValueError(
                f"block is {design.block}; pacq_gemv takes {BLOCK_TOKENS} tokens for each of its {self.tokens} token lanes"
            )

    def block_fits(self, block: int) -> bool:
        """Whether it takes so many tokens at once."""
        return block <= BLOCK_TOKENS * self.tokens

    def clock(self, design: Design) -> int:
        return self.clock_mhz

    def products_per_cycle(self, design: Design) -> int:
        return self.ports * 32 * self.tokens  # of INT4 weights

    def most_tokens(self, design: Design) -> int:
        """Tokens of one command at most: a power of two for each token lane."""
        return self.tokens * power_of_two(-(-design.block // self.tokens))

    def words(self, design: Design) -> int:
        """Words of eight activations that each token lane keeps: a block's longest rows, and as much again of the next command
        while that is little."""
        rows = self.most_tokens(design) // self.tokens * -(-design.max_cols // LARGEST_GROUP) * LARGEST_GROUP // 8
        return max(512, power_of_two(rows))

    def resources(self, design: Design) -> dict[str, int]:
        """DSP slices as they are written down, LUT as Yosys finds them (make synth), BRAM by its memories."""
        lanes, scales = self.ports * self.lanes, self.lanes // 4
        units = self.ports * scales * self.tokens  # of pacq_scale: two products of 24 x 24 bits
        return {
            "DSP": 8 * lanes * self.tokens + 4 * units + 13,
            "LUT": LUT["fixed"]
            + LUT["port"] * self.ports
            + self.tokens * (LUT["column"] * 8 + LUT["lane"] * 8 * lanes)
            + LUT["scale"] * units,
            "BRAM36": 0,
        }

    def memories(self, design: Design) -> dict[str, Memory]:
        words = self.words(design)
        return {
            "weights read ahead": Memory(self.ports, self.fifo, 8 * BEAT_BYTES),
            "activations of pacq_gemv": Memory(self.tokens, words, 128),
            "sums of pacq_gemv": Memory(self.tokens, words // 2, 90),
        }

    @property
    def ahead(self) -> int:
        return self.ports * self.fifo

    def identity(self, design: Design) -> tuple[int, int, int]:
        shape = self.ports | self.lanes << 8 | self.tokens << 16
        return int.from_bytes(b"PACQ", "little"), shape, self.most_tokens(design) | self.words(design) // 128 << 16

    def brief(self) -> str:
        return f" pacq tokens {self.tokens},"

    def describe(self, design: Design) -> str:
        return (
            f"pacq_gemv at {self.clock_mhz} MHz with {self.ports} ports x 8 x {self.lanes} lanes x {self.tokens} tokens"
        )

    # -- a step ----------------------------------------------------------------------------------------------------

    def layout(self, o: Fields | Operands, rows: int) -> GroupLayout:
        """Of the grouped matrix of `rows` output features that a step streams."""
        return _layout(rows, int(o["cols"]), self.ports, int(o["format"]))

    def project(self, m: Machine, f: Fields, rows: int, tile_rows: int, first: int) -> NDArray[np.float32]:
        """FP32 rows are rounded to FP16, columns padded to whole groups."""
        key, layout = (self.port, m.address(f["weights0"]), rows), self.layout(f, rows)
        if key not in m.decoded:
            slots = [f[f"weights{p}"] for p in range(layout.ports)]
            with m.unpacking():
                streams = [m.array(s, np.uint8, layout.port_beats * BEAT_BYTES) for s in slots]
                codes, scale, minimum = layout.unpack(streams)
                form = layout.form
                m.remember(key, fp16.grouped_matrix(codes, form.zero, scale, minimum, form.group), slots)
        x = m.array(f["codes"], np.float32, m.run.tokens, padded(f["cols"], FLOATS))[first:, : f["cols"]]
        a = np.zeros((len(x), layout.padded_cols), np.float16)
        a[:, : f["cols"]] = fp16.half(x)
        y = fp16.linear(a, m.decoded[key])
        if m.witness is not None:
            m.witness(f, a, y)
        return y

    def extents(self, f: Fields, rows: int, tile_rows: int, design: Design, packed: PackedBeats) -> list[Extent]:
        streams = [self.layout(f, rows).port_beats] * self.ports
        return [
            Extent("codes", float_rows(design.block, f["cols"]), SCRATCH),
            *(Extent(f"weights{port}", n * BEAT_BYTES, WEIGHTS) for port, n in enumerate(streams)),
        ]

    def activation_beats(self, o: Operands, rows: int, tokens: Tokens, moved: Beats) -> None:
        """Nothing where it kept them from the linear before."""
        moved["memory", "read", "activations"] += 0 if o["reuse"] else rows * beats_of(int(o["cols"]), FLOATS)

    def weight_beats(self, step: Step, design: Design, rows: int, tile_rows: int, moved: Beats) -> None:
        for port in range(self.ports):
            moved[f"pacq{port}", "read", "weights"] += self.layout(step.numbers, rows).port_beats

    def stream_beats(self, o: Operands, rows: int) -> int:
        return self.layout(o, rows).port_beats * self.ports

    def parts(self, step: Step, design: Design, rows: int, tile_rows: int, served: int, tokens: Tokens) -> list[Part]:
        o, found = step.numbers, []
        layout = self.layout(o, rows)
        cols, form = int(o["cols"]), layout.form
        slower = design.clock_mhz / self.clock_mhz
        if not o["reuse"]:
            fed = looped(("feed", served * layout.padded_cols // FLOATS))
            found.append(Part({"memory port": looped(("load", served * beats_of(cols, FLOATS))), "feed": fed}))
        together = self.ports * form.lanes
        full, rest = divmod(rows, tile_rows)
        last = padded(rest, together)
        results = looped(("results", served * tile_rows // self.ports, full), ("results", served * last // self.ports))
        results.add("results", served * (layout.results - padded(rows, together) // self.ports))
        windows = layout.windows * -(-served // self.tokens) * form.window_cycles
        processes = {"multipliers": looped(("pacq", windows)), "vector unit": results}
        stream = {"weight ports": layout.port_beats * slower}
        found.append(Part(processes, decided=stream, slower={"multipliers": slower}))
        return [*found, Part({}, decided={"latency": float(LATENCY)})]

    def decides(self, tokens: int, design: Design) -> tuple[int, ...]:
        return (self.ports, -(-tokens // self.tokens))

    # -- a matrix in a package -------------------------------------------------------------------------------------

    @classmethod
    def fields_of(cls, row: dict[str, Any], place: Place) -> dict[str, Any]:
        return {"cols": row["cols"]}

    @classmethod
    def unpack(cls, row: dict[str, Any], streams: list[NDArray[np.uint8]], take: Callable[[str], Any]) -> Unpacked:
        form = GroupFormat.of_word(row["format"])
        codes, scale, minimum = GroupLayout(row["rows"], row["cols"], row["ports"], form).unpack(streams)
        return Unpacked(codes, scale, minimum, form.zero, form.group)


@lru_cache
def _layout(rows: int, cols: int, ports: int, word: int) -> GroupLayout:
    return GroupLayout(rows, cols, ports, GroupFormat.of_word(word))
