# SPDX-License-Identifier: Apache-2.0
"""Design: every number the hardware is built with, and what it is expected to cost.

Chosen by fit.py, printed into hls/config.hpp by emit.py, compared with the fabric by the runtime.
Knows no model: any model within the limits runs on the same bitstream.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from meadow.machine import operators
from meadow.machine.engines.engine import Engine
from meadow.machine.engines.table import absent_number, engine_for, engine_of, engines, owner
from meadow.machine.memories import Memory
from meadow.machine.types import Elem
from meadow.machine.units import BEAT_BYTES, LANE_COLS, LARGEST_CLOCK_MHZ

DEFAULT_TILE_ROWS = 128
IDENTITY = (
    "clock_mhz",
    "weight_ports",
    "token_lanes",
    "float_lanes",
    "tile_rows",
    "block",
    "context",
    "max_cols",
    "max_head_dim",
    "prefix_codes",
    "lookup_entries",
    "pacq_ports",
    "pacq_lanes",
    "pacq_tokens",
    "pacq_fifo",
    "pacq_clock_mhz",
    "score_cap",
    "all_activations",
    "uram",
    "column_ports",
    "column_tokens",
    "column_fifo",
    "column_clock_mhz",
)
"""The numbers of a design in the order of the registers that tell them (machine/registers.py).  Engines name theirs.  A number keeps
its place, and a new one is appended."""
ALWAYS_TOLD = 16
"""Numbers at the beginning of IDENTITY that every design tells.  It tells later ones up to the last of an engine that it has, so that a
design, its id and its bitstream stay as they are when an engine is added to the table."""
SETTABLE = tuple(name for name in IDENTITY if name not in ("max_cols", "max_head_dim"))
"""Numbers of a design that `meadowc compile --set` takes."""
OPTIONS = ("score_cap", "all_activations", "uram")
"""Numbers that are told by the designs alone in which they are not 0."""
CHOICES: dict[str, tuple[int, ...]] = {
    "float_lanes": (4, 8, 16),
    "score_cap": (0, 1),
    "all_activations": (0, 1),
    "uram": (0, 1),
}
ULTRA_BUFFERS = ("keys", "values", "weights read ahead", "activations of pacq_gemv", "sums of pacq_gemv")
"""Of memories(): what lies in UltraRAM in a design with uram = 1."""
E = TypeVar("E", bound=Engine)


@dataclass(frozen=True)
class Design:
    """One configuration of meadow_engine, with the engines that its program needs.

    board, part      what it is made for
    clock_mhz        fabric clock; assumed, not closed
    token_lanes      tokens multiplied with one group of weights in a cycle (the parallel PEs of MEADOW), and rows of queries
                     that attend at once
    float_lanes      FP32 elements that norms, quantization and epilogues take in a cycle: whole beats
    tile_rows        output features between two stores, where a step does not ask for whole heads
    block            most tokens of one program run
    context          most tokens in the KV cache
    max_cols         longest input row of a linear layer, padded
    max_head_dim     largest head, padded to a beat
    score_cap        1 when scores can be capped, which takes operators of every token lane; else 0
    all_activations  1 when MLPs may have GELU, quick GELU and squared ReLU beside SiLU and ReLU; else 0
    uram             1 when keys and values of a head, and what pacq_gemv keeps, lie in UltraRAM; 0 when in block RAM
    engines          the engines that it has, each with its numbers, in the order of IDENTITY
    """

    board: str
    part: str
    clock_mhz: int
    token_lanes: int
    float_lanes: int
    tile_rows: int
    block: int
    context: int
    max_cols: int
    max_head_dim: int
    engines: tuple[Engine, ...]
    score_cap: int = 0
    all_activations: int = 0
    uram: int = 0

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Design:
        """The design with the numbers that `numbers` gives.  Raises ValueError for one missing or not known."""
        known, told = {"board", "part", *IDENTITY}, {"board", "part", *IDENTITY[:ALWAYS_TOLD]}
        wrong = sorted((told - numbers.keys()) | (numbers.keys() - known))
        if wrong:
            raise ValueError(f"the design's numbers lack, or should not have, {', '.join(wrong)}")
        own = {name: numbers[name] for name in numbers if name in cls.__dataclass_fields__}
        made: dict[type[Engine], dict[str, int]] = {}
        for name in IDENTITY:
            if name in numbers and name not in own:
                kind, field = owner(name)
                made.setdefault(kind, {})[field] = numbers[name]
        return cls(**own, engines=tuple(kind(**values) for kind, values in made.items() if values.get("ports")))

    @property
    def told(self) -> tuple[str, ...]:
        """The numbers of IDENTITY that it tells."""
        last = [IDENTITY.index(name) for engine in self.engines for name in engine.numbers]
        last += [IDENTITY.index(name) for name in OPTIONS if self.number(name)]
        return IDENTITY[: max(ALWAYS_TOLD, *(n + 1 for n in last))]

    def numbers(self) -> dict[str, int | str]:
        """Board, part and the numbers that it tells; those of an engine that it has not are its defaults."""
        return {"board": self.board, "part": self.part, **{name: self.number(name) for name in self.told}}

    def number(self, name: str) -> int:
        """One number of IDENTITY."""
        if name in self.__dataclass_fields__:
            return int(getattr(self, name))
        kind, field = owner(name)
        return int(getattr(self.engine(kind), field))

    def changed(self, numbers: Mapping[str, int]) -> Design:
        """The same design with other numbers; those of an engine that it has not make one when they give it ports."""
        own = {name: value for name, value in numbers.items() if name in self.__dataclass_fields__}
        made = {type(engine): engine for engine in self.engines}
        for name in numbers.keys() - own.keys():
            kind, field = owner(name)
            made[kind] = replace(made.get(kind) or kind(), **{field: numbers[name]})
        ordered = sorted((e for e in made.values() if e.ports), key=lambda e: IDENTITY.index(e.ports_name()))
        return replace(self, **own, engines=tuple(ordered))  # type: ignore[arg-type]

    def engine(self, kind: type[E]) -> E:
        """Its engine of one kind; without ports when it has none."""
        for engine in self.engines:
            if type(engine) is kind:
                return engine
        return kind()

    def streams(self, word: int) -> Engine:
        """The engine that takes the weights of a format word.  Raises ValueError when the design has none."""
        kind = engine_of(word)
        found = self.engine(kind)
        if not found.ports:
            raise ValueError(f"the design has no engine for {kind.weights}")
        return found

    @property
    def beside(self) -> Engine | None:
        """The engine in Verilog, with a clock and registers of its own; None when it has none."""
        return next((e for e in self.engines if e.own_clock), None)

    def multiplier(self, elem: Elem) -> type[Engine] | None:
        """The kind of engine that multiplies weights of a type in this design; None when no engine does."""
        return next((type(e) for e in self.engines if e.multiplies(elem)), engine_for(elem))

    def check(self) -> None:
        """Raise ValueError when the numbers do not go together."""
        choices = dict(CHOICES)
        for engine in self.engines:
            choices |= engine.choices
        for name, possible in choices.items():
            if self.number(name) not in possible:
                listed = ", ".join(str(n) for n in possible[:-1])
                raise ValueError(f"{name} is {self.number(name)}; {listed} or {possible[-1]} are possible")
        if not self.engines:
            ports = " and ".join(sorted((kind.ports_name() for kind in engines()), key=IDENTITY.index))
            raise ValueError(f"{ports} are 0; a design needs an engine for its weights")
        for engine in self.engines:
            engine.check(self)
        if self.tile_rows < 4 or self.tile_rows % 4:
            raise ValueError(f"tile_rows is {self.tile_rows}; a positive multiple of 4 is possible")
        for name in ("token_lanes", "block", "context", "clock_mhz", "max_cols", "max_head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.block > self.context:
            raise ValueError(f"block is {self.block} and context {self.context}; a block is at most the context")
        if self.clock_mhz > LARGEST_CLOCK_MHZ:
            raise ValueError(f"clock_mhz is {self.clock_mhz}; no engine of this kind runs above {LARGEST_CLOCK_MHZ}")
        if self.max_cols % LANE_COLS or self.max_head_dim % BEAT_BYTES:
            raise ValueError(f"max_cols {self.max_cols} and max_head_dim {self.max_head_dim} must be whole beats")

    @cached_property
    def id(self) -> str:
        """A short digest of the numbers: the bitstream, the program and the manifest must agree on it."""
        text = json.dumps(self.numbers(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def products_per_second(self) -> float:
        """Products of all engines at their best."""
        return sum(1e6 * e.products_per_cycle(self) * e.clock(self) for e in self.engines)

    @property
    def weight_bytes_per_second(self) -> float:
        """What all ports that stream weights carry."""
        return sum(e.stream_bytes_per_second(self) for e in self.engines)

    @property
    def stream_ports(self) -> int:
        """Memory ports that stream weights."""
        return sum(e.ports for e in self.engines)

    @property
    def max_tile_rows(self) -> int:
        return max(self.tile_rows, self.max_head_dim)

    @property
    def ahead(self) -> int:
        """Beats of weights that are read ahead while something else runs."""
        return sum(e.ahead for e in self.engines)

    @property
    def port_bytes_per_second(self) -> float:
        return BEAT_BYTES * self.clock_mhz * 1e6

    def resources(self) -> dict[str, int]:
        """Estimated use of the fabric, by kind.  Formulas and their sources: docs/decisions/0006-resource-estimates.md."""
        attention = (-(-self.token_lanes // 2) + self.token_lanes) * self.max_head_dim
        floats = operators.cells(self)
        dsp = attention + floats.dsp
        memories = self.memories()
        ultra = [memories.pop(name) for name in ULTRA_BUFFERS if self.uram and name in memories]
        bram = sum(math.ceil(memory.bram36) for memory in memories.values())
        lut = 10_400 + floats.lut + 1_000 * self.float_lanes + 300 * self.token_lanes + 30 * attention
        for engine in self.engines:
            its = engine.resources(self)
            dsp, bram, lut = dsp + its["DSP"], bram + its["BRAM36"], lut + its["LUT"]
        found = {"LUT": lut, "FF": int(1.3 * lut), "DSP": dsp, "BRAM36": bram}
        return {**found, "URAM": sum(memory.uram for memory in ultra)} if ultra else found

    def memories(self) -> dict[str, Memory]:
        """Each buffer on chip, as hls/ declares and parts it."""
        vector, head, floats = 32 * self.float_lanes, 8 * self.max_head_dim, BEAT_BYTES // 4
        scales = Memory(floats, self.context // floats + 1, 32)
        pairs = 2 * self.float_lanes  # banks of results
        vectors = self.max_head_dim // self.float_lanes + 2  # of a head
        found = {
            "results": Memory(pairs, self.block * -(-self.max_tile_rows // pairs), 32),
            "keys": Memory(1, self.context, head),
            "values": Memory(1, self.context, head),
            "scales of keys": scales,
            "scales of values": scales,
            "rows of scores": scales._replace(banks=self.token_lanes * scales.banks),
            "rows of probabilities": Memory(2 * floats * self.token_lanes, self.context // (2 * floats) + 1, 16),
            "rows of norms": Memory(4, self.max_cols // self.float_lanes, vector),
            "heads, turned": Memory(1, self.block * vectors, vector),
            "heads, codes": Memory(1, self.block, head),
            "rotary factors": Memory(pairs, self.block * -(-(self.max_head_dim + 2 * floats) // pairs), 16),
        }
        for engine in self.engines:
            found |= engine.memories(self)
        return found

    def __str__(self) -> str:
        built = ", ".join(engine.describe(self) for engine in self.engines)
        return (
            f"design {self.id} for {self.board} at {self.clock_mhz} MHz: {built}, blocks of {self.block} tokens, "
            f"context {self.context}"
        )


def untold_number(name: str) -> int:
    """What a number of IDENTITY is in a design that does not tell it."""
    return 0 if name in Design.__dataclass_fields__ else absent_number(name)
