# SPDX-License-Identifier: Apache-2.0
"""unpack: the bytes of a packed weight stream become INT8 again, as the look-up unit does it.

The inverse of pack.py, and all of it that a board's host needs.  The format is described in docs/packing.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.design import BEAT_BYTES, LOOKUP_LANES

MODE_BITS = 4


@dataclass(frozen=True)
class Format:
    """Chunks of `chunk` weights; `packets` packets in a beat, each with a mode field and ids of one width."""

    chunk: int
    packets: int

    @property
    def word(self) -> int:
        """The `format` field of an instruction."""
        return self.chunk | self.packets << 8

    @property
    def packet_bits(self) -> int:
        return BEAT_BYTES * 8 // self.packets

    def count(self, width: int) -> int:
        """Ids of `width` bits in one packet: what fits, and no more than the look-up lanes can resolve in a cycle."""
        return min((self.packet_bits - MODE_BITS) // width, LOOKUP_LANES // self.packets)

    @property
    def widths(self) -> tuple[int, ...]:
        """The id width of each mode: mode m means m + 1 bits."""
        return tuple(range(1, (1 << MODE_BITS) + 1))

    def __str__(self) -> str:
        return f"chunks of {self.chunk}, {self.packets} packets a beat"


FORMATS = tuple(Format(chunk, packets) for chunk in (1, 2) for packets in (1, 2, 4))
"""A beat yields at most LOOKUP_LANES chunks of two: LANE_COLS weights, one word of the multipliers."""


def format_of(word: int) -> Format:
    """The Format of an instruction's word.  Raises ValueError for one that does not exist."""
    made = Format(word & 255, word >> 8)
    if made not in FORMATS:
        raise ValueError(f"packing format {word:#x} is not known")
    return made


def unpack_ids(beats: NDArray[np.uint8], form: Format) -> tuple[NDArray[np.uint16], NDArray[np.intp]]:
    """The ids in `beats` (bytes, whole beats), with their lanes: ids [beats, LOOKUP_LANES] and how many are valid."""
    words = np.ascontiguousarray(beats).view("<u8").reshape(-1, 2)
    per = LOOKUP_LANES // form.packets
    counts = np.array([form.count(w) for w in form.widths], np.intp)
    ids = np.zeros((len(words), form.packets, per), np.uint16)
    valid = np.zeros((len(words), form.packets), np.intp)
    for packet in range(form.packets):
        low, high = _packet(words, form, packet)
        mode = (low & np.uint64(15)).astype(np.intp)
        width = mode + 1
        valid[:, packet] = counts[mode]
        for lane in range(per):
            at = MODE_BITS + lane * width
            ids[:, packet, lane] = _bits(low, high, at, width)
    return ids, valid


def _packet(words: NDArray[np.uint64], form: Format, packet: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    if form.packets == 1:
        return words[:, 0], words[:, 1]
    zero = np.zeros(len(words), np.uint64)
    if form.packets == 2:
        return words[:, packet], zero
    half = words[:, packet // 2] >> np.uint64(32 * (packet % 2))
    return half & np.uint64(0xFFFFFFFF), zero


def _bits(
    low: NDArray[np.uint64], high: NDArray[np.uint64], at: NDArray[np.intp], width: NDArray[np.intp]
) -> NDArray[np.uint16]:
    """Bits at .. at + width of a 128-bit number."""
    position = at.astype(np.uint64)
    inside = at < 64
    first = np.where(inside, low >> np.where(inside, position, 0).astype(np.uint64), np.uint64(0))
    cross = inside & (at + width > 64)
    second = np.where(cross, high << np.where(cross, 64 - at, 0).astype(np.uint64), np.uint64(0))
    beyond = ~inside & (at < 128)
    third = np.where(beyond, high >> np.where(beyond, at - 64, 0).astype(np.uint64), np.uint64(0))
    mask = (np.uint64(1) << width.astype(np.uint64)) - np.uint64(1)
    return ((first | second | third) & mask).astype(np.uint16)


def unpack_stream(beats: NDArray[np.uint8], tile_beats: NDArray[np.integer], tile_weights: NDArray[np.integer],
                  table: NDArray[np.int8], form: Format) -> NDArray[np.int8]:  # fmt: skip
    """One port's weights.  A tile starts at a beat; what its last beat holds beyond `tile_weights` is padding.

    beats         uint8, all beats of the port
    tile_beats    beats of each tile
    tile_weights  weights of each tile
    table         int8 [entries, chunk]
    Raises ValueError when the beats hold fewer ids than the tiles need, or an id beyond the table.
    """
    ids, valid = unpack_ids(beats, form)
    tile_beats = np.asarray(tile_beats).astype(np.intp)
    per_beat = valid.sum(axis=1)
    starts = np.concatenate([[0], np.cumsum(tile_beats)])
    if starts[-1] != len(per_beat):
        raise ValueError(f"{len(per_beat)} beats for tiles of {starts[-1]}")
    lanes = np.arange(ids.shape[2])[None, None, :] < valid[:, :, None]
    ends = np.cumsum(per_beat)
    before = ends - per_beat
    tile = np.repeat(np.arange(len(tile_beats)), tile_beats)
    inside = before - before[starts[:-1]][tile] if len(tile) else before
    order = inside[:, None] + np.cumsum(lanes.reshape(len(ids), -1), axis=1) - 1
    needed = np.asarray(tile_weights)[tile] // form.chunk if len(tile) else np.zeros(0, int)
    keep = lanes.reshape(len(ids), -1) & (order < needed[:, None])
    chosen = ids.reshape(len(ids), -1)[keep]
    if len(chosen) * form.chunk != int(np.sum(tile_weights)):
        raise ValueError(
            f"the stream holds {len(chosen) * form.chunk} weights, {int(np.sum(tile_weights))} were expected"
        )
    if len(chosen) and int(chosen.max()) >= len(table):
        raise ValueError(f"id {int(chosen.max())} is beyond a table of {len(table)} entries")
    return np.ascontiguousarray(table[chosen]).reshape(-1)
