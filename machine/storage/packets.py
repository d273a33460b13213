# SPDX-License-Identifier: Apache-2.0
"""packets: the published packing (MEADOW, MLSys 2025, section 5): unique chunks, ids, packets with their own id width.

Makes ids and bytes; whether a matrix is stored so is pack.py's choice.  docs/packing.md has the format, unpack.py is
the inverse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meadow.machine.design import LOOKUP_LANES
from meadow.machine.storage.rows import Layout
from meadow.machine.storage.unpack import MODE_BITS, PACKETS, Packets

SAMPLE_IDS = 1 << 16
"""Chunk ids of each format that are packed for trial before one is chosen."""
SCHEMES = ("naive", "packets", "frequency")
"""The published steps: ids of one width; then each packet with its own width; then the frequent chunks with small ids."""


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


def pack_packets(streams: NDArray[np.int8], layout: Layout, form: Packets, scheme: str
                 ) -> tuple[tuple[NDArray[np.uint8], ...], NDArray[np.uint32], NDArray[np.int8]]:  # fmt: skip
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
