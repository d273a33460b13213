# SPDX-License-Identifier: Apache-2.0
"""prefix: weights as prefix codes of bounded length, in as many bit streams as the multipliers have columns.

Codes and their inverse; compiler/engines/array.py chooses whether a matrix is stored so.  docs/packing.md has the format.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.storage.coded import Bytes, Coded, Format, Units
from meadow.machine.storage.rows import Layout
from meadow.machine.units import BEAT_BYTES, CODE_BITS, LANE_COLS

HALFWORD_BITS = 16
"""What a lane of the prefix decoder takes from the stream at once; a beat holds eight."""
HALFWORDS = BEAT_BYTES * 8 // HALFWORD_BITS
HEADER_BYTES = 64
"""A prefix table begins with two arrays, one entry for each code length and room for 16 lengths each."""
PREFIX_WORD = 1 << 16
TABLE_BYTES = 4
"""Bytes of a code table that the look-up unit takes in a cycle (rtl/prefix_unpack.v)."""
LANE_WASTE_BITS = 16 * 32 + 64
"""Bits that lanes and the last beat leave unused at the end of a tile and port: half a lane's 29 bits, half a beat."""
BATCH_WEIGHTS = 1 << 17
"""Weights that are coded at a time: bounds the memory of packing, and fits the cache."""


def code_lengths(counts: NDArray[np.int64], longest: int = CODE_BITS) -> NDArray[np.uint8]:
    """The length of each symbol's code in the best prefix code of at most `longest` bits; 0 for symbols that do not occur.

    counts [256].  Package-merge (Larmore and Hirschberg, "A fast algorithm for optimal length-limited Huffman codes",
    1990): `longest` rounds of pairing what is cheapest; a symbol's length is how often it is in what is chosen.
    """
    symbols = np.flatnonzero(counts)
    lengths = np.zeros(len(counts), np.uint8)
    if len(symbols) == 1:
        lengths[symbols] = 1
        return lengths
    if len(symbols) > 1 << longest:
        raise ValueError(f"{len(symbols)} symbols have no code of {longest} bits")
    symbols = symbols[np.argsort(counts[symbols], kind="stable")]
    leaves = counts[symbols].astype(np.int64)
    rounds: list[NDArray[np.bool_]] = []  # in each round's order of cost: which are symbols, not packages
    packages = np.zeros(0, np.int64)
    for _ in range(longest):
        costs = np.concatenate([leaves, packages])
        order = np.argsort(costs, kind="stable")
        rounds.append(order < len(leaves))
        merged = costs[order]
        even = len(merged) // 2 * 2
        packages = merged[0:even:2] + merged[1:even:2]
    chosen = 2 * len(symbols) - 2
    for is_leaf in reversed(rounds):
        taken = int(is_leaf[:chosen].sum())
        lengths[symbols[:taken]] += 1
        chosen = 2 * (chosen - taken)
    return lengths


