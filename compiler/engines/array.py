# SPDX-License-Identifier: Apache-2.0
"""The INT8 array's matrices: each in the lossless format that spends least time on the bus; and the sizes to begin with.

Chooses the format; each way of storing makes its own bytes (machine/storage/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.engines.engine import OTHER_PORTS, Needs, Planner
from meadow.compiler.engines.stored import Part, Stored, Streamed, counts_of, entropy_bits, entropy_of, zeros
from meadow.machine.engines.array import Array
from meadow.machine.errors import ResourceExceeded, UsageError
from meadow.machine.program import CHUNK_LIMIT
from meadow.machine.storage import packets, raw
from meadow.machine.storage.coded import Coded, Format, Units, formats, schemes, storage_modules
from meadow.machine.storage.packets import SCHEMES as PUBLISHED
from meadow.machine.storage.packets import Packets
from meadow.machine.storage.prefix import Prefix
from meadow.machine.storage.rows import Layout, padded
from meadow.machine.types import Weight
from meadow.machine.units import BEAT_BYTES, LANE_COLS

SCHEMES = schemes()
"""auto searches each matrix; the others use one format wherever its tables fit, and raw elsewhere."""
WORTHWHILE = 0.99
"""A matrix is packed by auto only when its time on the bus falls below this share of the raw time."""
SAMPLE = 1 << 17
"""Weights of a matrix from which its entropy is estimated."""
CODE_LOSS = 1.007
"""What prefix codes of CODE_BITS lose against the entropy before tiles are cut (docs/decisions/0010)."""

PREFIX_ALONE = Array(prefix_codes=1)


class ArrayPlanner(Planner[Array]):
    """The compiler's side of the array."""

    kind = Array
    search: ClassVar[dict[str, tuple[int, ...]]] = {"weight_ports": (1, 2, 4), "prefix_codes": (0, 1)}
    shape: ClassVar[tuple[str, ...]] = ("weight_ports", "prefix_codes")

    def parts(self, weight: Weight, engine: Array, tile_rows: int) -> list[Part]:
        return parts(weight.name, weight.rows, weight.cols, engine.ports, tile_rows)

    def store(self, weight: Weight, part: Part, engine: Array, packing: str) -> Stored:
        assert isinstance(part.layout, Layout)
        rows = weight.some_codes(slice(part.first_row, part.first_row + part.layout.rows))
        return pack(rows.astype(np.int8, copy=False), part.layout, packing, engine)

    def sampled_bits(self, weight: Weight, engine: Array, packing: str) -> float:
        """Prefix codes from the entropy, without what tiles waste; a published scheme by packing the sample, without its table."""
        step = max(1, min(weight.size // SAMPLE, weight.rows))
        rows = np.ascontiguousarray(weight.some_codes(slice(None, None, step))).astype(np.int8, copy=False)
        if packing not in PUBLISHED:
            return entropy_bits(rows) * CODE_LOSS
        units = Array(0, 0, engine.lookup_entries)
        packed = pack(rows, Layout(rows.shape[0], rows.shape[1], 1, 64), packing, units)
        return 8 * packed.streams[0].nbytes / rows.size

    def stand_in(self, layout: Streamed, bits: float, engine: Array, packing: str) -> Stored:
        """In the likeliest format: prefix codes where they are decoded, else the forced scheme's, if it has one."""
        assert isinstance(layout, Layout)
        forced = [f for f in formats().values() if packing in f.schemes and f.room(engine)]
        likely: list[Format] = (
            [Prefix.of(layout)] if engine.prefix_codes else [Packets(2, 1)] if engine.lookup_entries else []
        )
        form = next(iter(likely + forced), raw.Raw())
        return stand_in(layout, bits, form, engine.lookup_entries)

    def start(self, weights: Sequence[Weight], needs: Needs) -> Array:
        board, fixed = needs.board, needs.fixed
        _check_packing(needs.packing, fixed)
        if fixed.get("weight_ports", 1) + OTHER_PORTS > len(board.ports):
            most = max([n for n in (1, 2, 4) if n + OTHER_PORTS <= len(board.ports)], default=1)
            raise ResourceExceeded(
                f"{fixed['weight_ports']} weight ports and {OTHER_PORTS} for the rest; {board.title} has {len(board.ports)}: "
                f"--set weight_ports={most} at most"
            )
        possible = [n for n in (1, 2, 4) if (n == 1 or n + OTHER_PORTS <= len(board.ports)) and needs.head_dim % n == 0]
        return Array(
            fixed.get("weight_ports", max(possible) // (2 if needs.shared else 1)),
            fixed.get("prefix_codes", int(needs.packing in ("auto", "prefix"))),
            fixed.get("lookup_entries", 1024 if needs.packing in PUBLISHED else 0),
        )

    def refuse(self, fixed: Mapping[str, int], packing: str) -> None:
        asked = [name for name in fixed if name in Array.numbers]
        if asked and fixed.get("column_ports"):
            raise UsageError(
                f"--set {', '.join(asked)} and column_ports: a design has one engine for INT8 weights; drop one of them"
            )
        super().refuse(fixed, packing)
        if packing != "auto" and not fixed.get("column_ports"):
            raise UsageError(
                f"--packing {packing}: every matrix is of grouped weights, which are streamed as they are; drop it"
            )

    def growth(self, engine: Array) -> dict[str, tuple[int, ...]]:
        return {"lookup_entries": (16384, 8192, 4096, 2048)} if engine.lookup_entries else {}

    def pinned(self, packing: str) -> set[str]:
        return {"prefix_codes"} if packing != "auto" else set()

    def possible(self, engine: Array, block: int, head_dim: int) -> bool:
        return head_dim % engine.ports == 0

    def stored_as(self, engine: Array, packing: str) -> str:
        if packing != "auto":
            return packing
        return "prefix" if engine.prefix_codes else "raw"

    def notes(self, engine: Array, weights: Sequence[Weight], packing: str) -> list[str]:
        if packing == "auto" and not engine.prefix_codes:
            return ["weights are stored raw: the decoder of prefix codes does not fit, or does not pay"]
        return []


def _check_packing(packing: str, fixed: Mapping[str, int]) -> None:
    """Raise UsageError where --packing asks for a unit that --set leaves out, or the other way round."""
    prefix, chunks = fixed.get("prefix_codes"), fixed.get("lookup_entries")
    if packing == "prefix" and prefix == 0:
        raise UsageError("--packing prefix needs the decoder that --set prefix_codes=0 leaves out; drop one of them")
    if packing in ("raw", *PUBLISHED) and prefix == 1:
        raise UsageError(
            f"--packing {packing} has no use for the decoder that --set prefix_codes=1 builds; drop one of them"
        )
    if packing in PUBLISHED and chunks == 0:
        raise UsageError(
            f"--packing {packing} needs the tables that --set lookup_entries=0 leaves out; drop one of them"
        )
    if packing in ("raw", "prefix") and chunks:
        raise UsageError(f"--packing {packing} has no use for --set lookup_entries={chunks}; drop one of them")


def parts(name: str, rows: int, cols: int, ports: int, tile_rows: int) -> list[Part]:
    """The parts of a matrix whose port streams are at most CHUNK_LIMIT bytes when raw, in whole tiles."""
    row_bytes = padded(cols, LANE_COLS)
    most = max(tile_rows, CHUNK_LIMIT // row_bytes * ports // tile_rows * tile_rows)
    found = []
    for first in range(0, rows, most):
        number = first // most if rows > most else None
        found.append(Part(name, first, Layout(min(most, rows - first), cols, ports, tile_rows), number))
    return found


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
        """Cycles of the slowest port of each tile at one beat per cycle, and of loading the table."""
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

    def kept(self, keep: Callable[[NDArray[Any]], NDArray[Any]]) -> Packed:
        return replace(self, coded=self.coded._replace(streams=tuple(keep(s) for s in self.streams)))

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


def pack(codes: NDArray[np.int8], layout: Layout, scheme: str = "auto", units: Units = PREFIX_ALONE) -> Packed:
    """Pack W[N, K].

    scheme  one of SCHEMES
    units   that unpack weights: an Array has them
    Raises UsageError for another scheme.
    """
    if scheme not in SCHEMES:
        raise UsageError(f"packing {scheme!r} is not known; known are {', '.join(SCHEMES)}")
    counts = counts_of(codes)
    entropy = entropy_of(counts)
    streams = layout.split(codes)
    found: list[Packed] = []
    for module in storage_modules():
        if not hasattr(module, "candidates"):
            continue
        entries = max(form.room(units) for form in module.FORMATS)
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


def stand_in(layout: Layout, bits: float, form: Format, lookup_entries: int = 0) -> Packed:
    """A matrix of which only the size is known."""
    entries = 256 if isinstance(form, Prefix) else lookup_entries
    size = form.expected_bytes(layout, bits, entries)
    if size is None:
        return stand_in(layout, bits, raw.Raw())
    streams = (zeros(size, np.uint8),) * layout.ports
    directory = np.broadcast_to(np.uint32(0), (layout.tiles, layout.ports) if form.packed else (0, 0))
    return Packed(layout, form, Coded(streams, directory, zeros(form.table_bytes(entries), np.uint8), entries), bits)
