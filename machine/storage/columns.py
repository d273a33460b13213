# SPDX-License-Identifier: Apache-2.0
"""INT8 matrices column by column, for column_gemm: a column of 16 output features is a beat, and any column can be read alone.

W[N, K] is padded with zeros to whole beats of rows and whole words of columns.  Rows are cut into stripes of STRIPE beats; a stripe
has its columns one after another.  All ports read the one copy.  rtl/column_regions.v and hls/sim/columns.hpp read the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES, COLUMN_SUMS, LANE_COLS

STRIPE = 256
"""Beats of a column whose sums are kept at once."""
WORD_FLAG = 1 << 25
"""Bit of a program's format word that says: column by column."""
LISTED = 1
"""Bit of it that says: for one token, only columns whose code is not 0 are read."""
CONSTANTS = (
    ("uint32_t", "kColumnsFlag", WORD_FLAG, "format of INT8 weights column by column"),
    ("uint32_t", "kColumnsListed", LISTED, "of which one token reads those alone whose code is not 0"),
    ("int", "kColumnSums", COLUMN_SUMS, "INT32 sums that column_gemm gives in a cycle"),
    ("int", "kStripe", STRIPE, "beats of a column whose sums are kept at once"),
)


def is_columns(word: int) -> bool:
    """Whether a format word names such weights."""
    return word & ~LISTED == WORD_FLAG


@dataclass(frozen=True)
class ColumnLayout:
    """rows x cols of INT8, read over `ports` ports."""

    rows: int
    cols: int
    ports: int

    @property
    def padded_cols(self) -> int:
        return padded(self.cols, LANE_COLS)

    @property
    def operand_cols(self) -> int:
        """Input features as an instruction has them."""
        return self.padded_cols

    @property
    def padded_rows(self) -> int:
        return padded(self.rows, BEAT_BYTES)

    @property
    def column_beats(self) -> int:
        """Beats of a column over all stripes."""
        return self.padded_rows // BEAT_BYTES

    @property
    def stripes(self) -> list[int]:
        """Beats of a column in each stripe."""
        whole, rest = divmod(self.column_beats, STRIPE)
        return [STRIPE] * whole + [rest] * (rest > 0)

    @property
    def nbytes(self) -> int:
        return self.padded_rows * self.padded_cols

    @property
    def port_beats(self) -> int:
        """Beats that each port reads when all columns are read."""
        return self.padded_cols // self.ports * self.column_beats

    def pack(self, codes: NDArray[np.int8]) -> NDArray[np.uint8]:
        """The bytes of W[N, K]."""
        whole = np.zeros((self.padded_rows, self.padded_cols), np.int8)
        whole[: self.rows, : self.cols] = codes
        cut = STRIPE * BEAT_BYTES
        pieces = [whole[first : first + cut].T.reshape(-1) for first in range(0, self.padded_rows, cut)]
        return np.concatenate(pieces).view(np.uint8)

    def unpack(self, stream: NDArray[np.uint8]) -> NDArray[np.int8]:
        """The inverse of `pack`, padded columns kept: [N, padded_cols].  Raises ValueError for a stream of another length."""
        if stream.size != self.nbytes:
            raise ValueError(f"a matrix of {self.nbytes} bytes has {stream.size}")
        codes = stream.view(np.int8)
        pieces, at = [], 0
        for beats in self.stripes:
            size = beats * BEAT_BYTES * self.padded_cols
            pieces.append(codes[at : at + size].reshape(self.padded_cols, beats * BEAT_BYTES).T)
            at += size
        return np.ascontiguousarray(np.concatenate(pieces)[: self.rows])

    def listed_groups(self, codes: NDArray[np.int8]) -> int:
        """Groups of a column per port that one token's codes [K] read, where only live columns are: at least one."""
        return max(1, -(-int(np.count_nonzero(codes)) // self.ports))
