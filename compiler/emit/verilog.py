# SPDX-License-Identifier: Apache-2.0
"""The Verilog of pacq_gemv: which files it is made of, and its top with a design's sizes.

Texts only; emit.py puts them into a package, the tests of rtl/ and the benchmarks simulate them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined

from meadow.machine.design import Design
from meadow.machine.engines.pacq import Pacq

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
    "pacq_fetch.v",
    "pacq_split.v",
    "pacq_issue.v",
    "pacq_parameters.v",
    "pacq_scale.v",
    "pacq_results.v",
    "pacq_registers.v",
    "pacq_gemv.v",
)
"""Files of rtl/, each after those it uses."""
TOP = "pacq_top.v"
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

    @property
    def parameters(self) -> dict[str, int]:
        """By their names in Verilog."""
        return {name.upper(): value for name, value in vars(self).items()}


def shape_of(design: Design) -> Shape:
    """The shape of a design's pacq_gemv."""
    e = design.engine(Pacq)
    return Shape(e.ports, e.lanes, e.tokens, e.most_tokens(design), e.words(design), e.fifo, design.uram)


def top(shape: Shape, design_id: str, banner: str) -> str:
    """pacq_top.v: pacq_gemv with named ports.  `design_id` is 16 hexadecimal digits."""
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    text = (resources.files("meadow.rtl") / f"{TOP}.j2").read_text()
    return environment.from_string(text).render(banner=banner, design_id=design_id, **vars(shape))


def sources() -> dict[str, str]:
    """Name and text of every file but the top."""
    folder = resources.files("meadow.rtl")
    return {name: (folder / name).read_text() for name in SOURCES}
