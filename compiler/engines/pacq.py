# SPDX-License-Identifier: Apache-2.0
"""pacq_gemv's matrices: grouped weights in the format that says the same in least bytes; and the sizes to begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.engines.engine import OTHER_PORTS, Needs, Planner, Problem, read_ahead
from meadow.compiler.engines.stored import Part, Stored, Streamed, counts_of, entropy_of, zeros
from meadow.machine.engines.pacq import Pacq
from meadow.machine.errors import UnsupportedModel
from meadow.machine.program import CHUNK_LIMIT
from meadow.machine.storage.groups import BAND_ROWS, LARGEST, MOST_GROUPS, SMALLEST, GroupFormat, GroupLayout
from meadow.machine.types import Weight
from meadow.machine.units import BEAT_BYTES


class PacqPlanner(Planner[Pacq]):
    """The compiler's side of pacq_gemv."""

    kind = Pacq
    search: ClassVar[dict[str, tuple[int, ...]]] = {"pacq_ports": (1, 2, 4), "pacq_tokens": (1, 2, 4)}
    shape: ClassVar[tuple[str, ...]] = ("pacq_ports",)

    def problems(self, weight: Weight) -> list[Problem]:
        return grouped_problems(weight)

    def parts(self, weight: Weight, engine: Pacq, tile_rows: int) -> list[Part]:
        return group_parts(weight, engine.ports)

    def store(self, weight: Weight, part: Part, engine: Pacq, packing: str) -> Stored:
        assert isinstance(part.layout, GroupLayout)
        return pack_groups(weight, part.first_row, part.layout)

    def sampled_bits(self, weight: Weight, engine: Pacq, packing: str) -> float:
        return float(weight.elem.bits)

    def stand_in(self, layout: Streamed, bits: float, engine: Pacq, packing: str) -> Stored:
        assert isinstance(layout, GroupLayout)
        return PackedGroups(layout, (zeros(layout.port_beats * BEAT_BYTES, np.uint8),) * layout.ports, bits)

    def start(self, weights: Sequence[Weight], needs: Needs) -> Pacq:
        """Raises UnsupportedModel where heads are no whole tiles."""
        board, fixed = needs.board, needs.fixed
        lanes = fixed.get("pacq_lanes", 8 if any(w.elem.bits == 2 for w in weights) else 4)
        most = 2 if needs.shared else 4
        rows = max(group_format(w).lanes for w in weights)
        possible = [
            n
            for n in (1, 2, 4)
            if n <= most and n + OTHER_PORTS <= len(board.ports) and needs.head_dim % (n * rows) == 0
        ]
        if not possible:
            raise UnsupportedModel(
                f"heads of {needs.head_dim} are no whole tiles of {rows} rows of grouped weights; use more bits"
            )
        ports = fixed.get("pacq_ports", max(possible))
        fifo = fixed.get("pacq_fifo", read_ahead(needs, ports))
        clock = fixed.get("pacq_clock_mhz", board.pacq_clock_mhz)
        return Pacq(ports, lanes, fixed.get("pacq_tokens", 1), fifo, clock)

    def options(self, engine: Pacq) -> dict[str, tuple[int, ...]]:
        return {**self.search, "pacq_ports": tuple(n for n in self.search["pacq_ports"] if n <= engine.ports)}

    def possible(self, engine: Pacq, block: int, head_dim: int) -> bool:
        return engine.block_fits(block)

    def stored_as(self, engine: Pacq, packing: str) -> str:
        return "grouped"

    def notes(self, engine: Pacq, weights: Sequence[Weight], packing: str) -> list[str]:
        """Where it multiplies slower than its ports bring weights, for one token."""
        slow = []
        for form in {group_format(w) for w in weights}:
            layout = GroupLayout(1, form.group, 1, form)
            cycles = layout.windows * form.window_cycles / layout.group_beats
            if cycles > 1:
                slow.append(f"{form} take {cycles:.2f} cycles per beat: the ports wait for the multipliers")
        return sorted(slow)


def group_parts(weight: Weight, ports: int) -> list[Part]:
    """The same for a matrix of grouped weights, in whole bands."""
    whole = GroupLayout(weight.rows, weight.cols, ports, group_format(weight))
    unit = BAND_ROWS * ports
    most = max(1, CHUNK_LIMIT // (whole.groups * whole.group_beats * BEAT_BYTES)) * unit
    found = []
    for first in range(0, weight.rows, most):
        number = first // most if weight.rows > most else None
        found.append(Part(weight.name, first, replace(whole, rows=min(most, weight.rows - first)), number))
    return found


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

    def kept(self, keep: Callable[[NDArray[Any]], NDArray[Any]]) -> PackedGroups:
        return replace(self, streams=tuple(keep(s) for s in self.streams))

    def contents(self, scale: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {str(port): stream for port, stream in enumerate(self.streams)}

    def operands(self) -> dict[str, str | int]:
        return {"format": self.form.word, "entries": 0}

    def row(self, where: Callable[[str], list[int] | None]) -> dict[str, Any]:
        return {"format": self.form.word}


_FORMATS: WeakKeyDictionary[Weight, GroupFormat] = WeakKeyDictionary()
"""Found once per matrix: every one of its scales is looked at."""


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
    codes = np.asarray(weight.some_codes(rows))
    if codes.dtype == np.int8:
        codes = codes.view(np.uint8) + np.uint8(1 << (form.bits - 1))  # two's complement to codes around the middle
        codes &= np.uint8((1 << form.bits) - 1)
    minimum = weight.minimum[rows] if form.minimum and weight.minimum is not None else None
    streams = layout.pack(codes.astype(np.uint8, copy=False), weight.scale[rows], minimum)
    entropy = entropy_of(counts_of(codes.view(np.int8))) + 8 * form.parameter_bytes / form.group
    return PackedGroups(layout, streams, entropy)


def grouped_problems(weight: Weight) -> list[Problem]:
    """What keeps a grouped matrix from pacq_gemv."""
    assert weight.scale is not None
    try:
        GroupFormat(weight.elem.bits, weight.elem.group, False, False)
    except ValueError as error:
        return [(weight.name, f"is {weight.elem}", str(error))]
    found: list[Problem] = []
    if weight.scale.shape[1] > MOST_GROUPS:
        found.append(
            (
                weight.name,
                f"has {weight.scale.shape[1]} groups per row",
                f"at most {MOST_GROUPS} are possible; use larger groups",
            )
        )
    for what, values in (("scales", weight.scale), ("minima", weight.minimum)):
        if values is None:
            continue
        magnitude = np.abs(values)
        if not np.isfinite(magnitude).all() or magnitude.max(initial=0) >= LARGEST:
            found.append((weight.name, f"has {what} up to {magnitude.max():g}", "export or quantize it again"))
        elif np.array((magnitude > 0) & (magnitude < SMALLEST)).any():
            found.append((weight.name, f"has {what} below 2^-60", "export or quantize it again"))
    return found
