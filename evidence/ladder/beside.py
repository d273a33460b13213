# SPDX-License-Identifier: Apache-2.0
"""What an engine in Verilog is told and gives, word by word: commands, activations, results.  One class per engine, for whatever
simulates it; nothing here runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.design import Design
from meadow.machine.engines.columns import Columns
from meadow.machine.engines.engine import Engine
from meadow.machine.engines.pacq import Pacq
from meadow.machine.errors import UsageError
from meadow.machine.instructions.instruction import Fields, Operands, Part, Tokens
from meadow.machine.instructions.table import TABLE
from meadow.machine.package.read import Package
from meadow.machine.step import Step
from meadow.machine.storage.columns import LISTED
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES, COLUMN_SUMS


class Side(ABC):
    """One engine, seen from the engine in C++.

    engine  of the design
    slots   operands that name a matrix: weights0 and so on
    width   32-bit words that leave in a cycle
    pace    cycles of the engine in C++ for a word of activations, 16 bytes
    parts   of Engine.parts, those that the simulation counts: the rest is the C++'s
    """

    slots: int
    width: int
    pace: float
    parts: int

    def __init__(self, engine: Engine):
        self.engine = engine

    @abstractmethod
    def layout(self, o: Fields | Operands, rows: int) -> Any:
        """Of the matrix that a step streams."""

    @abstractmethod
    def command(self, layout: Any, o: Fields | Operands, addresses: list[int], tokens: int) -> list[int]:
        """Words of 128 bits."""

    @abstractmethod
    def activations(self, layout: Any, tokens: int) -> NDArray[Any]:
        """Such as it takes, for a run of which only the size is known: all columns are live."""

    def rest(self, step: Step, design: Design, rows: int, tile_rows: int, count: int, tokens: Tokens) -> list[Part]:
        """What a step takes besides what is simulated."""
        its = self.engine.parts(step, design, rows, tile_rows, count, tokens)
        whole = TABLE[step.opcode].parts(step, design, tokens)
        return [*its[self.parts :], *whole[len(its) :]]

    @abstractmethod
    def results(self, layout: Any, rows: int, tokens: int) -> int:
        """Cycles in which the results of so many rows leave, at least one tile."""

    @abstractmethod
    def last(self, layout: Any, tokens: int) -> int:
        """Cycles in which all results of a command leave."""

    @abstractmethod
    def ordered(self, results: NDArray[np.uint32], layout: Any, tokens: int) -> NDArray[Any]:
        """[tokens, rows] of a command's results [cycles, width] as they came."""

    @abstractmethod
    def port_beats(self, layout: Any, o: Fields | Operands, a: NDArray[Any]) -> int:
        """That each port reads for activations `a` [tokens, columns]."""


class PacqSide(Side):
    """pacq_gemv."""

    pace, parts = 2.0, 3  # two beats of FP32 (hls/pacq.hpp: halve_rows)

    def __init__(self, engine: Pacq):
        super().__init__(engine)
        self.pacq, self.slots, self.width = engine, engine.ports, engine.ports

    def layout(self, o: Fields | Operands, rows: int) -> Any:
        return self.pacq.layout(o, rows)

    def command(self, layout: Any, o: Fields | Operands, addresses: list[int], tokens: int) -> list[int]:
        where = addresses + [0] * (4 - len(addresses))
        reuse, hold = int(o["reuse"]), int(o["hold"])
        words = [layout.form.word | layout.bands << 32 | layout.groups << 48 | tokens << 64 | reuse << 80 | hold << 81]
        return words + [where[p] | where[p + 1] << 64 for p in range(0, layout.ports, 2)]

    def activations(self, layout: Any, tokens: int) -> NDArray[Any]:
        return np.zeros((tokens, layout.padded_cols), np.float16)

    def results(self, layout: Any, rows: int, tokens: int) -> int:
        return int(tokens * padded(rows, layout.chunk_rows) // layout.ports)

    def last(self, layout: Any, tokens: int) -> int:
        return int(tokens * layout.results)

    def ordered(self, results: NDArray[np.uint32], layout: Any, tokens: int) -> NDArray[Any]:
        values = results.view(np.float32).reshape(layout.bands * layout.tiles, tokens, layout.chunk_rows)
        return np.ascontiguousarray(values.transpose(1, 0, 2).reshape(tokens, -1)[:, : layout.rows])

    def port_beats(self, layout: Any, o: Fields | Operands, a: NDArray[Any]) -> int:
        return int(layout.port_beats)


class ColumnsSide(Side):
    """column_gemm."""

    slots, width, pace, parts = 1, COLUMN_SUMS, 1.0, 3

    def __init__(self, engine: Columns):
        super().__init__(engine)
        self.columns = engine

    def layout(self, o: Fields | Operands, rows: int) -> Any:
        return self.columns.layout(o, rows)

    def command(self, layout: Any, o: Fields | Operands, addresses: list[int], tokens: int) -> list[int]:
        listed = int(o["format"]) & LISTED and tokens == 1
        return [layout.column_beats | layout.padded_cols // 16 << 16 | tokens << 32 | listed << 48, addresses[0]]

    def activations(self, layout: Any, tokens: int) -> NDArray[Any]:
        return np.ones((tokens, layout.padded_cols), np.int8)

    def results(self, layout: Any, rows: int, tokens: int) -> int:
        return tokens * padded(rows, BEAT_BYTES) // COLUMN_SUMS

    def last(self, layout: Any, tokens: int) -> int:
        return int(tokens * layout.padded_rows // COLUMN_SUMS)

    def ordered(self, results: NDArray[np.uint32], layout: Any, tokens: int) -> NDArray[Any]:
        values = results.view(np.int32).reshape(layout.column_beats, tokens, BEAT_BYTES)
        return np.ascontiguousarray(values.transpose(1, 0, 2).reshape(tokens, -1)[:, : layout.rows])

    def port_beats(self, layout: Any, o: Fields | Operands, a: NDArray[Any]) -> int:
        if int(o["format"]) & LISTED and len(a) == 1:
            return int(layout.listed_groups(a[0]) * layout.column_beats)
        return int(layout.port_beats)


def side_of(design: Design) -> Side | None:
    """The engine in Verilog of a design; None where it has none."""
    pacq, columns = design.engine(Pacq), design.engine(Columns)
    return ColumnsSide(columns) if columns.ports else PacqSide(pacq) if pacq.ports else None


def require_side(package: Package) -> Side:
    """The same of a package.  Raises UsageError where it has none."""
    side = side_of(package.design)
    if side is None:
        raise UsageError(
            f"{package.folder} has no engine in Verilog to simulate; compile a model whose weights are INT4 or INT2 in groups "
            "(meadowc quantize MODEL -o FOLDER --weights int4), or INT8 with --set column_ports=4"
        )
    return side
