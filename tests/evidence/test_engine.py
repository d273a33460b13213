# SPDX-License-Identifier: Apache-2.0
"""pacq_gemv and column_gemm in Verilator, as verify and the benchmarks run it, on the tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from meadow import boards
from meadow.compiler.pipeline import Options, compile_model
from meadow.evidence.bench import decode
from meadow.evidence.ladder.verilog import check
from meadow.machine.package.read import load, manifest_digest, sha256

SMALL = {
    "pacq_gemv": Options(settings=(("pacq_ports", 1), ("pacq_tokens", 1), ("pacq_fifo", 128), ("block", 16))),
    "column_gemm": Options(
        settings=(("column_ports", 2), ("column_tokens", 8), ("column_fifo", 128), ("block", 8)),
    ),
}
BROKEN = {
    "pacq_gemv": (
        "rtl/pacq_scale.v",
        "first_q <= {first_q[LATENCY-2:0], first_i};",
        "first_q <= {first_q[LATENCY-2:0], 1'b1};",
    ),
    "column_gemm": ("rtl/column_issue.v", "begin_o <= first_q;", "begin_o <= 1'b1;"),
}


@pytest.fixture(scope="module", params=SMALL)
def package(
    request: pytest.FixtureRequest, tiny_int4: Path, tiny_int8: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("engine") / str(request.param)
    model = tiny_int4 if request.param == "pacq_gemv" else tiny_int8
    compile_model(model, boards.load("zcu102"), folder, SMALL[request.param])
    return folder


@pytest.mark.csim
def test_the_verilog_gives_the_emulators_bits_and_its_cycles_are_counted(package: Path, meadowc: Any) -> None:
    told: list[str] = []
    made = load(package)
    rows = check(made, told.append)
    assert len(rows) == 2 * (3 * 6 + 1) and all(row["same"] for row in rows)
    assert {row["tokens"] for row in rows} == {1, 5}
    bus = meadowc("bench", "bus", package, "--json").json
    assert all(row["bits_as_the_emulator"] for row in bus["rows"]) and 0 < bus["ddr4"] <= 1 and bus["ideal"] <= 1
    found = decode.measure(made, boards.load("zcu102"), 64)
    assert 0 < found["share_of_roofline"] < 1
    assert abs(sum(part["seconds"] for part in found["parts"]) - found["seconds"]) < 1e-9
    assert {part["kind"] for part in found["parts"]} == {"simulated", "modelled"}
    prompt = meadowc("bench", "prefill", package, "--prompt", "40", "--json").json
    assert 0 < prompt["share_of_fabric"] < prompt["share_of_array"] < 1
    assert abs(sum(part["seconds"] for part in prompt["parts"]) - prompt["seconds"]) < 1e-9
    assert prompt["cycles"] > 0 and prompt["predicted_cycles"] > 0 and prompt["energy_mj_per_token"] > 0


def test_a_design_without_an_engine_in_verilog_is_refused(tiny_package: Path, meadowc: Any) -> None:
    for command in (
        ("bench", "bus"),
        ("bench", "decode"),
        ("bench", "prefill"),
        ("verify", "--rungs", "emulator,rtl", "--limit", "1", "--tokens", "1"),
        ("cosim",),
    ):
        result = meadowc(*command, tiny_package)
        assert result.code == 2 and "no engine in Verilog" in result.err


@pytest.mark.csim
def test_driver_registers_streams_and_verilog_agree_and_a_fault_in_the_verilog_shows(
    package: Path, meadowc: Any, tmp_path: Path
) -> None:
    pytest.importorskip("pynq")
    result = meadowc("cosim", package, "--json")
    assert result.code == 0 and result.json["agree"] and result.json["cycles"] >= result.json["counters"]["CYCLES"] > 0
    assert result.json["counters"]["COMMANDS"] == result.json["commands"] == 6
    assert result.json["predicted_beats"][0] == result.json["counters"]["BEATS0"] > 0
    broken = tmp_path / "broken"
    shutil.copytree(package, broken)
    name, right, wrong = BROKEN[package.name]
    text = (broken / name).read_text()
    assert text.count(right) == 1
    (broken / name).write_text(text.replace(right, wrong))
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["files"][name] = sha256(broken / name)
    manifest["digest"] = manifest_digest(manifest)
    (broken / "manifest.json").write_text(json.dumps(manifest))
    result = meadowc("cosim", "--trust", broken)
    assert result.code == 4 and "DIFFER: bits after each layer" in result.out and "layer 0: differs from" in result.out
