# SPDX-License-Identifier: Apache-2.0
"""pack: lossless weight packing after MEADOW (MLSys 2025, section 5): unique chunks, ids by frequency, packets.

Chooses chunk and packet size for each matrix, and leaves a matrix raw when packing would not shrink it.
docs/packing.md has the format, bit by bit; unpack.py is the inverse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.design import BEAT_BYTES, LOOKUP_LANES
from meadow.compiler.layout import Layout
from meadow.compiler.unpack import FORMATS, MODE_BITS, Format

SAMPLE_IDS = 1 << 16
"""Chunk ids of each format that are packed for trial before one is chosen."""
WORTHWHILE = 0.99
"""A matrix is packed only when it shrinks below this share of its raw size."""


@dataclass(frozen=True, eq=False)
class Packed:
    """One matrix as it lies in memory.

    form       None when raw
    streams    uint8 bytes of each port, whole beats
    directory  packed: uint32 [tiles, ports], beats
    table      packed: int8 [entries, chunk]
    entropy    order-0 entropy of the weights in bits, the bound (H1)
    """

    layout: Layout
    form: Format | None
    streams: tuple[NDArray[np.uint8], ...]
    directory: NDArray[np.uint32]
    table: NDArray[np.int8]
    entropy: float

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for s in self.streams) + self.directory.nbytes + self.table.nbytes

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight of the matrix itself (padding is counted as cost, not as weights)."""
        return 8 * self.nbytes / (self.layout.rows * self.layout.cols)


def entropy_bits(codes: NDArray[np.int8]) -> float:
    """Order-0 entropy of the codes, in bits a weight."""
    counts = np.bincount(codes.reshape(-1).view(np.uint8), minlength=256)
    p = counts[counts > 0] / codes.size
    return float(-(p * np.log2(p)).sum())


def pack(codes: NDArray[np.int8], layout: Layout, max_entries: int, scheme: str = "auto") -> Packed:
    """Pack W[N, K].

    max_entries  entries that the look-up table has room for
    scheme       "auto" tries every format and raw, "raw" stores as is, "always" packs even where it does not pay
    """
    streams = layout.split(codes)
    entropy = entropy_bits(codes)
    raw_bytes = layout.ports * layout.raw_beats * BEAT_BYTES
    if scheme != "raw":
        limit = WORTHWHILE * raw_bytes if scheme == "auto" else math.inf
        form = _best_format(streams, max_entries, limit)
        if form is not None:
            packed = _pack(streams, layout, form, entropy)
            if packed.nbytes < limit:
                return packed
    whole = tuple(s.reshape(-1).view(np.uint8) for s in streams)
    return Packed(layout, None, whole, np.zeros((0, 0), np.uint32), np.zeros((0, 0), np.int8), entropy)


def _best_format(streams: NDArray[np.int8], max_entries: int, limit: float) -> Format | None:
    """The format whose estimated size is smallest and below `limit` bytes."""
    best, best_bytes = None, limit
    for chunk in sorted({f.chunk for f in FORMATS}):
        ids, table = chunk_ids(streams, chunk)
        if len(table) > max_entries:
            continue
        sample = ids.reshape(-1)[:SAMPLE_IDS]
        for form in (f for f in FORMATS if f.chunk == chunk):
            starts, _ = _packets(sample[None, :], form)
            beats = len(starts) / form.packets * ids.size / len(sample)
            estimate = beats * BEAT_BYTES + table.nbytes
            if estimate < best_bytes:
                best, best_bytes = form, estimate
    return best


def chunk_ids(streams: NDArray[np.int8], chunk: int) -> tuple[NDArray[np.uint16], NDArray[np.int8]]:
    """(ids [ports, port ids], table [entries, chunk]): chunks numbered by falling frequency, ties by value."""
    kind = {1: np.uint8, 2: np.uint16}[chunk]
    values = streams.reshape(streams.shape[0], -1).view(kind)
    counts = np.bincount(values.reshape(-1), minlength=1 << (8 * chunk))
    used = np.flatnonzero(counts)
    order = used[np.argsort(-counts[used], kind="stable")]
    rank = np.zeros(len(counts), np.uint16)
    rank[order] = np.arange(len(order)).astype(np.uint16)
    return rank[values], order.astype(kind).view(np.int8).reshape(-1, chunk)


def _packets(tiles: NDArray[np.uint16], form: Format) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Cut each row of ids [tiles, n] into packets, greedily the most ids first.

    Returns the start of every packet (in the flattened ids, tile after tile) and its width in bits.
    """
    count, length = tiles.shape
    widths = np.zeros(tiles.shape, np.uint8)
    steps = np.zeros(tiles.shape, np.uint8)
    bits = np.zeros((count, length + LOOKUP_LANES), np.uint8)
    bits[:, :length] = _bit_length(tiles)
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


def _bit_length(ids: NDArray[np.uint16]) -> NDArray[np.uint8]:
    table = np.zeros(1 << 16, np.uint8)
    for bit in range(16):
        table[1 << bit : 2 << bit] = bit + 1
    return np.maximum(table, 1)[ids]


def _pack(streams: NDArray[np.int8], layout: Layout, form: Format, entropy: float) -> Packed:
    ids, table = chunk_ids(streams, form.chunk)
    row_ids = layout.padded_cols // form.chunk
    step = layout.tile_rows // layout.ports
    out, directory = [], np.zeros((layout.tiles, layout.ports), np.uint32)
    for port in range(layout.ports):
        full = layout.port_rows // step
        whole = ids[port, : full * step * row_ids].reshape(full, step * row_ids)
        pieces = []
        for start, tiles in ((0, whole), (full, ids[port, full * step * row_ids :].reshape(1, -1))):
            if tiles.size:
                beats, each = _pack_tiles(tiles, form)
                pieces.append(beats)
                directory[start : start + len(each), port] = each
        out.append(np.concatenate(pieces))
    return Packed(layout, form, tuple(out), directory, table, entropy)


def _pack_tiles(tiles: NDArray[np.uint16], form: Format) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """The beats of all tiles, and how many each has."""
    starts, widths = _packets(tiles, form)
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
