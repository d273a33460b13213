# SPDX-License-Identifier: Apache-2.0
"""cocotb: tiles of a compiled model through prefix_unpack, equal to what the package holds.  MEADOW_PACKAGE names it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from rtl.bench_prefix_unpack import Bench

from meadow.compiler.engines.array import Packed
from meadow.machine.package.read import load
from meadow.machine.storage.coded import Coded, format_of
from meadow.machine.storage.prefix import Prefix
from meadow.machine.storage.rows import Layout

MATRICES = 4


@cocotb.test()
async def segments_of_the_model_come_back(dut: Any) -> None:
    """The last segment of port 0, of some matrices."""
    package = load(Path(os.environ["MEADOW_PACKAGE"]))
    whole = np.memmap(package.file("weights.bin"), np.uint8, "r")

    def take(place: list[int]) -> Any:
        start = package.manifest["chunks"][place[0]]["file_offset"] + place[1]
        return np.array(whole[start : start + place[2]])

    bench = Bench(dut)
    await bench.reset()
    rows = [r for r in package.packing() if isinstance(format_of(r["format"]), Prefix)]
    assert rows, "the package has no matrix in prefix codes"
    for row in rows[:: max(1, len(rows) // MATRICES)][:MATRICES]:
        layout = Layout(row["rows"], row["cols"], row["ports"], row["tile_rows"])
        codes = package.matrix(row).codes
        form = format_of(row["format"])
        assert isinstance(form, Prefix)
        tile = (layout.tiles - 1) // form.segment * form.segment
        mine = codes[tile * layout.tile_rows :][:: layout.ports]
        directory = (
            take(row["directory"]).view(np.uint32)[: layout.tiles * layout.ports].reshape(-1, layout.ports)[:, :1]
        )
        first = int(directory[:tile].sum()) * 16
        stream = take(row["streams"][0])[first : first + int(directory[tile:].sum()) * 16]
        one = Layout(len(mine), layout.padded_cols, 1, layout.tile_rows // layout.ports)
        table = take(row["table"])[: form.table_bytes(row["entries"])]
        packed = Packed(one, form, Coded((stream,), directory[tile:], table, row["entries"]), 0.0)
        await bench.load(packed)
        assert (await bench.unpack(packed) == mine).all(), row["name"]
        dut._log.info("%s: tiles from %d on, %d beats, equal", row["name"], tile, directory[tile:].sum())
