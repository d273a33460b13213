# SPDX-License-Identifier: Apache-2.0
"""The Verilog of pacq_gemv and column_gemm: which files each is made of, and its top with a design's sizes.

Texts only; emit.py puts them into a package, the tests of rtl/ and the benchmarks simulate them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import ClassVar

from jinja2 import Environment, StrictUndefined

from meadow.machine.design import Design
from meadow.machine.engines.columns import Columns
from meadow.machine.engines.pacq import Pacq
from meadow.machine.storage.columns import STRIPE
from meadow.machine.units import COLUMN_SUMS

SOURCES = (
    "stream_fifo.v",
    "dsp_slice.v",
    "fixed_to_float.v",
    "float_add.v",
    "float_multiply.v",
    "half_to_float.v",
    "pacq_align.v",
    "pacq_lane.v",
    "pacq_mac.v",
    "pacq_dot.v",
    "pacq_sum.v",
    "pacq_activations.v",
    "pacq_commands.v",
    "stream_fetch.v",
    "pacq_split.v",
    "pacq_issue.v",
    "pacq_parameters.v",
    "pacq_scale.v",
    "pacq_results.v",
    "gemv_faults.v",
    "gemv_registers.v",
    "pacq_gemv.v",
)
"""Files of rtl/, each after those it uses."""
COLUMN_SOURCES = (
    "stream_fifo.v",
    "dsp_slice.v",
    "add_clear.v",
    "stream_fetch.v",
    "column_lane.v",
    "column_lanes.v",
    "column_commands.v",
    "column_codes.v",
    "column_regions.v",
    "column_issue.v",
    "column_results.v",
    "gemv_faults.v",
    "gemv_registers.v",
    "column_gemm.v",
)
"""The same of column_gemm."""
TOP = "gemv_top.v.j2"
"""The template of both tops."""
UNPACK_SOURCES = (
    "mux4.v",
    "mux8.v",
    "stream_fifo.v",
    "prefix_lane.v",
    "prefix_turn.v",
    "prefix_table.v",
    "prefix_unpack.v",
)
"""The same of the look-up unit, which no design has yet: its array is HLS."""
ARRAY_SOURCES = ("dsp_slice.v", "add_clear.v", "array_edge.v", "array_cascade.v", "array_grid.v")
"""The same of the array for both formats, which no design has yet."""
MODELS = ("sim/CARRY4.v", "sim/DSP48E2.v", "sim/LUT6.v", "sim/MUXF7.v")
"""What simulators take for the vendor's cells."""


@dataclass(frozen=True)
class Shape:
    """Parameters of pacq_gemv (rtl/pacq_gemv.v says what each is)."""

    ports: int = 4
    lanes: int = 4
    token_lanes: int = 1
    max_tokens: int = 64
    activation_words: int = 1024
    fifo_beats: int = 512
    ultra: int = 0
    max_burst: int = 64
    address_width: int = 40

    module: ClassVar[str] = "pacq_gemv"
    top: ClassVar[str] = "pacq_top"
    files: ClassVar[tuple[str, ...]] = SOURCES

    @property
    def parameters(self) -> dict[str, int]:
        """By their names in Verilog."""
        return {name.upper(): value for name, value in vars(self).items()}

    @property
    def result_bits(self) -> int:
        """Of a word of results."""
        return 32 * self.ports

    @property
    def command_words(self) -> int:
        """Words of 128 bits of a command."""
        return 1 + (self.ports + 1) // 2


@dataclass(frozen=True)
class ColumnShape:
    """Parameters of column_gemm (rtl/column_gemm.v says what each is)."""

    ports: int = 4
    tokens: int = 8
    max_words: int = 256
    fifo_beats: int = 512
    ultra: int = 0
    max_burst: int = 64
    address_width: int = 40

    module: ClassVar[str] = "column_gemm"
    top: ClassVar[str] = "column_top"
    files: ClassVar[tuple[str, ...]] = COLUMN_SOURCES
    result_bits: ClassVar[int] = 32 * COLUMN_SUMS
    command_words: ClassVar[int] = 2

    @property
    def parameters(self) -> dict[str, int]:
        """By their names in Verilog."""
        return {**{name.upper(): value for name, value in vars(self).items()}, "STRIPE": STRIPE}


def shape_of(design: Design) -> Shape | ColumnShape | None:
    """The shape of a design's engine in Verilog; None when it has none."""
    e, columns = design.engine(Pacq), design.engine(Columns)
    if columns.ports:
        return ColumnShape(columns.ports, columns.tokens, columns.words(design), columns.fifo, design.uram)
    if e.ports:
        return Shape(e.ports, e.lanes, e.tokens, e.most_tokens(design), e.words(design), e.fifo, design.uram)
    return None


def top(shape: Shape | ColumnShape, design_id: str, banner: str) -> str:
    """The engine with named ports.  `design_id` is 16 hexadecimal digits."""
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string((resources.files("meadow.rtl") / TOP).read_text()).render(
        banner=banner,
        design_id=design_id,
        module=shape.module,
        name=shape.top,
        ports=shape.ports,
        address_width=shape.address_width,
        result_bits=shape.result_bits,
        parameters=shape.parameters,
    )


def sources(shape: Shape | ColumnShape) -> dict[str, str]:
    """Name and text of every file of an engine but its top."""
    folder = resources.files("meadow.rtl")
    return {name: (folder / name).read_text() for name in shape.files}
