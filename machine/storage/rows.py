# SPDX-License-Identifier: Apache-2.0
"""Layout: the order in which a weight matrix crosses the bus, shared by pack, the emulator and the C++.

Row n of W[N, K] belongs to port n mod ports; a port streams its rows in order, tile after tile, each row padded with
zeros to LANE_COLS columns.  Says nothing of how the bytes are coded; each coding says it of itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.units import BEAT_BYTES, LANE_COLS


def padded(n: int, unit: int) -> int:
    """n rounded up to a multiple of unit."""
    return -(-n // unit) * unit


@dataclass(frozen=True)
class Layout:
    """rows x cols of INT8 over `ports` ports, in tiles of `tile_rows` output features."""

    rows: int
    cols: int
    ports: int
    tile_rows: int

    def __post_init__(self) -> None:
        if self.tile_rows % self.ports:
            raise ValueError(f"a tile of {self.tile_rows} rows does not divide over {self.ports} ports")

    @property
    def padded_cols(self) -> int:
        return padded(self.cols, LANE_COLS)

    @property
    def operand_cols(self) -> int:
        """Input features as an instruction has them."""
        return self.padded_cols

    @property
    def port_rows(self) -> int:
        """Rows that each port streams, padding included."""
        return padded(self.rows, self.ports) // self.ports

    @property
    def tiles(self) -> int:
        return -(-self.rows // self.tile_rows)

    def tile_port_rows(self, tile: int) -> int:
        """Rows that each port streams in tile `tile`; the last may be shorter."""
        step = self.tile_rows // self.ports
        return min(step, self.port_rows - tile * step)

    @property
    def tile_weights(self) -> NDArray[np.intp]:
        """[tiles], weights that each port streams in a tile, padding included."""
        rows = [self.tile_port_rows(t) for t in range(self.tiles)]
        return np.array(rows, np.intp) * self.padded_cols

    @property
    def raw_beats(self) -> int:
        """Beats of one port when stored raw."""
        return self.port_rows * self.padded_cols // BEAT_BYTES

    @cached_property
    def scale_places(self) -> NDArray[np.intp]:
        """Where the scale of each row lies among the FP32 scales: every tile's begin at a beat."""
        row = np.arange(self.rows)
        return row // self.tile_rows * padded(self.tile_rows, 4) + row % self.tile_rows

    @property
    def scale_bytes(self) -> int:
        """Bytes of all scales, padded to whole tiles."""
        return self.tiles * padded(self.tile_rows, 4) * 4

    def split(self, codes: NDArray[np.int8]) -> NDArray[np.int8]:
        """W[N, K] as [ports, port_rows, padded_cols], the order of each port's stream."""
        out = np.zeros((self.port_rows * self.ports, self.padded_cols), np.int8)
        out[: self.rows, : self.cols] = codes
        return np.ascontiguousarray(out.reshape(self.port_rows, self.ports, -1).swapaxes(0, 1))

    def pack_tiles(
        self,
        streams: NDArray[Any],
        code: Callable[[NDArray[Any]], tuple[NDArray[np.uint8], NDArray[np.integer[Any]]]],
        together: int = 1,
    ) -> tuple[tuple[NDArray[np.uint8], ...], NDArray[np.uint32]]:
        """(bytes of each port, directory [tiles, ports] in beats) of streams [ports, port_rows, n], so many tiles coded together.

        code  (bytes, beats of each tile) of units [units, elements] of tiles that have one size; a last unit may be shorter
        """
        step = self.tile_rows // self.ports * together
        full = self.port_rows // step
        directory = np.zeros((self.tiles, self.ports), np.uint32)
        out = []
        for port, rows in enumerate(streams):
            whole, rest = rows[: full * step], rows[full * step :]
            pieces = []
            for first, units in (
                (0, whole.reshape(full, step * rows.shape[1])),
                (full * together, rest.reshape(1, -1)),
            ):
                if units.size:
                    data, beats = code(units)
                    pieces.append(data)
                    directory[first : first + len(beats), port] = beats
            out.append(np.concatenate(pieces))
        return tuple(out), directory

    def join(self, streams: NDArray[np.int8]) -> NDArray[np.int8]:
        """The inverse of `split`, padded columns kept: [N, padded_cols]."""
        whole = streams.reshape(self.ports, self.port_rows, self.padded_cols).swapaxes(0, 1)
        return np.ascontiguousarray(whole).reshape(-1, self.padded_cols)[: self.rows]
