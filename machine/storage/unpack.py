# SPDX-License-Identifier: Apache-2.0
"""unpack: the bytes of a packed weight stream become INT8 again, as the look-up unit does it.

The inverse of prefix.py and packets.py, and all of it that a board's host needs.  docs/packing.md has both formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meadow.machine.design import BEAT_BYTES, CODE_BITS, LANE_COLS, LOOKUP_LANES

MODE_BITS = 4
HALFWORD_BITS = 16
"""What a lane of the prefix decoder takes from the stream at once; a beat holds eight."""
HALFWORDS = BEAT_BYTES * 8 // HALFWORD_BITS
HEADER_BYTES = 64
"""A prefix table begins with two arrays, one entry for each code length and room for 16 lengths each."""
PREFIX_WORD = 1 << 16
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Packets:
    """The published scheme: chunks of `chunk` weights; `packets` packets in a beat, each with a mode field and ids of one width."""

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

    def table_bytes(self, entries: int) -> int:
        return entries * self.chunk

    def __str__(self) -> str:
        return f"chunks of {self.chunk}, {self.packets} packets a beat"


@dataclass(frozen=True)
class Prefix:
    """Prefix codes of at most CODE_BITS bits, one a weight, in LANE_COLS bit streams that share the bus."""

    @property
    def word(self) -> int:
        """The `format` field of an instruction."""
        return PREFIX_WORD

    def table_bytes(self, entries: int) -> int:
        return HEADER_BYTES + entries

    def __str__(self) -> str:
        return "prefix codes"


Format = Packets | Prefix
PACKETS = tuple(Packets(chunk, packets) for chunk in (1, 2) for packets in (1, 2, 4))
"""A beat yields at most LOOKUP_LANES chunks of two: LANE_COLS weights, one word of the multipliers."""


def format_of(word: int) -> Format:
    """The format of an instruction's word.  Raises ValueError for one that does not exist."""
    if word == PREFIX_WORD:
        return Prefix()
    made = Packets(word & 255, word >> 8)
    if made not in PACKETS:
        raise ValueError(f"packing format {word:#x} is not known")
    return made


class Stored(NamedTuple):
    """One packed matrix: the beats of each port as bytes, the directory [tiles, ports] in beats, its table of `entries`."""

    streams: Sequence[Bytes]
    directory: NDArray[np.uint32]
    table: Bytes
    entries: int

    def check(self, form: Format, tiles: int) -> None:
        """Raise ValueError when streams, directory and table do not go together."""
        if self.directory.shape != (tiles, len(self.streams)):
            raise ValueError(f"the directory is {self.directory.shape}, not {tiles} tiles of {len(self.streams)} ports")
        if self.entries < 1 or self.table.nbytes < form.table_bytes(self.entries):
            raise ValueError(f"a table of {self.table.nbytes} bytes for {self.entries} entries")
        for port, stream in enumerate(self.streams):
            beats = int(self.directory[:, port].sum(dtype=np.int64))
            if beats * BEAT_BYTES != stream.nbytes:
                raise ValueError(f"the stream of port {port} has {stream.nbytes} bytes, its tiles {beats} beats")


def unpack(form: Format, stored: Stored, tile_weights: NDArray[np.intp]) -> NDArray[np.int8]:
    """The weights of every port, [ports, weights].  A tile starts at a beat; what its last beat holds beyond is padding.

    tile_weights  [tiles], weights that each port has in a tile
    Raises ValueError when the beats hold less than the tiles need, or a code or id is not in the table.
    """
    return unpack_alike(form, [stored], tile_weights)[0]


def unpack_alike(form: Format, several: Sequence[Stored], tile_weights: NDArray[np.intp]) -> list[NDArray[np.int8]]:
    """unpack of several matrices of one format and one shape; prefix codes of all are decoded together."""
    for stored in several:
        stored.check(form, len(tile_weights))
    if isinstance(form, Prefix):
        return _unpack_prefix(several, tile_weights)
    made = []
    for s in several:
        chunks = s.table[: s.entries * form.chunk].view(np.int8).reshape(s.entries, form.chunk)
        made.append(np.stack([
            unpack_packets(beats, s.directory[:, port], tile_weights, chunks, form) for port, beats in enumerate(s.streams)
        ]))  # fmt: skip
    return made


# -- prefix codes ------------------------------------------------------------------------------------------------------


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


def _unpack_prefix(several: Sequence[Stored], tile_weights: NDArray[np.intp]) -> list[NDArray[np.int8]]:
    """See unpack_alike.  Every tile of every port of every matrix is a stream; all are decoded word by word."""
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


def _decode(tables: NDArray[np.uint16], which: NDArray[np.intp], halfwords: NDArray[Any], starts: NDArray[np.int64],
            lengths: NDArray[np.int64], words: int) -> NDArray[np.uint8]:  # fmt: skip
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


# -- packets of ids ----------------------------------------------------------------------------------------------------


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


def unpack_packets(beats: NDArray[np.uint8], tile_beats: NDArray[np.integer[Any]], tile_weights: NDArray[np.integer[Any]],
                  table: NDArray[np.int8], form: Packets) -> NDArray[np.int8]:  # fmt: skip
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
