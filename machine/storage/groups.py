# SPDX-License-Identifier: Apache-2.0
"""Grouped weights: how INT8, INT4 and INT2 codes, with a scale (and a minimum) per group, are stored for pacq_gemv.

The arithmetic on them is arithmetic/fp16.py's.  Shared by pack, the emulator and the tests of the Verilog; rtl/pacq_gemv.v and
hls/sim/pacq.hpp read the same streams.

Rows go to ports in turn: row n belongs to port n mod ports.  BAND_ROWS rows of each port make a band.  A port streams,
band after band and group after group:

    parameters   of its 16 rows: the scale, or scale and minimum, each FP16 or FP32: 2, 4 or 8 beats
    weights      lanes rows at a time: group / 8 beats, each 8 columns; a column is 16 bits, its lanes' codes lowest first

A beat is 128 bits, so 16 bits per column are 2, 4 or 8 rows of 8, 4 or 2 bits: weights are packed along the output dimension
(PacQ, section 3).  Codes are unsigned; what 0 stands for is the format's `zero`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.units import BEAT_BYTES, LARGEST_GROUP

BAND_ROWS = 16
"""Output features of a port that share a visit of the activations: their sums take turns in the FP32 adder."""
COLUMNS = 8
"""Activations that meet a beat."""
COLUMN_BITS = 16
WIDTHS = (2, 4, 8)
GROUPS = (16, 32, 64, 128, LARGEST_GROUP)
SHORTEST_WINDOW = 4
"""Cycles that the engine gives a group of a tile at least: pacq_scale takes one lane per cycle."""
WORD_FLAG = 1 << 24
"""Bit of a program's format word that says: grouped weights, for pacq_gemv."""
WORD_FIELDS = {"bits": (0, 8), "log2_group": (8, 4), "minimum": (16, 1), "wide": (17, 1)}
"""(lowest bit, bits) of each field of a format word."""
MOST_GROUPS = 1023
"""Of a row: the geometry of a command has ten bits for them."""
SMALLEST = 2.0**-60
LARGEST = 2.0**16
"""Scales and minima have magnitudes from SMALLEST to below LARGEST, or are zero: no FP32 operation on them can overflow
or become subnormal (docs/arithmetic.md)."""


