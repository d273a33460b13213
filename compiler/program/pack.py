# SPDX-License-Identifier: Apache-2.0
"""pack: each weight matrix in the lossless format that spends least time on the bus.

Chooses the format; the bytes are made by prefix.py (ours) and packets.py (as published).  unpack.py is the inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from meadow.machine.design import BEAT_BYTES, LANE_COLS
from meadow.machine.errors import UsageError
from meadow.machine.storage import packets, prefix
from meadow.machine.storage.groups import GroupFormat, GroupLayout
from meadow.machine.storage.rows import Layout, padded
from meadow.machine.storage.unpack import MODE_BITS, Format, Prefix
from meadow.machine.types import Weight

SCHEMES = ("auto", "raw", "prefix", *packets.SCHEMES)
"""auto searches each matrix; the others use one format wherever its tables fit, and raw elsewhere."""
COUNTED = 1 << 20
"""Weights that are counted at a time."""
WORTHWHILE = 0.99
"""A matrix is packed by auto only when its time on the bus falls below this share of the raw time."""


@dataclass(frozen=True, eq=False)
class Packed:
    """One matrix as it lies in memory.

    form       None when raw
    streams    uint8 bytes of each port, whole beats
    directory  packed: uint32 [tiles, ports], beats
    table      packed: uint8, what the engine loads before it streams
    entries    packed: chunks or weights in the table
    entropy    order-0 entropy of the weights in bits, the bound (H1)
    """

    layout: Layout
    form: Format | None
    streams: tuple[NDArray[np.uint8], ...]
    directory: NDArray[np.uint32]
    table: NDArray[np.uint8]
    entries: int
    entropy: float

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for s in self.streams) + self.directory.nbytes + self.table.nbytes

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight of the matrix itself (padding is counted as cost, not as weights)."""
        return 8 * self.nbytes / (self.layout.rows * self.layout.cols)

    @property
    def fetch_cycles(self) -> int:
        """Cycles of the slowest port of each tile at one beat a cycle, and of loading the table."""
        if self.form is None:
            return self.layout.raw_beats
        return int(self.directory.max(axis=1).sum()) + -(-self.table.nbytes // BEAT_BYTES)

    @property
    def unpack_cycles(self) -> int:
        """Cycles of the look-up unit were the bus infinitely fast."""
        if self.form is None:
            return self.layout.raw_beats
        words = int(self.layout.tile_weights.sum()) // LANE_COLS
        return words if isinstance(self.form, Prefix) else max(words, int(self.directory.max(axis=1).sum()))

    @property
    def bus_cycles(self) -> int:
        """Time on the bus, the objective of the search: max(fetch, unpack)."""
        return max(self.fetch_cycles, self.unpack_cycles)


@dataclass(frozen=True, eq=False)
class PackedGroups:
    """One matrix of grouped weights as it lies in memory: scales and minima are in the streams.

    entropy  order-0 entropy of the codes, and the bits that scales and minima add to each
    """

    layout: GroupLayout
    streams: tuple[NDArray[np.uint8], ...]
    entropy: float

    @property
    def form(self) -> GroupFormat:
        return self.layout.form

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for s in self.streams)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / (self.layout.rows * self.layout.cols)

    @property
    def bus_cycles(self) -> int:
        return self.layout.port_beats


AnyPacked = Packed | PackedGroups
_FORMATS: WeakKeyDictionary[Weight, GroupFormat] = WeakKeyDictionary()
"""Found once a matrix: every one of its scales is looked at."""


def group_format(weight: Weight) -> GroupFormat:
    """The format in which a grouped matrix is streamed: what it needs and no more.

    Codes around their middle with no minimum, and FP16 scales, wherever that says the same.  Raises ValueError for widths
    and groups that the engine does not take.
    """
    if weight in _FORMATS:
        return _FORMATS[weight]
    assert weight.scale is not None
    bits, group = weight.elem.bits, weight.elem.group
    minimum = weight.minimum
    if minimum is not None and np.array(minimum == weight.scale * np.float32(-(1 << (bits - 1)))).all():
        minimum = None
    exact = all(
        v is None or np.array(v.astype(np.float16).astype(np.float32) == v).all() for v in (weight.scale, minimum)
    )
    _FORMATS[weight] = GroupFormat(bits, group, minimum is not None, not exact)
    return _FORMATS[weight]


def pack_groups(weight: Weight, first_row: int, layout: GroupLayout) -> PackedGroups:
    """Rows from `first_row` on of a grouped matrix."""
    form = layout.form
    assert weight.scale is not None
    rows = slice(first_row, first_row + layout.rows)
    codes = np.asarray(weight.codes[rows])
    if codes.dtype == np.int8:
        codes = codes.view(np.uint8) + np.uint8(1 << (form.bits - 1))  # two's complement to codes around the middle
        codes &= np.uint8((1 << form.bits) - 1)
    minimum = weight.minimum[rows] if form.minimum and weight.minimum is not None else None
    streams = layout.pack(codes.astype(np.uint8, copy=False), weight.scale[rows], minimum)
    entropy = _entropy(_counts(codes.view(np.int8))) + 8 * form.parameter_bytes / form.group
    return PackedGroups(layout, streams, entropy)