def canonical_codes(lengths: NDArray[np.uint8]) -> tuple[NDArray[np.uint32], NDArray[np.uint8], int]:
    """(codes [256], table bytes, entries): codes of rising length and then value, so that a length and an offset find one.

    The table is what the engine loads: for each length l the window (CODE_BITS bits) where codes longer than l begin,
    then the offset from a code to its place in the list of weights, then that list.
    """
    used = np.flatnonzero(lengths)
    order = used[np.argsort(lengths[used], kind="stable")]
    codes = np.zeros(len(lengths), np.uint32)
    bound, offset = np.zeros(HEADER_BYTES // 4, "<u2"), np.zeros(HEADER_BYTES // 4, "<i2")
    code = index = 0
    for length in range(1, CODE_BITS + 1):
        code <<= 1
        of_length = order[lengths[order] == length]
        offset[length - 1] = index - code
        codes[of_length] = code + np.arange(len(of_length))
        code += len(of_length)
        index += len(of_length)
        bound[length - 1] = code << (CODE_BITS - length)
    table = np.concatenate([bound.view(np.uint8), offset.view(np.uint8), order.astype(np.uint8)])
    return codes, table, len(order)


def pack_prefix(
    tiles: NDArray[np.int8], codes: NDArray[np.uint32], lengths: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The beats of `tiles` [tiles, weights], one after another, and how many each takes."""
    words = tiles.shape[1] // LANE_COLS
    step = max(1, BATCH_WEIGHTS // tiles.shape[1])
    pieces, beats = [], []
    for first in range(0, len(tiles), step):
        some = tiles[first : first + step].view(np.uint8).reshape(-1, words, LANE_COLS)
        made, each = _pack_batch(some, codes, lengths)
        pieces.append(made)
        beats.append(each)
    return np.concatenate(pieces), np.concatenate(beats)


def _pack_batch(
    symbols: NDArray[np.uint8], codes: NDArray[np.uint32], lengths: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """symbols [tiles, words, lanes].  A lane takes its next halfword before the word for which it holds too few bits."""
    count, words, lanes = symbols.shape
    by_lane = np.ascontiguousarray(symbols.swapaxes(1, 2))  # [tiles, lanes, words]
    value = ((codes << np.uint32(8)) | lengths)[by_lane]  # one look-up for both
    length = value & np.uint32(0xFF)
    ends = np.cumsum(length, axis=2, dtype=np.uint32)
    at = ends - length  # bits of the lane before each code
    taken = (at + np.uint32(CODE_BITS + HALFWORD_BITS - 1)) >> np.uint32(
        4
    )  # halfwords the lane has when it decodes the word
    pulls = np.empty(by_lane.shape, bool)
    pulls[:, :, 0] = True
    np.not_equal(taken[:, :, 1:], taken[:, :, :-1], out=pulls[:, :, 1:])
    # Where each halfword lies: the stream has them in the order of words, then lanes.
    in_order = np.ascontiguousarray(pulls.swapaxes(1, 2)).reshape(count, -1)
    total = in_order.sum(axis=1)
    beats = -(-total // HALFWORDS)
    first = (np.cumsum(beats) - beats) * HALFWORDS
    place = np.cumsum(in_order, axis=1, dtype=np.int32)
    place += (first - 1)[:, None].astype(np.int32)
    places = place.reshape(count, words, lanes).swapaxes(1, 2)[pulls]
    # What each halfword holds: a code reaches into at most two of its lane's halfwords.  The codes that begin in one halfword lie
    # apart within 32 bits, so a running sum modulo 2^32 gives their sum as the difference of two of its elements.
    per_lane = taken[:, :, -1].reshape(-1).astype(np.int64)
    base = (np.cumsum(per_lane) - per_lane).astype(np.uint32).reshape(count, lanes, 1)
    index = ((at >> np.uint32(4)) + base).reshape(-1)
    bits = ((value >> np.uint32(8)) << (np.uint32(32) - (at & np.uint32(15)) - length)).reshape(-1)
    np.cumsum(bits, out=bits)
    last = np.append(np.flatnonzero(index[1:] != index[:-1]), len(index) - 1)
    sums, where = np.diff(bits[last], prepend=np.uint32(0)), index[last]
    held = np.zeros(int(per_lane.sum()) + 1, np.uint32)
    held[where] = sums >> np.uint32(16)
    held[where + 1] += sums & np.uint32(0xFFFF)
    stream = np.zeros(int(beats.sum()) * HALFWORDS, "<u2")
    stream[places] = held[:-1].astype(np.uint16)
    return stream.view(np.uint8), beats.astype(np.int64)


# -- the inverse -------------------------------------------------------------------------------------------------------


def decoding_table(table: Bytes, entries: int) -> NDArray[np.uint16]:
    """What each window of CODE_BITS bits begins with: weight | length << 8; 0 where no code does.

    The header has for each length l the windows below which codes are at most l bits long, and what is added to the
    l bits themselves to find the weight among the `entries` that follow (canonical codes).
    """
    bound = table[: HEADER_BYTES // 2].view("<u2")[:CODE_BITS].astype(np.int64)
    offset = table[HEADER_BYTES // 2 : HEADER_BYTES].view("<i2")[:CODE_BITS].astype(np.int64)
    symbols = table[HEADER_BYTES : HEADER_BYTES + entries]
    window = np.arange(1 << CODE_BITS)
    length = 1 + (window[:, None] >= bound[None, :-1]).sum(axis=1)
    index = offset[length - 1] + (window >> (CODE_BITS - length))
    known = (index >= 0) & (index < entries) & (window < bound[-1])
    found = symbols[np.where(known, index, 0)] | length.astype(np.uint16) << 8
    return np.where(known, found, 0).astype(np.uint16)


def _unpack(several: Sequence[Coded], tile_weights: NDArray[np.intp]) -> list[NDArray[np.int8]]:
    """See Format.decode.  Every tile of every port of every matrix is a stream; all are decoded word by word."""
    tables = np.stack([decoding_table(s.table, s.entries) for s in several])
    ports = len(several[0].streams)
    pieces = [np.ascontiguousarray(beats).view("<u2") for s in several for beats in s.streams]
    halfwords = np.concatenate([*pieces, np.zeros(LANE_COLS, "<u2")])
    lengths = np.stack([s.directory.T for s in several]).astype(np.int64) * HALFWORDS  # [matrices, ports, tiles]
    starts = (np.cumsum(lengths.reshape(-1)) - lengths.reshape(-1)).reshape(lengths.shape)
    first = np.concatenate([[0], np.cumsum(tile_weights)]).astype(np.intp)
    out = np.empty((len(several), ports, int(first[-1])), np.uint8)
    for weights in np.unique(tile_weights):  # a last tile may be shorter
        tiles = np.flatnonzero(tile_weights == weights)
        shape = (len(several), ports, len(tiles))
        which = np.broadcast_to(np.arange(len(several))[:, None, None], shape)
        words = int(weights) // LANE_COLS
        made = _decode(
            tables, which.reshape(-1), halfwords, starts[..., tiles].reshape(-1), lengths[..., tiles].reshape(-1), words
        )
        made = made.reshape(words, *shape, LANE_COLS)
        for at, tile in enumerate(tiles):
            out[:, :, first[tile] : first[tile + 1]] = np.moveaxis(made[:, :, :, at], 0, 2).reshape(
                len(several), ports, -1
            )
    return [one.view(np.int8) for one in out]


def _decode(
    tables: NDArray[np.uint16],
    which: NDArray[np.intp],
    halfwords: NDArray[Any],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    words: int,
) -> NDArray[np.uint8]:
    """`words` words of every stream: it begins at one of `starts` and has the table `which`.  [words, streams, LANE_COLS]."""
    shape = (len(starts), LANE_COLS)
    out = np.empty((words, *shape), np.uint8)
    complete = bool((tables != 0).all())  # every window begins with a code: none can be wrong
    flat = tables.reshape(-1)
    offset = np.broadcast_to((which * (1 << CODE_BITS)).astype(np.uint32)[:, None], shape) if len(tables) > 1 else None
    held = np.zeros(shape, np.uint32)  # bits not decoded yet, the next one on top
    fill = np.zeros(shape, np.int16)
    before = starts[:, None].astype(np.int32) - 1
    taken = np.empty(shape, np.int32)
    bad = np.zeros(shape, bool)
    for word in range(words):
        need = fill < CODE_BITS
        np.cumsum(need, axis=1, out=taken)
        taken += before
        before = taken[:, -1:].copy()
        fresh = halfwords.take(taken, mode="clip").astype(np.uint32)
        fresh <<= np.maximum(HALFWORD_BITS - fill, 0).view(np.uint16)
        fresh *= need
        held |= fresh
        window = held >> np.uint32(32 - CODE_BITS)
        if offset is not None:
            window += offset
        found = flat.take(window)
        out[word] = found  # the low byte
        found >>= 8
        if not complete:
            bad |= found == 0
        held <<= found
        fill += need * np.int16(HALFWORD_BITS)
        fill -= found.view(np.int16)
    if bad.any():
        raise ValueError("the stream holds a code that is not in the table")
    if (before[:, 0] - starts + 1 > lengths).any():
        raise ValueError("the stream holds fewer weights than its tiles need")
    return out


@dataclass(frozen=True)
class Prefix(Format):
    """Prefix codes of at most CODE_BITS bits, one per weight, in LANE_COLS bit streams that share the bus."""

    schemes = ("prefix",)
    together = True

    @property
    def word(self) -> int:
        return PREFIX_WORD

    def room(self, units: Units) -> int:
        return 256 * units.prefix_codes

    def table_bytes(self, entries: int) -> int:
        return HEADER_BYTES + entries

    def table_beats(self, entries: int) -> int:
        return HEADER_BYTES // BEAT_BYTES + -(-entries // BEAT_BYTES)

    def unpack_words(self, words: int, beats: int) -> int | None:
        return None

    def unpack_cycles(self, layout: Layout, directory: NDArray[np.uint32]) -> int:
        return int(layout.tile_weights.sum()) // LANE_COLS

    def expected_bytes(self, layout: Layout, bits: float, entries: int) -> int | None:
        total = layout.port_rows * layout.padded_cols * bits + layout.tiles * LANE_WASTE_BITS
        size = math.ceil(total / 8 / BEAT_BYTES) * BEAT_BYTES
        return size if size < layout.raw_beats * BEAT_BYTES else None

    def decode(self, several: Sequence[Coded], tile_weights: NDArray[np.intp]) -> list[NDArray[np.int8]]:
        return _unpack(several, tile_weights)

    def __str__(self) -> str:
        return "prefix codes"


FORMATS = (Prefix(),)
CONSTANTS = (
    ("int", "kHalfwordBits", HALFWORD_BITS, ""),
    ("int", "kPrefixHeaderBytes", HEADER_BYTES, "of a prefix table, before its weights"),
    ("uint32_t", "kPrefixFormat", PREFIX_WORD, ""),
)
"""What C++ needs of it, for machine/facts.py."""


def encode(streams: NDArray[np.int8], layout: Layout, counts: NDArray[np.int64]) -> Coded:
    """Streams [ports, rows, cols], of which `counts` [256] are the weights without padding."""
    with_padding = counts.copy()
    with_padding[0] += streams.size - counts.sum()
    lengths = code_lengths(with_padding)
    codes, table, entries = canonical_codes(lengths)
    return Coded(*layout.pack_tiles(streams, lambda tiles: pack_prefix(tiles, codes, lengths)), table, entries)


def candidates(
    streams: NDArray[np.int8], layout: Layout, counts: NDArray[np.int64], room: int, scheme: str
) -> list[tuple[Format, Coded]]:
    """Prefix codes of these weights (see coded.py)."""
    return [(Prefix(), encode(streams, layout, counts))]
