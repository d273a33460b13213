# SPDX-License-Identifier: Apache-2.0
"""prefix: weights as prefix codes in as many bit streams as the multipliers have columns, which take the bus in turns.

Streams and their inverse; prefix_code.py has the code, compiler/engines/array.py chooses whether a matrix is stored so.
docs/packing.md has the format.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.storage.coded import Coded, Format, Units
from meadow.machine.storage.prefix_code import (
    ESCAPE_BITS,
    HEADER_BYTES,
    INDEX_BITS,
    LENGTHS,
    OFFSETS,
    TABLE_BYTES,
    WEIGHTS,
    canonical_codes,
    code_lengths,
    decoding_table,
)
from meadow.machine.storage.rows import Layout
from meadow.machine.units import BEAT_BYTES, CODE_BITS, LANE_COLS

HALFWORD_BITS = 16
"""What a lane of the prefix decoder takes from the stream at once; a beat holds one for each of eight lanes."""
ROUND = LANE_COLS * HALFWORD_BITS // (8 * BEAT_BYTES)
"""Beats that bring every lane one halfword."""
TURN = 5
"""Lanes by which the columns of a row are turned against those of the row before it: odd, so that a column meets every lane."""
FIFO = 64
"""Halfwords that wait for a lane."""
SPREAD = 48
"""Halfwords by which a lane may be ahead of another: FIFO less what is held, on its way, and counted late (docs/rtl.md)."""
AHEAD = 10
"""Halfwords that a tile brings beyond the one in which its longest lane ends: what lanes hold and wait for."""
SEGMENT_WORDS = 1 << 14
"""Words of a port after which streams start anew at the latest: software decodes many segments at once."""
PREFIX_WORD = 1 << 16
SEGMENT_SHIFT, SEGMENT_MASK = 17, 7
"""Where a format word has the logarithm of the tiles of a segment."""
SEGMENT_BITS = 250
"""Bits that the padding of a segment takes, and those for the root of its words: fitted to models (`expected_bytes`)."""
ROOT_BITS = 76
BATCH_WEIGHTS = 1 << 17
"""Weights that are coded at a time: bounds the memory of packing, and fits the cache."""


class Deep(ValueError):
    """One lane would be more than SPREAD halfwords ahead of another."""


def turned(rows: NDArray[np.uint8], back: bool = False) -> NDArray[np.uint8]:
    """[tiles, rows, words, LANE_COLS] from columns to lanes, or back: lane l of row r holds column (l + TURN * r) mod LANE_COLS."""
    out = np.empty_like(rows)
    for r in range(min(LANE_COLS, rows.shape[1])):
        by = (-TURN if back else TURN) * r % LANE_COLS
        out[:, r::LANE_COLS, :, : LANE_COLS - by] = rows[:, r::LANE_COLS, :, by:]
        out[:, r::LANE_COLS, :, LANE_COLS - by :] = rows[:, r::LANE_COLS, :, :by]
    return out


def pack_prefix(
    segments: NDArray[np.int8], words: int, tile_words: int, codes: NDArray[np.uint32], lengths: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The beats of `segments` [segments, weights] of rows of `words` words, and how many each tile of `tile_words` takes.

    Raises Deep where lanes need more waiting halfwords than a lane has room for.
    """
    step = max(1, BATCH_WEIGHTS // segments.shape[1])
    pieces, beats = [], []
    for first in range(0, len(segments), step):
        some = segments[first : first + step].view(np.uint8)
        some = turned(some.reshape(len(some), -1, words, LANE_COLS)).reshape(len(some), -1, LANE_COLS)
        made, each = _pack_batch(some, tile_words, codes, lengths)
        pieces.append(made)
        beats.append(each)
    return np.concatenate(pieces), np.concatenate(beats)


def tile_rounds(ends: NDArray[Any]) -> NDArray[np.int64]:
    """Rounds of each tile of a segment, where `ends` [segments, tiles] are the bits at which its longest lane ends."""
    total = -(-ends[:, -1:].astype(np.int64) // HALFWORD_BITS)
    return np.diff(np.minimum(ends.astype(np.int64) // HALFWORD_BITS + AHEAD, total), axis=1, prepend=0)


def _pack_batch(
    symbols: NDArray[np.uint8], tile_words: int, codes: NDArray[np.uint32], lengths: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """symbols [segments, words, lanes].  Every lane of a segment has as many halfwords as the longest."""
    count, words, lanes = symbols.shape
    by_lane = np.ascontiguousarray(symbols.swapaxes(1, 2))  # [segments, lanes, words]
    value = ((codes << np.uint32(8)) | lengths)[by_lane]  # one look-up for both
    length = value & np.uint32(0xFF)
    ends = np.cumsum(length, axis=2, dtype=np.uint32)
    at = ends - length  # bits of the lane before each code
    into = (at >> np.uint32(4)).astype(np.int32)  # the halfword that it begins in
    if (into.max(axis=1) - into.min(axis=1)).max() > SPREAD:
        raise Deep(f"a lane is more than {SPREAD} halfwords ahead of another")
    last_words = np.append(np.arange(tile_words, words, tile_words), words) - 1
    beats = tile_rounds(ends[:, :, last_words].max(axis=1))
    rounds = beats.sum(axis=1)
    # What each halfword holds: a code reaches into at most two of its lane's halfwords.  The codes that begin in one halfword lie
    # apart within 32 bits, so a running sum modulo 2^32 gives their sum as the difference of two of its elements.
    most = int(rounds.max()) + 1
    index = (into + (np.arange(count * lanes) * most).reshape(count, lanes, 1)).reshape(-1)
    bits = ((value >> np.uint32(8)) << (np.uint32(32) - (at & np.uint32(15)) - length)).reshape(-1)
    np.cumsum(bits, out=bits)
    last = np.append(np.flatnonzero(index[1:] != index[:-1]), len(index) - 1)
    sums, where = np.diff(bits[last], prepend=np.uint32(0)), index[last]
    held = np.zeros(count * lanes * most, np.uint32)
    held[where] = sums >> np.uint32(16)
    held[where + 1] += sums & np.uint32(0xFFFF)
    in_rounds = np.ascontiguousarray(held.astype("<u2").reshape(count, lanes, most).swapaxes(1, 2))
    stream = np.concatenate([one[:n].reshape(-1) for one, n in zip(in_rounds, rounds, strict=True)])
    return stream.view(np.uint8), (beats * ROUND).reshape(-1)


# -- the inverse -------------------------------------------------------------------------------------------------------


def _unpack(several: Sequence[Coded], layout: Layout, together: int) -> list[NDArray[np.int8]]:
    """See Format.decode.  Every segment of every port of every matrix is a stream; all are decoded word by word."""
    if most := max((s.entries for s in several if s.entries > WEIGHTS), default=0):
        raise ValueError(f"a table of {most} entries; prefix codes have at most {WEIGHTS}")
    tables = np.stack([decoding_table(s.table, s.entries) for s in several])
    ports, words = len(several[0].streams), layout.padded_cols // LANE_COLS
    if any((s.directory % ROUND).any() for s in several):
        raise ValueError(f"the directory has a tile of a number of beats that is not a multiple of {ROUND}")
    tiles = np.stack([s.directory.T for s in several]).astype(np.int64) // ROUND  # rounds, [matrices, ports, tiles]
    pieces = [np.ascontiguousarray(beats).view("<u2") for s in several for beats in s.streams]
    halfwords = np.concatenate([*pieces, np.zeros(2 * LANE_COLS, "<u2")]).astype(np.uint32)
    # A window lies in two halfwords of a lane, LANE_COLS apart.
    pairs = halfwords[:-LANE_COLS] << np.uint32(16) | halfwords[LANE_COLS:]
    before = (np.cumsum(tiles.reshape(-1)) - tiles.reshape(-1)).reshape(tiles.shape)
    weights = layout.tile_weights
    out = np.empty((len(several), ports, int(weights.sum())), np.uint8)
    done = 0
    for first, segments, each in _alike(layout, together):
        shape = (len(several), ports, segments)
        which = np.broadcast_to(np.arange(len(several))[:, None, None], shape).reshape(-1)
        mine = slice(first, first + segments * each)
        starts, ends = (
            before[:, :, mine][:, :, ::each].reshape(-1),
            np.cumsum(weights[first : first + each]) // LANE_COLS,
        )
        made = _decode(tables, which, pairs, starts, tiles[:, :, mine].reshape(-1, each), ends)
        lanes = np.ascontiguousarray(made.swapaxes(0, 1)).reshape(made.shape[1], -1, words, LANE_COLS)
        columns = turned(lanes, back=True).reshape(len(several), ports, -1)
        out[:, :, done : done + columns.shape[2]] = columns
        done += columns.shape[2]
    return [one.view(np.int8) for one in out]


def _alike(layout: Layout, together: int) -> list[tuple[int, int, int]]:
    """(first tile, segments, tiles of each) of segments that have one size: the last may be shorter."""
    tiles = layout.tiles
    if tiles % together == 0 and layout.tile_weights[-1] == layout.tile_weights[0]:
        return [(0, tiles // together, together)]
    whole = (tiles - 1) // together
    rest = [(whole * together, 1, tiles - whole * together)]
    return [(0, whole, together), *rest] if whole else rest


def _decode(
    tables: NDArray[np.uint16],
    which: NDArray[np.intp],
    pairs: NDArray[np.uint32],
    starts: NDArray[np.int64],
    rounds: NDArray[np.int64],
    tile_ends: NDArray[np.intp],
) -> NDArray[np.uint8]:
    """The words of every stream, [words, streams, LANE_COLS].

    It begins at round `starts`, has the table `which`, and tiles of `rounds` [streams, tiles] that end at words `tile_ends`.
    """
    shape = (len(starts), LANE_COLS)
    out = np.empty((int(tile_ends[-1]), *shape), np.uint8)
    complete = bool((tables != 0).all())  # every window begins with a code: none can be wrong
    flat = tables.reshape(-1)
    offset = np.broadcast_to((which * (1 << CODE_BITS)).astype(np.uint32)[:, None], shape) if len(tables) > 1 else None
    base = (starts[:, None] * LANE_COLS + np.arange(LANE_COLS)).astype(np.int32)
    at = np.zeros(shape, np.int32)  # bits of the lane that are decoded
    bad = np.zeros(shape, bool)
    ends: list[NDArray[np.int32]] = []
    for word in range(len(out)):
        place = (at & np.int32(-HALFWORD_BITS)) << np.int32(1)
        place += base
        window = pairs.take(place, mode="clip")
        window >>= (np.int32(2 * HALFWORD_BITS - CODE_BITS) - (at & np.int32(HALFWORD_BITS - 1))).view(np.uint32)
        window &= np.uint32((1 << CODE_BITS) - 1)
        if offset is not None:
            window += offset
        found = flat.take(window)
        out[word] = found  # the low byte
        found >>= 8
        if not complete:
            bad |= found == 0
        at += found
        if word + 1 == tile_ends[len(ends)]:
            ends.append(at.max(axis=1))
    if bad.any():
        raise ValueError("the stream holds a code that is not in the table")
    made = tile_rounds(np.stack(ends, axis=1))
    if (made.sum(axis=1) > rounds.sum(axis=1)).any():
        raise ValueError("the stream holds fewer weights than its tiles need")
    if (made != rounds).any():
        raise ValueError("the directory has not the beats that the weights of its tiles take")
    return out


@dataclass(frozen=True)
class Prefix(Format):
    """Prefix codes of at most CODE_BITS bits, one per weight, in LANE_COLS bit streams that take the bus in turns.

    log_tiles  logarithm of the tiles of a segment, through which streams run on; lanes of a segment are padded to the longest
    """

    schemes = ("prefix",)
    together = True
    log_tiles: int = 0

    @classmethod
    def of(cls, layout: Layout) -> Prefix:
        """With the longest segments that the format allows, if lanes do not drift apart too far."""
        words = layout.tile_rows // layout.ports * layout.padded_cols // LANE_COLS
        most = max(1, SEGMENT_WORDS // words)
        log = (layout.tiles - 1).bit_length() if layout.tiles <= most else most.bit_length() - 1
        return cls(min(SEGMENT_MASK, log))

    @property
    def segment(self) -> int:
        """Tiles."""
        return 1 << self.log_tiles

    @property
    def word(self) -> int:
        return PREFIX_WORD | self.log_tiles << SEGMENT_SHIFT

    def room(self, units: Units) -> int:
        return WEIGHTS * units.prefix_codes

    def table_bytes(self, entries: int) -> int:
        return TABLE_BYTES

    def table_loops(self, entries: int) -> list[tuple[str, int]]:
        return [("load", HEADER_BYTES // BEAT_BYTES), ("table", WEIGHTS // BEAT_BYTES)]

    def unpack_words(self, words: int, beats: int) -> int | None:
        return None

    def unpack_cycles(self, layout: Layout, directory: NDArray[np.uint32]) -> int:
        return int(layout.tile_weights.sum()) // LANE_COLS

    def expected_bytes(self, layout: Layout, bits: float, entries: int) -> int | None:
        """A lane's bits are a sum over its words, so the longest passes the others by the root of their number."""
        words = np.add.reduceat(layout.tile_weights, np.arange(0, layout.tiles, self.segment)) / LANE_COLS
        total = layout.port_rows * layout.padded_cols * bits + float((SEGMENT_BITS + ROOT_BITS * np.sqrt(words)).sum())
        size = math.ceil(total / 8 / BEAT_BYTES / ROUND) * BEAT_BYTES * ROUND
        return size if size < layout.raw_beats * BEAT_BYTES else None

    def decode(self, several: Sequence[Coded], layout: Layout) -> list[NDArray[np.int8]]:
        return _unpack(several, layout, self.segment)

    def __str__(self) -> str:
        return "prefix codes"


FORMATS = tuple(Prefix(n) for n in range(SEGMENT_MASK + 1))
CONSTANTS = (
    ("int", "kHalfwordBits", HALFWORD_BITS, ""),
    ("int", "kRound", ROUND, "beats that bring every lane of the prefix decoder one halfword"),
    ("int", "kTurn", TURN, "lanes by which a row's columns are turned against the row before it"),
    ("int", "kLaneFifo", FIFO, "halfwords that wait for a lane"),
    ("int", "kPrefixIndexBits", INDEX_BITS, "of a window, which a length table looks at"),
    ("int", "kPrefixEscapeBits", ESCAPE_BITS, "leading ones of a window that belongs to the second table"),
    ("int", "kPrefixLengths", LENGTHS, "entries of a length table"),
    ("int", "kPrefixOffsets", OFFSETS, ""),
    ("int", "kPrefixHeaderBytes", HEADER_BYTES, "of a prefix table, before its weights"),
    ("int", "kPrefixTableBytes", TABLE_BYTES, ""),
    ("uint32_t", "kPrefixFormat", PREFIX_WORD, ""),
    ("int", "kSegmentShift", SEGMENT_SHIFT, "where a format word has the logarithm of the tiles of a segment"),
    ("uint32_t", "kSegmentMask", SEGMENT_MASK, ""),
)
"""What C++ needs of it, for machine/facts.py."""


def encode(streams: NDArray[np.int8], layout: Layout, counts: NDArray[np.int64]) -> tuple[Prefix, Coded]:
    """Streams [ports, rows, cols], of which `counts` [256] are the weights without padding, in the longest segments that do.

    Raises Deep where even a tile's lanes drift apart too far.
    """
    with_padding = counts.copy()
    with_padding[0] += streams.size - counts.sum()
    lengths = code_lengths(with_padding)
    codes, table, entries = canonical_codes(lengths)
    words = layout.padded_cols // LANE_COLS
    tile_words = layout.tile_rows // layout.ports * words
    form = Prefix.of(layout)
    while True:
        try:
            made = layout.pack_tiles(
                streams, lambda segments: pack_prefix(segments, words, tile_words, codes, lengths), form.segment
            )
            return form, Coded(*made, table, entries)
        except Deep:
            if not form.log_tiles:
                raise
            form = Prefix(form.log_tiles - 1)


def candidates(
    streams: NDArray[np.int8], layout: Layout, counts: NDArray[np.int64], room: int, scheme: str
) -> list[tuple[Format, Coded]]:
    """Prefix codes of these weights (see coded.py); none where a lane would wait for too many halfwords."""
    try:
        return [encode(streams, layout, counts)]
    except Deep:
        return []