def entropy_bits(codes: NDArray[np.int8]) -> float:
    """Order-0 entropy of the codes, in bits a weight."""
    return _entropy(_counts(codes))


def _counts(codes: NDArray[np.int8]) -> NDArray[np.int64]:
    """How often each byte value occurs [256].  Bytes are counted in pairs, which halves the work, and in pieces, since bincount
    copies what it counts to eight bytes each."""
    flat = codes.reshape(-1).view(np.uint8)
    counts = np.bincount(flat[flat.size // 2 * 2 :], minlength=256)
    pairs = flat[: flat.size // 2 * 2].view(np.uint16)
    both = np.zeros(1 << 16, np.int64)
    for start in range(0, pairs.size, COUNTED):
        both += np.bincount(pairs[start : start + COUNTED], minlength=1 << 16)
    square = both.reshape(256, 256)
    return counts + square.sum(axis=0) + square.sum(axis=1)


def _entropy(counts: NDArray[np.int64]) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def pack(
    codes: NDArray[np.int8], layout: Layout, scheme: str = "auto", prefix_codes: bool = True, lookup_entries: int = 0
) -> Packed:
    """Pack W[N, K].

    scheme          one of SCHEMES
    prefix_codes    whether the engine decodes prefix codes
    lookup_entries  chunks that the engine's table of the published scheme has room for
    Raises UsageError for another scheme.
    """
    if scheme not in SCHEMES:
        raise UsageError(f"packing {scheme!r} is not known; known are {', '.join(SCHEMES)}")
    counts = _counts(codes)
    entropy = _entropy(counts)
    streams = layout.split(codes)
    candidates = []
    if scheme in ("auto", "prefix") and prefix_codes:
        candidates.append(_by_prefix(streams, layout, entropy, counts))
    if scheme in ("auto", *packets.SCHEMES) and lookup_entries:
        made = _by_packets(streams, layout, entropy, lookup_entries, "frequency" if scheme == "auto" else scheme)
        candidates += [made] if made is not None else []
    raw = Packed(layout, None, tuple(s.reshape(-1).view(np.uint8) for s in streams), np.zeros((0, 0), np.uint32),
                 np.zeros(0, np.uint8), 0, entropy)  # fmt: skip
    if not candidates:
        return raw
    best = min(candidates, key=lambda p: (p.bus_cycles, p.nbytes))
    return raw if scheme == "auto" and best.bus_cycles >= WORTHWHILE * raw.bus_cycles else best


def _by_prefix(streams: NDArray[np.int8], layout: Layout, entropy: float, counts: NDArray[np.int64]) -> Packed:
    with_padding = counts.copy()
    with_padding[0] += streams.size - counts.sum()
    lengths = prefix.code_lengths(with_padding)
    codes, table, entries = prefix.canonical_codes(lengths)
    out, directory = layout.pack_tiles(streams, lambda tiles: prefix.pack_prefix(tiles, codes, lengths))
    return Packed(layout, Prefix(), out, directory, table, entries, entropy)


def _by_packets(
    streams: NDArray[np.int8], layout: Layout, entropy: float, lookup_entries: int, scheme: str
) -> Packed | None:
    form = packets.best_format(streams, lookup_entries, scheme)
    if form is None:
        return None
    out, directory, table = packets.pack_packets(streams, layout, form, scheme)
    return Packed(layout, form, out, directory, table.reshape(-1).view(np.uint8), len(table), entropy)


def published_bytes(codes: NDArray[np.int8], scheme: str, chunk: int = 2, packet: int = 4) -> float:
    """Bytes of the published scheme as its authors describe it, for comparison: packets follow each other bit by bit.

    Ids of one width ("naive"), or packets of `packet` ids with MODE_BITS of mode and the width of their widest, by
    value ("packets") or by frequency; the table is counted.  A chunk is cut along K.
    """
    rows = np.ascontiguousarray(np.pad(codes, ((0, 0), (0, -codes.shape[1] % chunk))))
    ids, table = packets.chunk_ids(rows[None], chunk, scheme == "frequency")
    flat = ids.reshape(-1)
    if scheme == "naive":
        bits = flat.size * max(1, int(len(table) - 1).bit_length())
    else:
        whole = np.zeros(padded(flat.size, packet), flat.dtype)
        whole[: flat.size] = flat
        widths = packets.bit_length(whole.reshape(-1, packet).max(axis=1)).astype(np.int64)
        bits = len(widths) * MODE_BITS + packet * int(widths.sum())
    return bits / 8 + table.nbytes
