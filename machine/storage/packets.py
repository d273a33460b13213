# SPDX-License-Identifier: Apache-2.0
"""packets: the published packing (MEADOW, MLSys 2025, section 5): unique chunks, ids, packets with their own id width.

Ids and bytes and their inverse; compiler/engines/array.py chooses whether a matrix is stored so.  docs/packing.md has the format.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.storage.coded import Coded, Format, Units
from meadow.machine.storage.rows import Layout
from meadow.machine.units import BEAT_BYTES, LANE_COLS, LOOKUP_LANES

MODE_BITS = 4
SAMPLE_IDS = 1 << 16
"""Chunk ids of each format that are packed for trial before one is chosen."""
SCHEMES = ("naive", "packets", "frequency")
"""The published steps: ids of one width; then each packet with its own width; then the frequent chunks with small ids."""


@dataclass(frozen=True)
class Packets(Format):
    """Chunks of `chunk` weights; `packets` packets in a beat, each with a mode field and ids of one width."""

    schemes = SCHEMES
    chunk: int
    packets: int

    @property
    def word(self) -> int:
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

    def room(self, units: Units) -> int:
        return units.lookup_entries

    def table_bytes(self, entries: int) -> int:
        return entries * self.chunk

    def table_loops(self, entries: int) -> list[tuple[str, int]]:
        return [("chunks", self.table_beats(entries))]

    def unpack_cycles(self, layout: Layout, directory: NDArray[np.uint32]) -> int:
        words = int(layout.tile_weights.sum()) // LANE_COLS
        return max(words, int(directory.max(axis=1).sum()))

    def expected_bytes(self, layout: Layout, bits: float, entries: int) -> int | None:
        total = layout.port_rows * layout.padded_cols * bits + layout.tiles * 8 * BEAT_BYTES // 2
        return math.ceil(total / 8 / BEAT_BYTES) * BEAT_BYTES

    def decode(self, several: Sequence[Coded], layout: Layout) -> list[NDArray[np.int8]]:
        made = []
        for s in several:
            chunks = s.table[: s.entries * self.chunk].view(np.int8).reshape(s.entries, self.chunk)
            made.append(
                np.stack(
                    [
                        unpack_packets(beats, s.directory[:, port], layout.tile_weights, chunks, self)
                        for port, beats in enumerate(s.streams)
                    ]
                )
            )
        return made

    def __str__(self) -> str:
        return f"chunks of {self.chunk}, {self.packets} packets per beat"


PACKETS = tuple(Packets(chunk, packets) for chunk in (1, 2) for packets in (1, 2, 4))
"""A beat yields at most LOOKUP_LANES chunks of two: LANE_COLS weights, one word of the multipliers."""
FORMATS = PACKETS
CONSTANTS = (("int", "kModeBits", MODE_BITS, "docs/packing.md has the formats of packed weights"),)
"""What C++ needs of it, for machine/facts.py."""


def chunk_ids(streams: NDArray[np.int8], chunk: int, by_frequency: bool) -> tuple[NDArray[np.uint16], NDArray[np.int8]]:
    """(ids [ports, port ids], table [entries, chunk]): chunks numbered by falling frequency and then value, or by value."""
    kind = {1: np.uint8, 2: np.uint16}[chunk]
    values = streams.reshape(streams.shape[0], -1).view(kind)
    counts = np.bincount(values.reshape(-1), minlength=1 << (8 * chunk))
    used = np.flatnonzero(counts)
    order = used[np.argsort(-counts[used], kind="stable")] if by_frequency else used
    rank = np.zeros(len(counts), np.uint16)
    rank[order] = np.arange(len(order)).astype(np.uint16)
    return rank[values], order.astype(kind).view(np.int8).reshape(-1, chunk)


def _cut(tiles: NDArray[np.uint16], form: Packets, one_width: bool) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Cut each row of ids [tiles, n] into packets, greedily the most ids first, or all of the widest id's width.

    Returns the start of every packet (in the flattened ids, tile after tile) and its width in bits.
    """
    count, length = tiles.shape
    widths = np.zeros(tiles.shape, np.uint8)
    steps = np.zeros(tiles.shape, np.uint8)
    bits = np.zeros((count, length + LOOKUP_LANES), np.uint8)
    bits[:, :length] = bit_length(tiles)
    if one_width:
        bits[:, :length] = bits.max()
    window, highest = 1, bits
    by_count: dict[int, NDArray[np.uint8]] = {}
    for wanted in sorted({form.count(w) for w in form.widths}):
        while window < wanted:
            window += 1
            highest = np.maximum(highest[:, :-1], bits[:, window - 1 :][:, : highest.shape[1] - 1])
        by_count[wanted] = highest[:, :length]
    for width in reversed(form.widths):  # narrower packets hold more ids: the last that is feasible wins
        fits = by_count[form.count(width)] <= width
        widths[fits] = width
        steps[fits] = form.count(width)
    starts: list[int] = []
    for tile in range(count):
        base, at = tile * length, 0
        jump = steps[tile].tolist()
        while at < length:
            starts.append(base + at)
            at += jump[at]
    found = np.array(starts, np.intp)
    return found, widths.reshape(-1)[found]


