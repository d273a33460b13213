# SPDX-License-Identifier: Apache-2.0
"""The INT8 array: INT8 activations times INT8 weights with a scale per row, raw or packed.  hls/array.hpp is the same in C++."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meadow.machine.arithmetic import int8 as ar
from meadow.machine.engines.engine import Engine, Place, Unpacked
from meadow.machine.instructions.instruction import (
    FLOATS,
    SCRATCH,
    WEIGHTS,
    Beats,
    Extent,
    Fields,
    Loop,
    Loops,
    Machine,
    Operands,
    PackedBeats,
    Part,
    Tokens,
    alike,
    beats_of,
    looped,
    need,
)
from meadow.machine.memories import Memory
from meadow.machine.step import Slot, Step
from meadow.machine.storage.coded import Coded, format_of, formats, unpack, unpack_alike
from meadow.machine.storage.rows import Layout, padded
from meadow.machine.timing import BUS_LATENCY
from meadow.machine.types import I8, Elem
from meadow.machine.units import BEAT_BYTES, LANE_COLS, LOOKUP_LANES

if TYPE_CHECKING:
    from meadow.machine.design import Design

PREFIX_LUT = 7_751
"""LUT of the look-up unit of one port: synthesized by Yosys (meadowc bench rtl)."""
UNPACKED_AT_ONCE = 1 << 23
"""Weights of one shape that are unpacked together: numpy is fast on wide arrays."""


class Matrix(NamedTuple):
    """INT8 codes [N, padded K] in FP32, how many pieces K needs for exact sums, and the scale of each row."""

    codes: NDArray[np.float32]
    pieces: int
    scale: NDArray[np.float32]


@dataclass(frozen=True)
class Array(Engine):
    """The array.  LANE_COLS weights of each port meet `token_lanes` tokens of the design in a cycle.

    ports           128-bit AXI ports that stream weights: 1, 2 or 4
    prefix_codes    1 when it decodes prefix codes, else 0
    lookup_entries  entries of each chunk table of the published packing; 0 without that unit
    """

    prefix_codes: int = 0
    lookup_entries: int = 0

    name: ClassVar[str] = "the INT8 array"
    weights: ClassVar[str] = "INT8 weights"
    numbers: ClassVar[dict[str, str]] = {
        "weight_ports": "ports",
        "prefix_codes": "prefix_codes",
        "lookup_entries": "lookup_entries",
    }
    choices: ClassVar[dict[str, tuple[int, ...]]] = {"weight_ports": (0, 1, 2, 4), "prefix_codes": (0, 1)}
    port: ClassVar[str] = "weights"
    pin: ClassVar[str] = "meadow_engine/m_axi_weights{n}"
    activations: ClassVar[str] = "int8"

    @classmethod
    def takes(cls, word: int) -> bool:
        return word in formats()

    @classmethod
    def multiplies(cls, elem: Elem) -> bool:
        return elem == I8

    def problems(self, f: Fields, tile_rows: int, design: Design) -> list[str]:
        if f["cols"] % LANE_COLS or tile_rows % self.ports:
            return [f"{f['cols']} columns and tiles of {tile_rows} rows are not whole words over {self.ports} ports"]
        form, entries = format_of(int(f["format"])), int(f["entries"])
        if form.packed and not 0 < entries <= form.room(self):
            return [f"entries is {entries}, at most {form.room(self)} is allowed"]
        return []

    def check(self, design: Design) -> None:
        entries = self.lookup_entries
        if entries and (entries & (entries - 1) or not 256 <= entries <= 65536):
            raise ValueError(f"lookup_entries is {entries}; 0 or a power of two from 256 to 65536 is possible")

    def multipliers(self, design: Design) -> int:
        """INT8 multipliers."""
        return self.ports * LANE_COLS * design.token_lanes

    def products_per_cycle(self, design: Design) -> int:
        return self.multipliers(design)

    def memories(self, design: Design) -> dict[str, Memory]:
        lanes, words = design.token_lanes, design.max_cols // LANE_COLS
        groups = -(-design.block // lanes)
        tables = self.ports * (LOOKUP_LANES // 2) * (self.lookup_entries > 0)  # dual-ported copies
        return {
            "activations": Memory(lanes, (groups + 1) * words, 8 * LANE_COLS),
            "sums": Memory(1, 2 * groups, 32 * lanes * self.ports),
            "look-up tables": Memory(tables, self.lookup_entries, 16),
        }

    def resources(self, design: Design) -> dict[str, int]:
        multipliers = self.multipliers(design)
        return {
            "DSP": (multipliers + 1) // 2,  # two INT8 products a DSP48E2 (WP486)
            "LUT": PREFIX_LUT * self.ports * self.prefix_codes + 12 * multipliers + 4_500 * self.ports,
            "BRAM36": 0,
        }

    def describe(self, design: Design) -> str:
        units = ", the decoder of prefix codes" * self.prefix_codes
        units += f", look-up tables of {self.lookup_entries} entries" if self.lookup_entries else ""
        return (
            f"{self.ports} weight ports x {LANE_COLS} x {design.token_lanes} tokens = "
            f"{self.multipliers(design)} multipliers{units}"
        )

    # -- a step ----------------------------------------------------------------------------------------------------

    def project(self, m: Machine, f: Fields, rows: int, tile_rows: int, first: int) -> NDArray[np.float32]:
        matrix = self._matrix(m, f, rows, tile_rows)
        tokens = m.run.tokens
        codes = m.array(f["codes"], np.int8, tokens, f["cols"]).astype(np.float32)
        scale = m.array(f["scale"], np.float32, tokens)
        return ar.rescale(ar.int8_products(codes[first:], matrix.codes, matrix.pieces), scale[first:], matrix.scale)

    def _matrix(self, m: Machine, f: Fields, rows: int, tile_rows: int) -> Matrix:
        """A matrix as numpy multiplies it.  One that is not unpacked yet takes with it those of its shape that follow."""
        key = (self.port, m.address(f["weights0"]), rows)
        if key not in m.decoded:
            with m.unpacking():
                self._unpack_alike(m, f, rows, tile_rows)
        found: Matrix = m.decoded[key]
        return found

    def _unpack_alike(self, m: Machine, f: Fields, rows: int, tile_rows: int) -> None:
        several = [f]
        if format_of(f["format"]).together:
            several += [g for g in self._alike(m, f, rows) if g is not f]
        layout = Layout(rows, f["cols"], self.ports, tile_rows)
        codes = [_raw(m, g, layout) for g in several] if not f["format"] else _packed(m, several, layout)
        for g, some in zip(several, codes, strict=True):
            tables = (g["weight_scale"], g["table"], g["directory"])
            scale = m.array(g["weight_scale"], np.float32, layout.scale_bytes // 4)[layout.scale_places]
            joined = layout.join(some)
            m.remember(
                (self.port, m.address(g["weights0"]), rows),
                Matrix(joined.astype(np.float32), ar.blocks_for_exact_sums(joined), scale),
                (*tables, *(g[f"weights{p}"] for p in range(self.ports))),
            )

    def _alike(self, m: Machine, f: Fields, rows: int) -> list[Fields]:
        """Instructions of the program that is running whose weights are not unpacked and have the shape of `f`."""
        most = max(1, UNPACKED_AT_ONCE // (rows * f["cols"]))
        found = []
        for g in m.instructions():
            if "format" in g and g["format"] == f["format"] and g["cols"] == f["cols"]:
                same = g.get("rows", g["heads"] * g["head_dim"] if "heads" in g else 0) == rows
                new = (self.port, m.address(g["weights0"]), rows) not in m.decoded
                if same and g.get("tile_rows") == f.get("tile_rows") and new:
                    found.append(g)
        return found[:most]

    def extents(self, f: Fields, rows: int, tile_rows: int, design: Design, packed: PackedBeats) -> list[Extent]:
        need(not f["reuse"] and not f["hold"], "only grouped weights keep activations")
        cols, block = f["cols"], design.block
        whole = Layout(rows, cols, self.ports, tile_rows)
        found = [
            Extent("codes", block * cols, SCRATCH),
            Extent("scale", block * 4, SCRATCH),
            Extent("weight_scale", whole.scale_bytes, WEIGHTS),
        ]
        streams = [whole.raw_beats] * self.ports
        if f["format"]:
            found += [
                Extent("directory", whole.tiles * self.ports * 4, WEIGHTS),
                Extent("table", format_of(f["format"]).table_bytes(f["entries"]), WEIGHTS),
            ]
            streams = packed(f, whole.tiles)
        return found + [Extent(f"weights{port}", n * BEAT_BYTES, WEIGHTS) for port, n in enumerate(streams)]

    def activation_beats(self, o: Operands, rows: int, tokens: Tokens, moved: Beats) -> None:
        moved["memory", "read", "activations"] += rows * int(o["cols"]) // BEAT_BYTES + beats_of(tokens.count, FLOATS)

    def weight_beats(self, step: Step, design: Design, rows: int, tile_rows: int, moved: Beats) -> None:
        o = step.numbers
        for port in range(self.ports):
            slot = step.operands[f"weights{port}"]
            assert isinstance(slot, Slot)
            moved[f"weights{port}", "read", "weights"] += slot.length // BEAT_BYTES
        form = format_of(int(o["format"]))
        moved["constants", "read", "weights"] += form.table_beats(int(o["entries"]))
        for _, some, times in alike(padded(rows, self.ports), tile_rows):
            moved["constants", "read", "weights"] += times * (beats_of(some, FLOATS) + form.packed)

    def parts(self, step: Step, design: Design, rows: int, tile_rows: int, served: int, tokens: Tokens) -> list[Part]:
        o, ports = step.numbers, self.ports
        form, words = format_of(int(o["format"])), int(o["cols"]) // LANE_COLS
        activations = looped(
            ("load", served * words * LANE_COLS // BEAT_BYTES), ("load", beats_of(tokens.count, FLOATS))
        )
        table = looped(*form.table_loops(int(o["entries"])))
        found = [Part({"memory port": activations}), Part({"tables": table})]
        streamed = [s.length // BEAT_BYTES for p in range(ports) if isinstance(s := step.operands[f"weights{p}"], Slot)]
        all_words = padded(rows, ports) // ports * words
        for _, some, times in alike(padded(rows, ports), tile_rows):
            port_rows = some // ports
            if form.packed:
                found.append(Part({"directories": looped(("load", 1))}, times))
            share = port_rows * words / all_words  # of a port's stream, where that is not known by tile
            mine = port_rows * words
            unpacked = form.unpack_words(mine, int(share * max(streamed)))
            processes = {
                "scales": looped(("load", beats_of(some, FLOATS))),
                "multipliers": looped(("multiply", mine * -(-served // design.token_lanes))),
                "rescaling": looped(("rescale", port_rows * served)),
            }
            decided = {
                "weight ports": share * max(streamed) + BUS_LATENCY,
                "look-up unit": max(mine, share * max(streamed)) if unpacked is None else unpacked,
            }
            found.append(Part(processes, times, decided=decided))
        tiles, beats = -(-rows // tile_rows), sum(streamed)
        beside = Loops({"fetch": Loop(beats, ports * tiles)})
        unpacked = form.unpack_words(all_words * ports, beats)
        if unpacked is not None:
            beside["unpack"] = Loop(unpacked, ports * tiles)
        return [*found, Part({}, beside=beside)]

    def decides(self, tokens: int, design: Design) -> tuple[int, ...]:
        return (self.ports, -(-tokens // design.token_lanes))

    # -- a matrix in a package -------------------------------------------------------------------------------------

    @classmethod
    def fields_of(cls, row: dict[str, Any], place: Place) -> dict[str, Any]:
        found = {"cols": padded(row["cols"], LANE_COLS), "tile_rows": row["tile_rows"], "weight_scale": place("scale")}
        if row["format"]:
            found |= {"entries": row["entries"], "directory": place("directory"), "table": place("table")}
        return found

    @classmethod
    def unpack(cls, row: dict[str, Any], streams: list[NDArray[np.uint8]], take: Callable[[str], Any]) -> Unpacked:
        layout = Layout(row["rows"], row["cols"], row["ports"], row["tile_rows"])
        if row["format"] == 0:
            ported = np.stack([s.view(np.int8) for s in streams])
        else:
            form = format_of(row["format"])
            directory = take("directory").view(np.uint32)[: layout.tiles * layout.ports].reshape(-1, layout.ports)
            table = take("table")[: form.table_bytes(row["entries"])]
            ported = unpack(form, Coded(streams, directory, table, row["entries"]), layout)
        scale = take("scale").view(np.float32)[layout.scale_places]
        return Unpacked(layout.join(ported), scale[:, None], None, 0, 0)


def _raw(m: Machine, f: Fields, layout: Layout) -> NDArray[np.int8]:
    """The weights of every port."""
    length = layout.raw_beats * BEAT_BYTES
    return np.stack([m.array(f[f"weights{p}"], np.int8, length) for p in range(layout.ports)])


def _packed(m: Machine, several: list[Fields], layout: Layout) -> list[NDArray[np.int8]]:
    """The weights of every port, of matrices of one shape and format.  Raises ValueError for damaged streams."""
    form = format_of(several[0]["format"])
    stored = []
    for f in several:
        directory = m.array(f["directory"], np.uint32, layout.tiles, layout.ports)
        table = m.array(f["table"], np.uint8, form.table_bytes(f["entries"]))
        beats = directory.sum(axis=0, dtype=np.int64)
        streams = [m.array(f[f"weights{p}"], np.uint8, int(n) * BEAT_BYTES) for p, n in enumerate(beats)]
        stored.append(Coded(streams, directory, table, f["entries"]))
    try:
        return unpack_alike(form, stored, layout)
    except ValueError as error:
        raise ValueError(f"packed weights are damaged: {error}") from None
