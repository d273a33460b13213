# SPDX-License-Identifier: Apache-2.0
"""pack: each weight matrix in the lossless format that spends least time on the bus.

Chooses the format; each way of storing makes its own bytes (machine/storage/).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from meadow.machine.design import BEAT_BYTES
from meadow.machine.errors import UsageError
from meadow.machine.storage import packets, raw
from meadow.machine.storage.coded import Coded, Format, schemes, storage_modules
from meadow.machine.storage.groups import GroupFormat, GroupLayout
from meadow.machine.storage.rows import Layout, padded
from meadow.machine.types import Weight

SCHEMES = schemes()
"""auto searches each matrix; the others use one format wherever its tables fit, and raw elsewhere."""
COUNTED = 1 << 20
"""Weights that are counted at a time."""
WORTHWHILE = 0.99
"""A matrix is packed by auto only when its time on the bus falls below this share of the raw time."""


class Stored(Protocol):
    """One matrix, or a part of it, as it lies in memory: what placing, saving and lowering ask of any way of storing one.

    Buffers go by a suffix to the part's name: "0" to "3" are the ports' streams.
    """

    @property
    def layout(self) -> Layout | GroupLayout: ...
    @property
    def streams(self) -> Sequence[NDArray[np.uint8]]: ...
    @property
    def entropy(self) -> float: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def bits_per_weight(self) -> float: ...
    @property
    def bus_cycles(self) -> int: ...
    @property
    def kind(self) -> str:
        """raw, packed or grouped."""
        ...

    @property
    def gatherable(self) -> bool:
        """Whether a host can take single rows out of the streams."""
        ...

    def lengths(self) -> dict[str, int]:
        """Bytes of each buffer, by suffix."""
        ...

    def contents(self, scale: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What each buffer holds, by suffix; `scale` of the rows, where they are not in the streams."""
        ...

    def operands(self) -> dict[str, str | int]:
        """The fields of an instruction that name the matrix: a suffix of a buffer, or a number."""
        ...

    def row(self, where: Callable[[str], list[int] | None]) -> dict[str, Any]:
        """What is its own in its row of packing.json; where(suffix) is the place of a buffer."""
        ...


@dataclass(frozen=True, eq=False)
class Packed:
    """INT8 weights for the array, with a scale per row beside them.

    entropy  order-0 entropy of the weights in bits: the bound
    """

    layout: Layout
    form: Format
    coded: Coded
    entropy: float

    @property
    def streams(self) -> Sequence[NDArray[np.uint8]]:
        return self.coded.streams

    @property
    def kind(self) -> str:
        return "packed" if self.form.packed else "raw"

    @property
    def gatherable(self) -> bool:
        return not self.form.packed

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for s in self.streams) + self.coded.directory.nbytes + self.coded.table.nbytes

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight of the matrix itself (padding is counted as cost, not as weights)."""
        return 8 * self.nbytes / (self.layout.rows * self.layout.cols)

    @property
    def fetch_cycles(self) -> int:
        """Cycles of the slowest port of each tile at one beat a cycle, and of loading the table."""
        if not self.form.packed:
            return self.layout.raw_beats
        return int(self.coded.directory.max(axis=1).sum()) + -(-self.coded.table.nbytes // BEAT_BYTES)

    @property
    def unpack_cycles(self) -> int:
        """Cycles of the look-up unit were the bus infinitely fast."""
        return self.form.unpack_cycles(self.layout, self.coded.directory)

    @property
    def bus_cycles(self) -> int:
        """Time on the bus, the objective of the search: max(fetch, unpack)."""
        return max(self.fetch_cycles, self.unpack_cycles)

    def lengths(self) -> dict[str, int]:
        found = {str(port): stream.nbytes for port, stream in enumerate(self.streams)}
        if self.form.packed:
            found["directory"] = padded(self.coded.directory.nbytes, BEAT_BYTES)
            found["table"] = padded(self.coded.table.nbytes, BEAT_BYTES)
        return found | {"scale": self.layout.scale_bytes}

    def contents(self, scale: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {str(port): stream for port, stream in enumerate(self.streams)}
        if self.form.packed:
            found |= {"directory": self.coded.directory, "table": self.coded.table}
        placed = np.zeros(self.layout.scale_bytes // 4, np.float32)
        placed[self.layout.scale_places] = scale
        return found | {"scale": placed}

    def operands(self) -> dict[str, str | int]:
        tables: dict[str, str | int] = {"directory": "directory", "table": "table"} if self.form.packed else {}
        return {"format": self.form.word, "entries": self.coded.entries, "weight_scale": "scale", **tables}

    def row(self, where: Callable[[str], list[int] | None]) -> dict[str, Any]:
        places = {name: where(name) for name in ("directory", "table", "scale")}
        return {"tile_rows": self.layout.tile_rows, "format": self.form.word, "entries": self.coded.entries, **places}


@dataclass(frozen=True, eq=False)
class PackedGroups:
    """Grouped weights for pacq_gemv: scales and minima are in the streams.

    entropy  order-0 entropy of the codes, and the bits that scales and minima add to each
    """

    layout: GroupLayout
    streams: tuple[NDArray[np.uint8], ...]
    entropy: float
    kind = "grouped"
    gatherable = True

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

    def lengths(self) -> dict[str, int]:
        return {str(port): stream.nbytes for port, stream in enumerate(self.streams)}

    def contents(self, scale: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {str(port): stream for port, stream in enumerate(self.streams)}

    def operands(self) -> dict[str, str | int]:
        return {"format": self.form.word, "entries": 0}

    def row(self, where: Callable[[str], list[int] | None]) -> dict[str, Any]:
        return {"format": self.form.word}


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
    room = Settings(int(prefix_codes), lookup_entries)
    found: list[Packed] = []
    for module in storage_modules():
        if not hasattr(module, "candidates"):
            continue
        entries = max(form.room(room) for form in module.FORMATS)
        named = {name for form in module.FORMATS for name in form.schemes}
        if entries and (scheme == "auto" or scheme in named):
            found += [
                Packed(layout, form, coded, entropy)
                for form, coded in module.candidates(streams, layout, counts, entries, scheme)
            ]
    plain = Packed(layout, raw.Raw(), raw.coded(streams), entropy)
    if not found:
        return plain
    best = min(found, key=lambda p: (p.bus_cycles, p.nbytes))
    return plain if scheme == "auto" and best.bus_cycles >= WORTHWHILE * plain.bus_cycles else best


class Settings(NamedTuple):
    """The units that unpack weights, as pack was told of them."""

    prefix_codes: int
    lookup_entries: int


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
        bits = len(widths) * packets.MODE_BITS + packet * int(widths.sum())
    return bits / 8 + table.nbytes
