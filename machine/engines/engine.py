# SPDX-License-Identifier: Apache-2.0
"""Engine: what is to be said of a unit that multiplies activations with a streamed matrix.

An engine is a frozen value of a Design: its fields are the numbers it is built with.  Its class says what it takes, what it costs,
and what a step on it computes, reads and takes.  Each engine is one subclass in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from meadow.machine.instructions.instruction import (
    Beats,
    Extent,
    Fields,
    Machine,
    Operands,
    PackedBeats,
    Part,
    Tokens,
)
from meadow.machine.memories import Memory
from meadow.machine.step import Step
from meadow.machine.types import Elem
from meadow.machine.units import BEAT_BYTES

if TYPE_CHECKING:
    from meadow.machine.design import Design

Place = Callable[[str], Any]
"""What a row of packing.json says of one of its buffers, as a slot: (chunk, offset)."""


@dataclass(frozen=True)
class Engine:
    """One engine of a design, with the number of 128-bit ports that stream its matrices; 0 ports: the design has none.

    name        of the engine, in messages
    weights     the weights it takes, in messages
    numbers     its fields, by the names under which a design, the fabric's identity and `--set` know them
    choices     the values that each field may have, where they can be listed
    port        its ports are counted as this word and a number
    pin         the pin of port {n} in the block design, CELL/PIN
    activations "int8" with a scale per token, or "float"
    keeps       whether it can take the activations that it has from the linear layer before
    own_clock   whether it has a clock besides the design's: it is Verilog, a block of its own by its name
    instead     whether it takes the place of the engine that usually multiplies its weights, where a design has it
    """

    ports: int = 0

    name: ClassVar[str]
    weights: ClassVar[str]
    numbers: ClassVar[dict[str, str]]
    choices: ClassVar[dict[str, tuple[int, ...]]]
    port: ClassVar[str]
    pin: ClassVar[str]
    activations: ClassVar[str]
    keeps: ClassVar[bool] = False
    own_clock: ClassVar[bool] = False
    instead: ClassVar[bool] = False

    @classmethod
    def ports_name(cls) -> str:
        """The number of a design that says how many ports it has."""
        return next(name for name, field in cls.numbers.items() if field == "ports")

    # -- what it takes ---------------------------------------------------------------------------------------------

    @classmethod
    def takes(cls, word: int) -> bool:
        """Whether the format word of an instruction names weights of this engine."""
        raise NotImplementedError

    @classmethod
    def live_word(cls, word: int) -> int:
        """The format word of the same matrix, of which only columns are read whose activation is not 0; the same where it reads all."""
        return word

    @classmethod
    def stored_word(cls, word: int) -> int:
        """The format word of the matrix as it is stored, however much of it is read."""
        return word

    @classmethod
    def multiplies(cls, elem: Elem) -> bool:
        """Whether weights of this type are streamed to this engine."""
        raise NotImplementedError

    def problems(self, f: Fields, tile_rows: int, design: Design) -> list[str]:
        """What keeps a step with these fields and tiles of so many rows from this engine."""
        raise NotImplementedError

    # -- what it is built of ---------------------------------------------------------------------------------------

    def check(self, design: Design) -> None:
        """Raise ValueError when its numbers do not go together, or with the design's."""

    def clock(self, design: Design) -> int:
        """Of its ports, MHz."""
        return design.clock_mhz

    def products_per_cycle(self, design: Design) -> int:
        """Of a weight and an activation, at its best."""
        raise NotImplementedError

    def stream_bytes_per_second(self, design: Design) -> float:
        """What its ports carry."""
        return BEAT_BYTES * 1e6 * self.ports * self.clock(design)

    def memories(self, design: Design) -> dict[str, Memory]:
        """Its buffers on chip."""
        return {}

    def resources(self, design: Design) -> dict[str, int]:
        """Estimated LUT, DSP and BRAM36 besides `memories` (docs/decisions/0006-resource-estimates.md)."""
        raise NotImplementedError

    @property
    def ahead(self) -> int:
        """Beats that its ports read ahead while the design does something else."""
        return 0

    def brief(self) -> str:
        """Its numbers beside the ports, in a line of a table."""
        return ""

    def identity(self, design: Design) -> tuple[int, int, int]:
        """What the registers ID, SHAPE and SIZE of an engine with a clock of its own hold (rtl/gemv_registers.v)."""
        raise NotImplementedError

    def describe(self, design: Design) -> str:
        """For people."""
        raise NotImplementedError

    # -- a step on it ----------------------------------------------------------------------------------------------

    def project(self, m: Machine, f: Fields, rows: int, tile_rows: int, first: int) -> NDArray[np.float32]:
        """FP32 results [tokens - first, rows] of the matrix that the fields name."""
        raise NotImplementedError

    def extents(self, f: Fields, rows: int, tile_rows: int, design: Design, packed: PackedBeats) -> list[Extent]:
        """Memory of activations and weights.  Raises ValueError for fields that it does not take."""
        raise NotImplementedError

    def activation_beats(self, o: Operands, rows: int, tokens: Tokens, moved: Beats) -> None:
        """Add what reading `rows` rows of activations moves, with the scales of all tokens."""
        raise NotImplementedError

    def weight_beats(self, step: Step, design: Design, rows: int, tile_rows: int, moved: Beats) -> None:
        """Add what streaming a matrix of `rows` output features reads, with tables, scales and directories."""
        raise NotImplementedError

    def stream_beats(self, o: Operands, rows: int) -> int:
        """Beats of the matrix itself over all ports, where they do not depend on its codes."""
        raise NotImplementedError

    def parts(self, step: Step, design: Design, rows: int, tile_rows: int, served: int, tokens: Tokens) -> list[Part]:
        """What a matrix takes for the `served` last tokens of a run, up to its results.  A loop whose iterations the codes decide is
        missing."""
        raise NotImplementedError

    def decides(self, tokens: int, design: Design) -> tuple[int, ...]:
        """What of its numbers, and of the design's, decides the cycles of a linear layer of `tokens` tokens."""
        raise NotImplementedError

    # -- a matrix in a package -------------------------------------------------------------------------------------

    @classmethod
    def fields_of(cls, row: dict[str, Any], place: Place) -> dict[str, Any]:
        """The fields by which an instruction names the matrix of a row of packing.json, and what they must hold."""
        raise NotImplementedError

    @classmethod
    def row_problems(cls, row: dict[str, Any]) -> list[str]:
        """What does not go together in a row of packing.json."""
        return []

    @classmethod
    def unpack(cls, row: dict[str, Any], streams: list[NDArray[np.uint8]], take: Callable[[str], Any]) -> Unpacked:
        """The matrix of a row of packing.json; take(key) has the bytes of a buffer.  Raises ValueError for damaged streams."""
        raise NotImplementedError


@dataclass(frozen=True)
class Unpacked:
    """A matrix as it was packed: w = (code - zero) * scale + minimum.

    codes    int8 or uint8 [N, padded K]
    scale    float32 [N, groups]
    minimum  float32 [N, groups] or None
    group    columns that share a scale; 0 for whole rows
    """

    codes: NDArray[Any]
    scale: NDArray[np.float32]
    minimum: NDArray[np.float32] | None
    zero: int
    group: int
