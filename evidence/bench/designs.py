# SPDX-License-Identifier: Apache-2.0
"""Which Verilog modules the designs of models on boards have, each shape once, and the clocks that each must hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meadow.boards import Board
from meadow.compiler.emit.emit import emit
from meadow.compiler.emit.verilog import ColumnShape, Shape, shape_of
from meadow.compiler.size.fit import fit
from meadow.compiler.sources.source import find_source, read_source
from meadow.evidence.bench.depth import limit
from meadow.evidence.bench.rtl import MODULES, Module
from meadow.machine.engines.array import Array
from meadow.machine.errors import ResourceExceeded

SMALL = Shape(ports=1, fifo_beats=512, activation_words=1024)
FEW = ColumnShape(tokens=5, max_words=64)
Used = list[tuple[Board, int]]
"""Boards, and the clock of the module there in MHz."""


def modules_of(models: Sequence[Path], boards: list[Board]) -> tuple[dict[str, tuple[Module, Used]], list[str]]:
    """By a name that tells the shape: the module, and where it is used at which clock; and why a model has no design on a board."""
    found: dict[str, tuple[Module, Used]] = {}

    def use(name: str, module: Module, board: Board, clock: int) -> None:
        used = found.setdefault(name, (module, []))[1]
        if (board, clock) not in used:
            used.append((board, clock))

    designs, refused = [], []
    for model in models:
        graph = read_source(find_source(model))
        for board in boards:
            try:
                designs.append((board, fit(graph, board).design))
            except ResourceExceeded as error:
                refused.append(f"{model}: {str(error).splitlines()[0]}")
    for board, design in designs:
        text = emit(design, "0", board).files["rtl/meadow_identity.v"]
        name = "meadow_identity"
        use(name, Module(name, (f"{name}.v",), texts={f"{name}.v": text}), board, design.clock_mhz)
        if design.engine(Array).prefix_codes:
            use("prefix_unpack", MODULES["prefix_unpack"], board, design.clock_mhz)
        if (shape := shape_of(design)) is not None:
            (clock,) = (e.clock(design) for e in design.engines if e.own_clock)
            use(_name(shape), gemv(shape), board, clock)
    if not models:
        for board in boards:
            use("prefix_unpack", MODULES["prefix_unpack"], board, board.clock_mhz)
            for shape in (SMALL, FEW):
                use(_name(shape), gemv(shape), board, board.pacq_clock_mhz)
    return found, refused


def clocks(used: Used) -> list[dict[str, Any]]:
    return [
        {"board": board.name, "clock_mhz": clock, "limit_ns": limit(board, clock)}
        for board, clock in sorted(used, key=lambda u: u[0].name)
    ]


def _name(shape: Shape | ColumnShape) -> str:
    sizes = (
        (shape.ports, shape.tokens) if isinstance(shape, ColumnShape) else (shape.ports, shape.lanes, shape.token_lanes)
    )
    return f"{shape.module}_{'x'.join(str(n) for n in sizes)}" + "_ultra" * shape.ultra


def gemv(shape: Shape | ColumnShape) -> Module:
    return Module(shape.module, shape.files, tuple(shape.parameters.items()))
