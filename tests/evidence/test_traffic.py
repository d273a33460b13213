# SPDX-License-Identifier: Apache-2.0
"""The bytes that the schedule predicts are those that the C++ counts at its ports, on every port, direction and role."""

from __future__ import annotations

from pathlib import Path

import pytest

from meadow import boards
from meadow.compiler.pipeline import Options, compile_model
from meadow.evidence.bench.traffic import measure
from meadow.machine.package.read import load

OPTIONS = {
    "four ports": ("zcu102", ()),
    "one port, odd block": ("kv260", (("weight_ports", 1), ("token_lanes", 4), ("block", 13), ("context", 150))),
    "two ports, one lane": ("kv260", (("weight_ports", 2), ("token_lanes", 1))),
}


@pytest.mark.csim
@pytest.mark.parametrize("packing", ["auto", "raw", "frequency"])
@pytest.mark.parametrize("dataflow", ["gemm", "tphs"])
@pytest.mark.parametrize("name", OPTIONS)
def test_predicted_bytes_are_counted(name: str, dataflow: str, packing: str, tiny_tensor: Path, tmp_path: Path) -> None:
    board, settings = OPTIONS[name]
    compile_model(tiny_tensor, boards.load(board), tmp_path / "made", Options(dataflow, packing, "", settings))
    rows = measure(load(tmp_path / "made"), dataflow, [1, 3, 16, 65, 100])
    assert len(rows) == 10
    for row in rows:
        assert row["predicted_bytes"] == row["counted_bytes"] and row["equal"], row
        assert (row["intermediate_bytes"] == 0) == (dataflow == "tphs")
        assert row["bursts"] <= row["counted_bytes"] // 16
        assert row["cycles_equal"], (row["predicted_cycles"], row["counted_cycles"])
        assert packing == "auto" or "unpack" in row["predicted_cycles"]  # prefix codes decide it themselves


@pytest.mark.csim
@pytest.mark.parametrize("dataflow", ["gemm", "tphs"])
@pytest.mark.parametrize("ports", [4, 1])
def test_predicted_bytes_of_columns_are_counted(ports: int, dataflow: str, tiny_int8: Path, tmp_path: Path) -> None:
    settings = (("column_ports", ports), ("column_tokens", 16), ("block", 16 - ports))
    compile_model(tiny_int8, boards.load("zcu102"), tmp_path / "made", Options(dataflow, settings=settings))
    for row in measure(load(tmp_path / "made"), dataflow, [1, 3, 16, 65, 100]):
        assert row["predicted_bytes"] == row["counted_bytes"] and row["equal"], row
        assert row["cycles_equal"], (row["predicted_cycles"], row["counted_cycles"])


@pytest.mark.csim
@pytest.mark.parametrize("dataflow", ["gemm", "tphs"])
@pytest.mark.parametrize("settings", [(), (("pacq_ports", 1), ("block", 13), ("context", 150))])
def test_predicted_bytes_of_grouped_weights_are_counted(
    settings: tuple[tuple[str, int], ...], dataflow: str, tiny_int4: Path, tmp_path: Path
) -> None:
    compile_model(tiny_int4, boards.load("zcu102"), tmp_path / "made", Options(dataflow, settings=settings))
    for row in measure(load(tmp_path / "made"), dataflow, [1, 3, 16, 65, 100]):
        assert row["predicted_bytes"] == row["counted_bytes"] and row["equal"], row
        assert row["cycles_equal"], (row["predicted_cycles"], row["counted_cycles"])
