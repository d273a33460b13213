# SPDX-License-Identifier: Apache-2.0
"""A matrix that is streamed past activations: what LINEAR and TPHS have in common.  What it costs is its engine's to say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meadow.machine.design import Design
from meadow.machine.engines.engine import Engine
from meadow.machine.instructions.instruction import Field, Fields, Machine, Operands
from meadow.machine.step import Step

ACTIVATIONS = (
    Field("codes", "slot", "INT8 [tokens, cols padded to 32]; for grouped weights FP32 [tokens, cols padded to 4]"),
    Field("scale", "slot", "FP32 [tokens]; not for grouped weights"),
)
MATRIX = (
    *(Field(f"weights{p}", "slot", f"weights of port {p}: rows n = {p} mod ports") for p in range(4)),
    Field(
        "format",
        "int",
        "0 raw; bit 16: prefix codes (docs/packing.md); bit 24: grouped weights (machine/storage/groups.py); bit 25: columns, with bit 0 live ones alone (machine/storage/columns.py); else chunk size | packets per beat << 8",
    ),
    Field("directory", "slot", "packed: beats of each tile and port, uint32 [tiles][ports]"),
    Field("table", "slot", "packed: code table, or `chunk size` int8 an entry"),
    Field("entries", "int", "packed: entries of the table"),
    Field("weight_scale", "slot", "FP32 scale of each row, every tile's beginning at a beat"),
)
KEPT = (
    Field("reuse", "int", "grouped: 1 reuses the activations that pacq_gemv already holds"),
    Field("hold", "int", "grouped: 1 keeps them for the next linear"),
)
FIELDS = (*ACTIVATIONS, *MATRIX, *KEPT)


def engine(o: Fields | Operands, design: Design) -> Engine:
    """The engine of the design that takes the matrix.  Raises ValueError when it has none."""
    return design.streams(int(o["format"]))


def project(f: Fields, m: Machine, rows: int, tile_rows: int, first: int = 0) -> NDArray[np.float32]:
    """FP32 results [tokens - first, rows] of the matrix that the fields name."""
    return engine(f, m.design).project(m, f, rows, tile_rows, first)


def streamed_rows(step: Step) -> int:
    """Output features of the matrix that a LINEAR or TPHS streams: TPHS projects the queries of all heads."""
    o = step.numbers
    return int(o["rows"]) if "rows" in o else int(o["heads"]) * int(o["head_dim"])