def bit_length(ids: NDArray[np.uint16]) -> NDArray[np.uint8]:
    table = np.zeros(1 << 16, np.uint8)
    for bit in range(16):
        table[1 << bit : 2 << bit] = bit + 1
    return np.maximum(table, 1)[ids]


def best_format(streams: NDArray[np.int8], max_entries: int, scheme: str) -> Packets | None:
    """The format whose estimated size is smallest, of those whose table has at most `max_entries`; None when none has.

    "naive" and "packets" are as published, chunks of two over the whole beat; "frequency" tries every format.
    """
    best, best_size = None, float("inf")
    for chunk in (1, 2):
        ids, table = chunk_ids(streams, chunk, scheme == "frequency")
        if len(table) > max_entries:
            continue
        sample = ids.reshape(-1)[:SAMPLE_IDS]
        for form in (f for f in PACKETS if f.chunk == chunk):
            if scheme != "frequency" and form.packets != 1:
                continue
            starts, _ = _cut(sample[None, :], form, scheme == "naive")
            size = len(starts) / form.packets * ids.size / len(sample)
            if size < best_size:
                best, best_size = form, size
    return best


def pack_packets(
    streams: NDArray[np.int8], layout: Layout, form: Packets, scheme: str
) -> tuple[tuple[NDArray[np.uint8], ...], NDArray[np.uint32], NDArray[np.int8]]:
    """(beats of each port, directory [tiles, ports], table [entries, chunk])."""
    ids, table = chunk_ids(streams, form.chunk, scheme == "frequency")
    rows = ids.reshape(layout.ports, layout.port_rows, -1)
    return *layout.pack_tiles(rows, lambda tiles: _pack_tiles(tiles, form, scheme == "naive")), table


def _pack_tiles(
    tiles: NDArray[np.uint16], form: Packets, one_width: bool
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """The beats of all tiles, and how many each has."""
    starts, widths = _cut(tiles, form, one_width)
    length = tiles.shape[1]
    counts = np.array([0] + [form.count(w) for w in form.widths])[widths]
    flat = tiles.reshape(-1)
    tile = starts // length
    low = (widths.astype(np.uint64) - np.uint64(1)) & np.uint64(15)
    high = np.zeros_like(low)
    for lane in range(LOOKUP_LANES // form.packets):
        index = starts + lane
        valid = (lane < counts) & (index < (tile + 1) * length)
        ids = np.where(valid, flat[np.minimum(index, flat.size - 1)], 0).astype(np.uint64)
        at = MODE_BITS + lane * widths.astype(np.int64)
        inside = at < 64
        low |= np.where(inside, ids << np.where(inside, at, 0).astype(np.uint64), np.uint64(0))
        cross = inside & (at + widths > 64)
        high |= np.where(cross, ids >> np.where(cross, 64 - at, 0).astype(np.uint64), np.uint64(0))
        beyond = (~inside) & (at < 128)
        high |= np.where(beyond, ids << np.where(beyond, at - 64, 0).astype(np.uint64), np.uint64(0))
    packets = np.bincount(tile, minlength=len(tiles))
    beats = -(-packets // form.packets)
    first = np.concatenate([[0], np.cumsum(packets)])[:-1]
    slot = (np.concatenate([[0], np.cumsum(beats)])[:-1] * form.packets)[tile] + np.arange(len(starts)) - first[tile]
    total = int(beats.sum())
    if form.packets == 1:
        words = np.zeros((total, 2), np.uint64)
        words[slot, 0], words[slot, 1] = low, high
        return words.reshape(-1).view(np.uint8), beats
    kind = np.uint64 if form.packets == 2 else np.uint32
    single = np.zeros(total * form.packets, kind)
    single[slot] = low.astype(kind)
    return single.view(np.uint8), beats


def candidates(
    streams: NDArray[np.int8], layout: Layout, counts: NDArray[np.int64], room: int, scheme: str
) -> list[tuple[Format, Coded]]:
    """The best format whose table has room (see coded.py)."""
    how = "frequency" if scheme == "auto" else scheme
    form = best_format(streams, room, how)
    if form is None:
        return []
    out, directory, table = pack_packets(streams, layout, form, how)
    return [(form, Coded(out, directory, table.reshape(-1).view(np.uint8), len(table)))]


# -- the inverse -------------------------------------------------------------------------------------------------------


def unpack_ids(beats: NDArray[np.uint8], form: Packets) -> tuple[NDArray[np.uint16], NDArray[np.intp]]:
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


def _packet(words: NDArray[np.uint64], form: Packets, packet: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
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


def unpack_packets(
    beats: NDArray[np.uint8],
    tile_beats: NDArray[np.integer[Any]],
    tile_weights: NDArray[np.integer[Any]],
    table: NDArray[np.int8],
    form: Packets,
) -> NDArray[np.int8]:
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
    firsts = np.append(before, per_beat.sum())[starts[:-1]]  # a tile may have no beats
    inside = before - firsts[tile] if len(tile) else before
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
