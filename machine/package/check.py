# SPDX-License-Identifier: Apache-2.0
"""Is a program one that the engine may run?  Each step's limits, how far its operands reach, which matrix it streams.

Part of read.py, and asked whenever a package is opened: on a board a wrong program writes over somebody else's memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meadow.machine import isa
from meadow.machine.engines.table import engine_of
from meadow.machine.errors import DeviceError
from meadow.machine.instructions import table
from meadow.machine.instructions.instruction import Extent
from meadow.machine.instructions.table import extents
from meadow.machine.isa import Epilogue
from meadow.machine.storage.rows import padded

if TYPE_CHECKING:
    from meadow.machine.package.read import Package


def check_slot(package: Package, chunk: int, offset: int, length: int, what: str) -> None:
    if not 0 <= chunk < len(package.chunks) or not 0 <= offset <= offset + length <= package.chunks[chunk].length:
        raise DeviceError(f"{package.folder}: {what} lies outside of its memory; the package is damaged, compile again")


def check_program(package: Package, name: str) -> None:
    """Raise DeviceError unless a program's fields keep the design's limits and its slots their chunks.

    The engine trusts its program: a wrong one would write over other memory of the board.
    """
    design = package.design
    limits = {
        "cols": max(design.max_cols, padded(package.manifest["model"]["dim"], 32)),
        "head_dim": design.max_head_dim,
        "tile_rows": design.max_tile_rows,
        "capacity": padded(design.context, 8),
        "block": padded(design.block, 4),
        "row": padded(design.context, 8),
    }
    try:
        steps = table.decode(package.program(name))
    except ValueError as error:
        raise DeviceError(f"{package.folder}: the program {name} is damaged: {error}; compile again") from None
    rows_of = {tuple(row["streams"][0][:2]): row for row in package.packing() if row["streams"]}
    for number, (opcode, fields) in enumerate(steps):
        where = f"step {number} of {name} ({opcode.name.lower()})"
        for key, limit in limits.items():
            if key in fields and not 0 <= fields[key] <= limit:
                raise DeviceError(
                    f"{package.folder}: {where}: {key} is {fields[key]}, at most {limit} is allowed; compile again"
                )
        for key in ("rows", "cols", "tile_rows", "heads", "kv_heads", "head_dim"):
            needed = key != "head_dim" or fields.get("epilogue", Epilogue.HEADS) in (
                Epilogue.HEADS,
                Epilogue.ROPE_HEADS,
            )
            if key in fields and needed and fields[key] < 1:
                raise DeviceError(
                    f"{package.folder}: {where}: {key} is {fields[key]}; it must be positive; compile again"
                )
        if "weights0" in fields:
            _check_engine(package, fields, where)
        if "kv_heads" in fields and (not fields["kv_heads"] or fields["heads"] % fields["kv_heads"]):
            raise DeviceError(
                f"{package.folder}: {where}: {fields['heads']} heads over {fields['kv_heads']}; compile again"
            )
        _check_extents(package, opcode, fields, where)
        if "weights0" in fields:
            _check_matrix(package, rows_of, fields, where)
    _check_kept(package, steps, name)


def _check_extents(package: Package, opcode: isa.Opcode, fields: dict[str, isa.Value], where: str) -> None:
    """Every operand must lie in one chunk of its kind, and what is written apart from everything else the step touches."""
    spans: list[tuple[int, int, int, Extent]] = []
    try:
        for extent in extents(opcode, fields, package.design, package.packed_beats):
            chunk, offset = isa.unpack_slot(int(fields[extent.field]))
            what = f"{where}: {extent.field}"
            check_slot(package, chunk, offset, extent.bytes, what)
            kind = package.chunks[chunk].kind
            if kind not in extent.kinds:
                raise DeviceError(
                    f"{package.folder}: {what} lies in {kind}, not in {' or '.join(extent.kinds)}; compile again"
                )
            spans.append((chunk, offset, offset + extent.bytes, extent))
    except ValueError as error:
        raise DeviceError(f"{package.folder}: {where}: {error}; compile again") from None
    for chunk, begin, end, extent in spans:
        for other_chunk, other_begin, other_end, other in spans:
            if extent.over == other.field and (chunk, begin, end) == (other_chunk, other_begin, other_end):
                continue
            if other.over == extent.field and (chunk, begin, end) == (other_chunk, other_begin, other_end):
                continue
            if (
                extent.written
                and other is not extent
                and chunk == other_chunk
                and begin < other_end
                and other_begin < end
            ):
                raise DeviceError(
                    f"{package.folder}: {where}: {extent.field} is written over {other.field}; compile again"
                )


def _check_matrix(
    package: Package, rows_of: dict[tuple[int, int], dict[str, Any]], f: dict[str, isa.Value], where: str
) -> None:
    """A step streams one whole matrix of packing.json, as it was packed."""
    row = rows_of.get(isa.unpack_slot(int(f["weights0"])))
    if row is None:
        raise DeviceError(f"{package.folder}: {where}: weights0 is not where a matrix begins; compile again")
    wanted: dict[str, Any] = {
        "rows": row["rows"],
        **{f"weights{port}": tuple(place[:2]) for port, place in enumerate(row["streams"])},
        **engine_of(row["format"]).fields_of(row, lambda key: tuple(row[key][:2])),
    }
    implied = {"rows": int(f.get("heads", 0)) * int(f.get("head_dim", 0)), "tile_rows": f.get("head_dim")}
    wrong = []
    ports = package.design.engine(engine_of(row["format"])).ports
    if row["ports"] != ports:
        wrong.append(f"ports is {row['ports']}, the design has {ports}")
    wrong += engine_of(row["format"]).row_problems(row)
    stored = engine_of(row["format"]).stored_word(int(f["format"]))
    if stored != row["format"]:
        wrong.append(f"format is {stored}, the matrix has {row['format']}")
    for key, value in wanted.items():
        word = f.get(key, implied.get(key))
        found = isa.unpack_slot(int(word)) if isinstance(value, tuple) and word is not None else word
        if found != value:
            wrong.append(f"{key} is {found}, the matrix has {value}")
    if wrong:
        raise DeviceError(
            f"{package.folder}: {where}: {row['name']} is read otherwise than it was packed: {'; '.join(wrong)}; compile again"
        )


def _check_kept(package: Package, steps: list[tuple[isa.Opcode, dict[str, isa.Value]]], name: str) -> None:
    """Activations that an engine takes from the linear before must be that linear's, which leaves them there."""
    before: dict[str, isa.Value] | None = None
    grouped = [(number, f) for number, (_, f) in enumerate(steps) if "hold" in f and engine_of(int(f["format"])).keeps]
    for number, f in grouped:
        left = before is not None and before["hold"] == 1
        same = before is not None and all(before[key] == f[key] for key in ("codes", "cols", "format"))
        if f["reuse"] != int(left) or f["hold"] not in (0, 1) or (left and not same):
            raise DeviceError(
                f"{package.folder}: step {number} of {name}: activations kept and taken do not go together; compile again"
            )
        before = f
    if before is not None and before["hold"]:
        raise DeviceError(f"{package.folder}: {name} ends with activations kept for nobody; compile again")


def _check_engine(package: Package, fields: dict[str, isa.Value], where: str) -> None:
    """The design must have the engine that takes the weights, and the engine must take them in tiles of so many rows."""
    rows = int(fields.get("tile_rows", fields["head_dim"]))
    try:
        problems = package.design.streams(int(fields["format"])).problems(fields, rows, package.design)
    except ValueError as error:
        problems = [str(error)]
    if problems:
        raise DeviceError(f"{package.folder}: {where}: {'; '.join(problems)}; compile again")
