# SPDX-License-Identifier: Apache-2.0
"""column_gemm's matrices: INT8 codes column by column, as they are; and the sizes to begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.engines.engine import OTHER_PORTS, Needs, Planner, read_ahead
from meadow.compiler.engines.stored import Part, Stored, Streamed, entropy_bits, zeros
from meadow.machine.engines.columns import Columns
from meadow.machine.errors import ResourceExceeded, UsageError
from meadow.machine.program import CHUNK_LIMIT
from meadow.machine.storage.columns import WORD_FLAG, ColumnLayout
from meadow.machine.types import Weight
from meadow.machine.units import BEAT_BYTES


class ColumnsPlanner(Planner[Columns]):
    """The compiler's side of column_gemm."""

    kind = Columns
    search: ClassVar[dict[str, tuple[int, ...]]] = {"column_ports": (1, 2, 4), "column_tokens": (4, 8, 16, 24, 32)}
    shape: ClassVar[tuple[str, ...]] = ("column_ports",)

    def parts(self, weight: Weight, engine: Columns, tile_rows: int) -> list[Part]:
        """Whole tiles, where a matrix is larger than a chunk of memory."""
        whole = ColumnLayout(weight.rows, weight.cols, engine.ports)
        most = max(1, CHUNK_LIMIT // (tile_rows * whole.padded_cols)) * tile_rows
        found = []
        for first in range(0, weight.rows, most):
            number = first // most if weight.rows > most else None
            found.append(Part(weight.name, first, replace(whole, rows=min(most, weight.rows - first)), number))
        return found

    def store(self, weight: Weight, part: Part, engine: Columns, packing: str) -> Stored:
        assert isinstance(part.layout, ColumnLayout)
        rows = weight.some_codes(slice(part.first_row, part.first_row + part.layout.rows)).astype(np.int8, copy=False)
        return StoredColumns(part.layout, (part.layout.pack(rows),), entropy_bits(rows))

    def sampled_bits(self, weight: Weight, engine: Columns, packing: str) -> float:
        return 8.0

    def stand_in(self, layout: Streamed, bits: float, engine: Columns, packing: str) -> Stored:
        assert isinstance(layout, ColumnLayout)
        return StoredColumns(layout, (zeros(layout.nbytes, np.uint8),), bits)

    def start(self, weights: Sequence[Weight], needs: Needs) -> Columns:
        board, fixed = needs.board, needs.fixed
        if needs.packing not in ("auto", "raw"):
            raise UsageError(
                f"--packing {needs.packing}: column_gemm reads weights as they are; drop it, or the numbers of column_gemm"
            )
        ports = fixed["column_ports"]
        if ports + OTHER_PORTS > len(board.ports):
            most = max([n for n in (1, 2, 4) if n + OTHER_PORTS <= len(board.ports)], default=1)
            raise ResourceExceeded(
                f"{ports} column ports and {OTHER_PORTS} for the rest; {board.title} has {len(board.ports)}: "
                f"--set column_ports={most} at most"
            )
        if needs.head_dim % BEAT_BYTES:
            raise UsageError(f"--set column_ports: heads of {needs.head_dim} are no whole beats of {BEAT_BYTES} rows")
        enough = [n for n in self.search["column_tokens"] if n >= fixed.get("block", 0)]
        tokens = fixed.get("column_tokens", min(enough, default=max(self.search["column_tokens"])))
        fifo = fixed.get("column_fifo", read_ahead(needs, ports))
        return Columns(ports, tokens, fifo, fixed.get("column_clock_mhz", board.pacq_clock_mhz))

    def refuse(self, fixed: Mapping[str, int], packing: str) -> None:
        if any(value for name, value in fixed.items() if name in Columns.numbers):
            super().refuse(fixed, packing)

    def options(self, engine: Columns) -> dict[str, tuple[int, ...]]:
        return {**self.search, "column_ports": (engine.ports,)}

    def sizes(self, engine: Columns) -> dict[str, tuple[int, ...]]:
        """Blocks of as many tokens as meet a column; and large tiles, since all results of a stripe come together."""
        return {"block": (1, 2, *self.search["column_tokens"]), "tile_rows": (128, 1024)}

    def possible(self, engine: Columns, block: int, head_dim: int) -> bool:
        return engine.block_fits(block)

    def largest_block(self, engine: Columns) -> int:
        return engine.tokens

    def wasteful(self, engine: Columns, block: int) -> bool:
        return 2 * block <= engine.tokens > min(self.search["column_tokens"])

    def stored_as(self, engine: Columns, packing: str) -> str:
        return "columns"


@dataclass(frozen=True, eq=False)
class StoredColumns:
    """INT8 weights for column_gemm, with a scale per row beside them.

    entropy  order-0 entropy of the weights in bits
    """

    layout: ColumnLayout
    streams: tuple[NDArray[np.uint8], ...]
    entropy: float
    kind = "raw"
    gatherable = False

    @property
    def nbytes(self) -> int:
        return self.layout.nbytes

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / (self.layout.rows * self.layout.cols)

    @property
    def bus_cycles(self) -> int:
        return self.layout.port_beats

    def lengths(self) -> dict[str, int]:
        return {"0": self.layout.nbytes, "scale": 4 * self.layout.padded_rows}

    def kept(self, keep: Callable[[NDArray[Any]], NDArray[Any]]) -> StoredColumns:
        return replace(self, streams=tuple(keep(s) for s in self.streams))

    def contents(self, scale: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        placed = np.zeros(self.layout.padded_rows, np.float32)
        placed[: self.layout.rows] = scale
        return {"0": self.streams[0], "scale": placed}

    def operands(self) -> dict[str, str | int]:
        return {"format": WORD_FLAG, "entries": 0, "weight_scale": "scale"}

    def row(self, where: Callable[[str], list[int] | None]) -> dict[str, Any]:
        return {"format": WORD_FLAG, "scale": where("scale")}
