# SPDX-License-Identifier: Apache-2.0
"""What is to be said of an instruction: its fields, what it computes, what memory it touches, what it moves and what it takes.

Each instruction is one subclass in a file of its own; hls/ has the same instruction in C++.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from meadow.machine.isa import Opcode, Value
from meadow.machine.step import Step
from meadow.machine.storage.rows import padded
from meadow.machine.timing import BUS_LATENCY, Stage
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
OVERHEAD = 2 * BUS_LATENCY
"""Cycles per step: fetching the instruction, and the response to the last store.  Assumed."""
Fields = dict[str, Any]
"""The values of an instruction's fields by name, as decoded: a slot is its word."""
Operands = dict[str, Value]
"""The operands of a step that are no slots."""
Beats = Counter[tuple[str, str, str]]
"""(port, "read" or "written", role) -> beats."""
Phases = dict[str, float]
"""Cycles by what they are spent on."""
Witness = Callable[[Fields, NDArray[np.float16], NDArray[np.float32]], None]
PackedBeats = Callable[[Fields, int], list[int]]
"""(fields, tiles) -> beats of each port's packed stream, as the directory in memory says."""


class Loop(NamedTuple):
    """A pipelined loop of the engine: its iterations in all, and how often it was entered."""

    iterations: int = 0
    entries: int = 0


class Loops(dict[str, Loop]):
    """The engine's pipelined loops by name (machine/facts.py: LOOPS)."""

    def add(self, name: str, iterations: int, times: int = 1) -> None:
        """A loop of so many iterations that is entered `times` times; one of none is not entered."""
        if iterations and times:
            had = self.get(name, Loop())
            self[name] = Loop(had.iterations + iterations * times, had.entries + times)

    def busy(self, stages: Mapping[str, Stage]) -> float:
        """Cycles of the iterations."""
        return sum(loop.iterations * stages[name].interval for name, loop in self.items())

    def entered(self, stages: Mapping[str, Stage]) -> float:
        """Cycles of entering the loops: what their pipelines and the bus take until the first result."""
        return sum(loop.entries * stages[name].depth for name, loop in self.items())


@dataclass(frozen=True)
class Part:
    """What an instruction does at once: processes that overlap, each of loops that follow one another.

    processes  loops of each process, by what is said of it where it is the slowest; those of one time
    times      how often the part is done
    rounds     rows after which a process hands on what it made, where that is not each element: the others then take theirs once more
    decided    cycles of a process, by name, of which its loops say nothing
    beside     loops of the whole instruction that are counted, and whose time is in `decided`
    slower     by how much the clock of a process is slower than the engine's, 1 where it is the engine's
    """

    processes: dict[str, Loops]
    times: int = 1
    rounds: int = 0
    decided: dict[str, float] = field(default_factory=dict)
    beside: Loops = field(default_factory=Loops)
    slower: dict[str, float] = field(default_factory=dict)

    def price(self, phases: Phases, stages: Mapping[str, Stage]) -> None:
        """Add its cycles: the iterations of the slowest process, and as latency what else it takes.

        stages  what each loop takes (timing.stages)
        """
        busy = {name: loops.busy(stages) * self.slower.get(name, 1.0) for name, loops in self.processes.items()}
        for name, cycles in self.decided.items():
            busy[name] = max(busy.get(name, 0.0), cycles)
        if not busy:
            return
        entered = {name: self.processes[name].entered(stages) if name in self.processes else 0.0 for name in busy}
        worst = max(busy, key=lambda name: busy[name] + entered[name])
        rest = [name for name in busy if name != worst]
        if self.rounds:
            fill = sum(busy[name] + entered[name] for name in rest) / self.rounds
        else:
            fill = sum(
                max(stages[loop].depth for loop in self.processes[name]) for name in rest if self.processes.get(name)
            )
        phases[worst] = phases.get(worst, 0.0) + self.times * busy[worst]
        phases["latency"] = phases.get("latency", 0.0) + self.times * (entered[worst] + fill)


@dataclass(frozen=True)
class Field:
    """One word of an instruction: `kind` is slot, int or float.  A field with a default may be left out when a step is written."""

    name: str
    kind: str
    text: str
    default: Value | None = None


@dataclass(frozen=True)
class Tokens:
    """What a step is run for: `count` tokens after `position` cached ones; of the last `logits` of them logits are wanted.

    ahead  one of the tokens that the engine goes on to by itself
    """

    count: int
    position: int
    logits: int = 1
    ahead: bool = False

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
    @property
    def ahead(self) -> int: ...


class Machine(Protocol):
    """What an instruction computes on: a device in numpy (runtime/devices/emulator.py).

    decoded  what was decoded of memory, by keys of the engines' own; forgotten when that memory is written
    made     tokens that this run has chosen by itself
    witness  sees what an engine in Verilog would: an instruction's fields, its activations, its results; or None
    live     gets the groups of columns that each step reads which reads live ones alone; or None
    """

    design: Design
    decoded: dict[tuple[Any, ...], Any]
    witness: Witness | None
    live: list[int] | None
    made: int

    def go_on(self) -> None:
        """Run the program again after its end, a position later."""
        ...

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

    def unpacking(self) -> AbstractContextManager[None]:
        """Around what is done to weights once: its time is none of a run's."""
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

    def parts(self, step: Step, design: Design, tokens: Tokens) -> list[Part]:
        """What the engine does one after another; its loops are exact: the C simulation counts the same."""
        return []

    def macs(self, o: Operands, tokens: Tokens) -> int:
        """Multiplications that the step is there for."""
        return 0


def loops_of(parts: Iterable[Part]) -> Loops:
    """The sum of the loops of parts."""
    found = Loops()
    for part in parts:
        for times, loops in [(1, part.beside), *((part.times, loops) for loops in part.processes.values())]:
            for name, loop in loops.items():
                had = found.get(name, Loop())
                found[name] = Loop(had.iterations + times * loop.iterations, had.entries + times * loop.entries)
    return found


def looped(*loops: tuple[str, int] | tuple[str, int, int]) -> Loops:
    """Loops of (name, iterations) or (name, iterations, times)."""
    found = Loops()
    for one in loops:
        found.add(*one)
    return found


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