@dataclass(frozen=True)
class GroupFormat:
    """What the codes of a matrix mean: w = (code - zero) * scale, or code * scale + minimum.

    bits     2, 4 or 8
    group    columns that share a scale
    minimum  whether every group has a minimum; then zero is 0
    wide     whether scales and minima are FP32 in memory; else FP16
    """

    bits: int
    group: int
    minimum: bool
    wide: bool

    def __post_init__(self) -> None:
        if self.bits not in WIDTHS or self.group not in GROUPS:
            raise ValueError(
                f"groups of {self.group} columns of {self.bits} bits; {WIDTHS} bits and groups of {GROUPS} are possible"
            )

    @property
    def zero(self) -> int:
        """The code that stands for 0."""
        return 0 if self.minimum else 1 << (self.bits - 1)

    @property
    def lanes(self) -> int:
        """Rows that a beat holds."""
        return COLUMN_BITS // self.bits

    @property
    def window_cycles(self) -> int:
        """Cycles of the engine for a group of a tile and a token."""
        return max(SHORTEST_WINDOW, self.group // COLUMNS)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of one row's scale and minimum."""
        return (4 if self.wide else 2) * (2 if self.minimum else 1)

    @property
    def word(self) -> int:
        """The format field of an instruction."""
        values = {
            "bits": self.bits,
            "log2_group": self.group.bit_length() - 1,
            "minimum": int(self.minimum),
            "wide": int(self.wide),
        }
        return WORD_FLAG | sum(value << WORD_FIELDS[name][0] for name, value in values.items())

    @classmethod
    @lru_cache
    def of_word(cls, word: int) -> GroupFormat:
        """The inverse of `word`.  Raises ValueError for what is none."""
        made = None
        if is_grouped(word):
            value = {name: word >> low & (1 << width) - 1 for name, (low, width) in WORD_FIELDS.items()}
            made = cls(value["bits"], 1 << value["log2_group"], bool(value["minimum"]), bool(value["wide"]))
        if made is None or made.word != word:
            raise ValueError(f"{word:#x} is no format of grouped weights")
        return made

    def __str__(self) -> str:
        return (
            f"i{self.bits}g{self.group}" + (" with minima" if self.minimum else "") + (" in FP32" if self.wide else "")
        )


@dataclass(frozen=True)
class GroupLayout:
    """A matrix of rows x cols over `ports` ports; rows padded to whole bands, columns to whole groups."""

    rows: int
    cols: int
    ports: int
    form: GroupFormat

    @property
    def groups(self) -> int:
        return -(-self.cols // self.form.group)

    @property
    def padded_cols(self) -> int:
        return self.groups * self.form.group

    @property
    def operand_cols(self) -> int:
        """Input features as an instruction has them."""
        return self.cols

    @property
    def bands(self) -> int:
        return -(-self.rows // (BAND_ROWS * self.ports))

    @property
    def padded_rows(self) -> int:
        return self.bands * BAND_ROWS * self.ports

    @property
    def tiles(self) -> int:
        """Beat-wide slices of a band."""
        return BAND_ROWS // self.form.lanes

    @property
    def group_beats(self) -> int:
        """Beats of a port for one group of one band, parameters included."""
        return self.form.parameter_bytes + self.tiles * self.form.group // COLUMNS

    @property
    def port_beats(self) -> int:
        """Beats that each port streams."""
        return self.bands * self.groups * self.group_beats

    def _by_port(self, values: NDArray[Any]) -> NDArray[Any]:
        """[padded rows, ...] as [bands, tiles, lanes, ports, ...]."""
        return values.reshape(self.bands, self.tiles, self.form.lanes, self.ports, *values.shape[1:])

    def pack(
        self, codes: NDArray[np.uint8], scale: NDArray[np.float32], minimum: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.uint8], ...]:
        """The bytes of each port.

        codes    uint8 [rows, cols]
        scale    float32 [rows, groups]; minimum the same, or None
        """
        form = self.form
        whole = np.full((self.padded_rows, self.padded_cols), form.zero, np.uint8)
        whole[: self.rows, : self.cols] = codes
        split = self._by_port(whole).reshape(
            self.bands, self.tiles, form.lanes, self.ports, self.groups, form.group // COLUMNS, COLUMNS
        )
        ordered = split.transpose(3, 0, 4, 1, 5, 6, 2)  # port, band, group, tile, beat, column, lane
        column = np.zeros(ordered.shape[:-1], np.uint16)
        for lane in range(form.lanes):
            column |= ordered[..., lane].astype(np.uint16) << np.uint16(form.bits * lane)
        weights = column.view(np.uint8).reshape(self.ports, self.bands, self.groups, -1)
        kind = np.float32 if form.wide else np.float16
        values = np.zeros((self.padded_rows, self.groups, 2 if form.minimum else 1), kind)
        values[: self.rows, :, 0] = scale
        if form.minimum:
            assert minimum is not None
            values[: self.rows, :, 1] = minimum
        first = np.ascontiguousarray(self._by_port(values).transpose(3, 0, 4, 1, 2, 5))
        parameters = first.view(np.uint8).reshape(self.ports, self.bands, self.groups, -1)
        joined = np.concatenate([parameters, weights], axis=3)
        return tuple(np.ascontiguousarray(port).reshape(-1) for port in joined)

    def unpack(
        self, streams: tuple[NDArray[np.uint8], ...] | list[NDArray[np.uint8]]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32] | None]:
        """(codes [rows, padded cols], scale [rows, groups], minimum or None): the inverse of `pack`."""
        form = self.form
        joined = np.stack([s.reshape(self.bands, self.groups, self.group_beats * BEAT_BYTES) for s in streams])
        cut = form.parameter_bytes * BEAT_BYTES
        kind = np.float32 if form.wide else np.float16
        first = np.ascontiguousarray(joined[..., :cut]).view(kind)
        first = first.reshape(self.ports, self.bands, self.groups, self.tiles, form.lanes, -1)
        values = first.transpose(1, 3, 4, 0, 2, 5).reshape(self.padded_rows, self.groups, -1)[: self.rows]
        column = np.ascontiguousarray(joined[..., cut:]).view(np.uint16)
        column = column.reshape(self.ports, self.bands, self.groups, self.tiles, -1)
        column = column.transpose(1, 3, 0, 2, 4).reshape(self.bands, self.tiles, self.ports, self.padded_cols)
        codes = np.empty((self.bands, self.tiles, form.lanes, self.ports, self.padded_cols), np.uint8)
        for lane in range(form.lanes):
            codes[:, :, lane] = column >> np.uint16(form.bits * lane) & np.uint16((1 << form.bits) - 1)
        scale = values[..., 0].astype(np.float32)
        minimum = values[..., 1].astype(np.float32) if form.minimum else None
        return codes.reshape(self.padded_rows, self.padded_cols)[: self.rows], scale, minimum

    @property
    def chunk_rows(self) -> int:
        """Output features that leave the engine together, tile by tile."""
        return self.ports * self.form.lanes

    @property
    def results(self) -> int:
        """Words of one FP32 a port that leave the engine for a token."""
        return self.padded_rows // self.ports

    @property
    def windows(self) -> int:
        """Groups of tiles that the engine multiplies for a token."""
        return self.bands * self.groups * self.tiles


def is_grouped(word: object) -> bool:
    """Whether an instruction's format word names grouped weights."""
    return isinstance(word, int) and bool(word & WORD_FLAG)
