# SPDX-License-Identifier: Apache-2.0
"""The command line: help with examples, JSON, exit codes, and one clear sentence for every bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from meadow.cli.bench import BENCHMARKS
from meadow.cli.main import COMMANDS

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(command: str, meadowc: Any) -> None:
    result = meadowc(command, "--help")
    assert (
        result.code == 0 and f"meadowc {command}" in result.out and "Example" in result.out and "--json" in result.out
    )


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_benchmark_shows_an_example(benchmark: str, meadowc: Any) -> None:
    result = meadowc("bench", benchmark, "--help")
    assert result.code == 0 and f"meadowc bench {benchmark}" in result.out and "--json" in result.out


def test_bench_packing_says_how_near_the_entropy_is(tiny_package: Path, meadowc: Any) -> None:
    found = meadowc("bench", "packing", tiny_package, "--no-simulate", "--json").json
    whole, rows = found["whole"], found["matrices"]
    assert found["kind"] == "measured" and whole["weights"] == sum(r["shape"][0] * r["shape"][1] for r in rows)
    assert 0.8 < whole["share_of_bound"] <= 1 and whole["entropy_bits"] <= whole["bits_per_weight"]
    assert set(whole["published_bits"]) == {"naive", "packets", "frequency"}
    assert all(r["scheme"] == "prefix codes" and r["weights_per_cycle"] > 0 for r in rows)
    assert "of the bound" in meadowc("bench", "packing", tiny_package, "--no-simulate").out


@pytest.mark.csim
def test_bench_traffic_finds_prediction_and_count_equal(tiny_package: Path, meadowc: Any) -> None:
    found = meadowc("bench", "traffic", tiny_package, "--prompts", "5,70", "--json").json
    assert found["equal"] and len(found["rows"]) == 8
    assert {r["dataflow"]: r["intermediate_bytes"] > 0 for r in found["rows"]} == {"tphs": False, "gemm": True}
    assert meadowc("bench", "traffic", tiny_package, "--prompts", "5,x").code == 2
    assert "the context is 128" in meadowc("bench", "traffic", tiny_package, "--prompts", "500").err


@pytest.mark.csim
def test_bench_emulator_sets_every_runner_beside_onnxruntime(tiny_package: Path, meadowc: Any) -> None:
    found = meadowc("bench", "emulator", tiny_package, "--prompt", 8, "--tokens", 2, "--repeats", 1, "--json").json
    assert found["kind"] == "measured" and set(found["ratio_to_onnxruntime"]) == {"emulator", "csim"}
    for row in found["runners"].values():
        assert row["prefill"]["tokens_per_s"] > 0 and row["decode"]["tokens_per_s"] > 0
    assert found["bounds"]["emulator_decode"]["share"] > 0
    assert meadowc("bench", "emulator", tiny_package, "--prompt", 500).code == 2


def test_bench_paper_labels_what_is_modelled_and_reported(meadowc: Any) -> None:
    found = meadowc("bench", "paper", "--no-today", "--json").json
    assert set(found["kind"]) == {"modelled", "published"}
    assert all({"figure", "modelled", "published"} <= set(row) for row in found["rows"])


def test_no_command_is_no_error_and_a_wrong_one_is(meadowc: Any) -> None:
    assert "Examples:" in meadowc("--help").out
    assert meadowc("--version").out.startswith("meadowc, version ")
    assert meadowc("fly").code == 2


def test_from_gguf_to_text(meadowc: Any, tmp_path: Path) -> None:
    converted = meadowc("convert", FIXTURES / "tiny.gguf", "-o", tmp_path / "tiny", "--json")
    assert converted.code == 0 and converted.json["types"] == {"f16": 29}
    quantized = meadowc("quantize", tmp_path / "tiny", "-o", tmp_path / "q", "--json")
    assert quantized.json["matrices"] == 29
    compiled = meadowc("compile", tmp_path / "q" / "model.onnx", "--board", "kv260", "-o", tmp_path / "p", "--json")
    assert compiled.json["decode"]["kind"] == "modelled" and compiled.json["up_to_date"] is False
    assert meadowc("compile", tmp_path / "q", "--board", "kv260", "-o", tmp_path / "p").out.count("up to date") == 1
    answer = meadowc("run", tmp_path / "p", "-p", "Alice was beginning to", "-n", 12, "--json").json
    assert answer["emulated"] and answer["text"].startswith(" the\nQueen to the Queen")
    plain = meadowc("run", tmp_path / "p", "-p", "Alice was beginning to", "-n", 5)
    assert "EMULATED kv260" in plain.err and "(modelled)" in plain.err and "(measured here, emulator)" in plain.err


def test_what_compile_says_at_the_end(meadowc: Any, tiny_int8: Path, tmp_path: Path, golden: Any) -> None:
    result = meadowc("compile", tiny_int8, "--board", "zcu102", "-o", tmp_path / "p")
    lines = [line.rstrip() for line in result.out.replace(str(tmp_path), "TMP").splitlines()]
    golden.check("\n".join(line for line in lines if "design " not in line) + "\n")
    more = meadowc("compile", tiny_int8, "--board", "zcu102", "-o", tmp_path / "q", "-v")
    lines = [line.rstrip() for line in more.out.replace(str(tmp_path), "TMP").splitlines()]
    golden.check("\n".join(line for line in lines if "design " not in line) + "\n", " -v")
    assert (
        meadowc("-v", "compile", tiny_int8, "--board", "zcu102", "-o", tmp_path / "q").code == 0
    )  # before the command too


@pytest.mark.csim
def test_verify_finds_the_tiny_model_in_order(meadowc: Any, tiny_package: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"text": "Alice was beginning to", "raw": True}]))
    result = meadowc("verify", tiny_package, "--tokens", 4, "--prompts", prompts, "--json")
    found = result.json
    assert result.code == 0 and found["bit_exact"] and found["same_tokens"] and found["flipped_bit_detected"]
    assert found["prompts"][0]["onnx"] == found["prompts"][0]["graph"] == found["prompts"][0]["emulator"]
    assert meadowc("verify", tiny_package, "--rungs", "magic").code == 2


def test_eval_gives_the_ratio_to_onnxruntime(meadowc: Any, tiny_package: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Alice was beginning to get very tired of sitting by her sister on the bank. " * 40)
    found = meadowc("eval", tiny_package, "--text", text, "--windows", 2, "--window-tokens", 64, "--json").json
    assert found["kind"] == "measured" and 0.9 < found["ratio"] < 1.1
    assert meadowc("eval", tiny_package, "--text", text, "--windows", 999).code == 2


def test_inspect_says_what_a_model_is_and_whether_it_compiles(
    meadowc: Any, tiny: Path, tiny_int8: Path, tmp_path: Path
) -> None:
    good = meadowc("inspect", tiny_int8, "--json")
    assert (
        good.code == 0
        and good.json["compilable"]
        and good.json["family"] == "LLaMA"
        and good.json["quantized_share"] == 1
    )
    assert [row["matrices"] for row in good.json["weights"]] == [1, 28]
    float_model = meadowc("inspect", tiny)
    assert float_model.code == 3 and "compilable: no" in float_model.out and "meadowc quantize" in float_model.out
    export = meadowc("inspect", FIXTURES / "exports" / "optimum-18.onnx", "--json").json
    assert export["producer"] == "pytorch" and export["quantized_share"] == 0 and not export["compilable"]
    node = onnx.helper.make_node("Conv", ["pixel_values", "w"], ["out"], name="conv0")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [value("pixel_values", 1, [1, 3, 8, 8])],
        [value("out", 1, None)],
        [onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")],
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "vision.onnx")
    vision = meadowc("inspect", tmp_path / "vision.onnx", "--json")
    assert vision.code == 3 and vision.json["family"] is None and len(vision.json["problems"]) == 4


def test_selftest_doctor_and_boards(meadowc: Any, tiny_package: Path) -> None:
    assert meadowc("selftest", tiny_package, "--json").json["passed"]
    assert meadowc("doctor", "--json").json["can_run"]


def test_boards_say_what_fits_and_refuse_with_numbers(meadowc: Any, tiny_int8: Path, tmp_path: Path) -> None:
    found = {b["name"]: b for b in meadowc("boards", tiny_int8, "--json").json["boards"]}
    assert set(found) >= {"zcu102", "zcu104", "kv260", "kr260", "ultra96v2"} and found["zcu102"]["image"] == "none"
    assert found["kv260"]["model"]["decode_tokens_per_s"] > 0 and found["kv260"]["model"]["kind"] == "modelled"
    assert "64-bit memory ports and 2.1 GB/s" in found["pynq_z2"]["model"]["refused"]
    small = tmp_path / "small.toml"
    text = (Path(__file__).parents[2] / "boards" / "kv260.toml").read_text().replace('name = "kv260"', 'name = "small"')
    small.write_text(text.replace("dram_bytes = 3758096384", "dram_bytes = 900000"))
    result = meadowc("boards", tiny_int8, "--board", small)
    assert (
        result.code == 0
        and "MB of KV cache for a context of" in result.out
        and "has 1 MB; this would fit" in result.out
    )
    shown = meadowc("boards").out
    assert (
        "billion INT4 weights" in shown
        and "build one from the ZCU102 BSP" in shown
        and "nothing here has run on hardware" in shown
    )


# -- bad input -----------------------------------------------------------------------------------------------------
