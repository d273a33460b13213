# SPDX-License-Identifier: Apache-2.0
"""What is to be said of an instruction: its fields, what it computes, what memory it touches, what it moves and what it takes.

Each instruction is one subclass in a file of its own; hls/ has the same instruction in C++.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from meadow.machine.isa import Opcode, Value
from meadow.machine.step import Step
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES

if TYPE_CHECKING:
    from meadow.machine.design import Design

ROLES = ("weights", "activations", "kv", "intermediates", "program")
"""What bytes on the bus are: weights with all their tables, scales and constants; activations between layers; the KV cache; Q, S
and P of attention; instructions and the chunk table."""
FLOATS, HALVES = BEAT_BYTES // 4, BEAT_BYTES // 2
"""FP32 and 16-bit elements of a beat."""
WEIGHTS, CONSTANTS, CACHE = ("weights",), ("constants",), ("kv",)
SCRATCH = ("activations", "pinned")
"""Kinds of memory in which an operand may lie (Chunk.kind)."""
OVERHEAD = 150
"""Cycles per step: fetching the instruction, and the latency of the first load and the last store.  Assumed."""
TILE_OVERHEAD = 100
"""Cycles per tile, and per pipeline of attention.  Assumed: 64 of AXI latency as the interface pragmas say."""
Fields = dict[str, Any]
"""The values of an instruction's fields by name, as decoded: a slot is its word."""
Operands = dict[str, Value]
"""The operands of a step that are no slots."""
Beats = Counter[tuple[str, str, str]]
"""(port, "read" or "written", role) -> beats."""
Loops = dict[str, int]
"""Iterations of the engine's pipelined loops by name (hls/types.hpp: Loop)."""
Phases = dict[str, float]
"""Cycles by what they are spent on."""
Witness = Callable[[Fields, NDArray[np.float16], NDArray[np.float32]], None]
PackedBeats = Callable[[Fields, int], list[int]]
"""(fields, tiles) -> beats of each port's packed stream, as the directory in memory says."""


@dataclass(frozen=True)
class Field:
    """One word of an instruction: `kind` is slot, int or float.  A field with a default may be left out when a step is written."""

    name: str
    kind: str
    text: str
    default: Value | None = None


@dataclass(frozen=True)
class Tokens:
    """What a step is run for: `count` tokens after `position` cached ones; of the last `logits` of them logits are wanted."""

    count: int
    position: int
    logits: int = 1

    @property
    def seen(self) -> int:
        """Tokens in the cache afterwards."""
        return self.position + self.count


@dataclass(frozen=True)
class Extent:
    """What one operand touches: `bytes` from its slot on, in memory of one of `kinds`; for the longest run of the design.

    over  an operand at whose own place it may be written: each row is read whole before it is written
    """

    field: str
    bytes: int
    kinds: tuple[str, ...]
    written: bool = False
    over: str = ""


class Running(Protocol):
    """The registers of a run that an instruction reads."""

    @property
    def tokens(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def first_logit(self) -> int: ...


class Machine(Protocol):
    """What an instruction computes on: a device in numpy (runtime/devices/emulator.py).

    decoded  what was decoded of memory, by keys of the engines' own; forgotten when that memory is written
    witness  sees what pacq_gemv would: an instruction's fields, its activations, its results; or None
    """

    design: Design
    decoded: dict[tuple[Any, ...], Any]
    witness: Witness | None

    @property
    def run(self) -> Running: ...

    def array(self, word: int, kind: type, *shape: int) -> NDArray[Any]:
        """The array of `shape` that a slot's word points at, in place."""
        ...

    def address(self, word: int) -> int:
        """The address that a slot's word points at."""
        ...

    def remember(self, key: tuple[Any, ...], value: Any, words: Iterable[int]) -> None:
        """Keep `value` in `decoded`: it was decoded of the memory that the slots `words` point at."""
        ...

    def instructions(self) -> list[Fields]:
        """The fields of every instruction of the program that is running."""
        ...


class Instruction:
    """One instruction; the methods' defaults are those of one that does nothing."""

    opcode: ClassVar[Opcode]
    fields: ClassVar[tuple[Field, ...]] = ()

    def run(self, f: Fields, m: Machine) -> None:
        """Compute the instruction on `m`, as docs/arithmetic.md says."""

    def extents(self, f: Fields, design: Design, packed: PackedBeats) -> list[Extent]:
        """Every operand's memory.  Raises ValueError for fields that no engine takes."""
        return []

    def beats(self, step: Step, design: Design, tokens: Tokens) -> Beats:
        """Beats that the step moves, exactly: the C simulation counts the same at its ports."""
        return Counter()

    def loops(self, step: Step, design: Design, tokens: Tokens) -> Loops:
        """Iterations of the engine's pipelined loops, exactly: the C simulation counts the same."""
        return {}

    def price(self, step: Step, design: Design, tokens: Tokens, moved: Beats, loops: Loops, phases: Phases) -> None:
        """Add to `phases`, which has latency and the memory port already."""

    def macs(self, o: Operands, tokens: Tokens) -> int:
        """Multiplications that the step is there for."""
        return 0


def alike(rows: int, tile_rows: int) -> list[tuple[int, int, int]]:
    """(first row, rows, how many) of the tiles of a matrix, those together that begin at the same place within a beat."""
    full, rest = divmod(rows, tile_rows)
    period = 2 * FLOATS // math.gcd(tile_rows, 2 * FLOATS)  # of where tiles, and halves of tiles, begin
    found = [(n * tile_rows, tile_rows, (full - n + period - 1) // period) for n in range(min(period, full))]
    return found + [(full * tile_rows, rest, 1)] * (rest > 0)


def need(holds: bool, what: str) -> None:
    """Raise ValueError unless `holds`."""
    if not holds:
        raise ValueError(what)


def beats_of(n: int, per_beat: int) -> int:
    """Beats of n elements."""
    return -(-n // per_beat)


def float_rows(rows: int, cols: int) -> int:
    """Bytes of FP32 rows, each padded to a beat."""
    return rows * padded(cols, FLOATS) * 4


def on_port(moved: Beats, port: str, way: str = "") -> int:
    """Beats on one port, both directions or one."""
    return sum(n for (p, w, _), n in moved.items() if p == port and way in ("", w))
