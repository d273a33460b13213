# SPDX-License-Identifier: Apache-2.0
"""EmbeddingLayout: the table of embeddings as the engine gathers from it: a row of codes, its scales, its minima, each in whole beats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES

PARTS = 4
"""Pieces of contiguous memory that a table may lie in."""
SMALLEST_GROUP = 16
"""Columns that share a scale, at least."""
SIGNED, MINIMA = 1, 2
"""Bits of NEXT's `form`: codes are two's complement; a minimum per group is added."""


class Rows(NamedTuple):
    """What some rows of a table hold: codes [rows, dim], scales and minima [rows, groups]."""

    codes: NDArray[Any]
    scale: NDArray[np.float32]
    minimum: NDArray[np.float32] | None


@dataclass(frozen=True)
class EmbeddingLayout:
    """A table of `rows` x `dim` codes of a byte, with a scale, and perhaps a minimum, per `group` columns.

    most  bytes of a part, which has a power of two of rows
    """

    rows: int
    dim: int
    group: int
    form: int
    most: int

    @classmethod
    def parted(cls, rows: int, dim: int, group: int, form: int, shift: int) -> EmbeddingLayout:
        """The table whose parts have 2^shift rows.  Raises ValueError for groups of no columns."""
        if group < 1 or not 0 <= shift < 32:
            raise ValueError(f"groups of {group} columns, parts of 2^{shift} rows")
        return cls(rows, dim, group, form, cls(rows, dim, group, form, 1).stride << shift)

    def check(self) -> None:
        """Raise ValueError for a table that the engine does not gather from."""
        if self.group % 4 or (self.group < SMALLEST_GROUP and self.groups > 1):
            raise ValueError(f"groups of {self.group} columns; multiples of 4 from {SMALLEST_GROUP} on are possible")
        if self.stride > self.most or self.parts > PARTS:
            megabytes = self.rows * self.stride / 1e6
            raise ValueError(
                f"the table has {megabytes:,.0f} MB and {PARTS} parts hold {PARTS * self.most / 1e6:,.0f} MB at most"
            )

    @property
    def groups(self) -> int:
        return -(-self.dim // self.group)

    @property
    def code_bytes(self) -> int:
        """Of a row."""
        return padded(self.dim, BEAT_BYTES)

    @property
    def scale_bytes(self) -> int:
        """Of a row's scales, and of its minima."""
        return padded(4 * self.groups, BEAT_BYTES)

    @property
    def stride(self) -> int:
        """Bytes from row to row."""
        return self.code_bytes + self.scale_bytes * (1 + bool(self.form & MINIMA))

    @property
    def shift(self) -> int:
        """Log2 of the rows of a part."""
        return max(0, (self.most // self.stride).bit_length() - 1)

    @property
    def parts(self) -> int:
        return -(-self.rows // (1 << self.shift))

    def part_rows(self, part: int) -> int:
        return min(1 << self.shift, self.rows - (part << self.shift))

    def lengths(self) -> list[int]:
        """Bytes of each part."""
        return [self.part_rows(part) * self.stride for part in range(self.parts)]

    def pack(self, rows: Rows) -> NDArray[np.uint8]:
        """The bytes of some rows, [len(rows), stride]."""
        made = np.zeros((len(rows.codes), self.stride), np.uint8)
        made[:, : self.dim] = rows.codes.view(np.uint8)
        at = self.code_bytes
        for values in (rows.scale, rows.minimum):
            if values is not None:
                made[:, at : at + 4 * self.groups] = np.ascontiguousarray(values, np.float32).view(np.uint8)
                at += self.scale_bytes
        return made

    def rows_of(self, data: NDArray[np.uint8]) -> Rows:
        """What the bytes of some whole rows hold, in place where they lie in whole beats."""
        table = data.reshape(-1, self.stride)
        codes = table[:, : self.dim].view(np.int8 if self.form & SIGNED else np.uint8)
        at = self.code_bytes
        found = []
        for _ in range(1 + bool(self.form & MINIMA)):
            found.append(table[:, at : at + 4 * self.groups].view(np.float32))
            at += self.scale_bytes
        return Rows(codes, found[0], found[1] if len(found) > 1 else None)

    def spans(self) -> Iterator[tuple[int, int]]:
        """First row and row behind the last of each part."""
        for part in range(self.parts):
            first = part << self.shift
            yield first, first + self.part_rows(part)
