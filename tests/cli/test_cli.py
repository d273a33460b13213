# SPDX-License-Identifier: Apache-2.0
"""The command line: help with examples, JSON, exit codes, and one clear sentence for every bad input."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
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
    graph = onnx.helper.make_graph([node], "g", [value("pixel_values", 1, [1, 3, 8, 8])], [value("out", 1, None)],
                                   [onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")])  # fmt: skip
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
    assert result.code == 0 and "MB of weights and KV cache" in result.out and "has 1 MB for them" in result.out
    shown = meadowc("boards").out
    assert (
        "billion INT4 weights" in shown
        and "build one from the ZCU102 BSP" in shown
        and "nothing here has run on hardware" in shown
    )


def test_chat_answers_line_by_line(
    meadowc: Any, tiny_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert meadowc("chat", tiny_package).code == 2
    copy = Path(shutil.copytree(tiny_package, tmp_path / "copy"))
    (copy / "tokenizer" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    lines = iter(["Alice was", "The Queen", ""])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines))
    found = meadowc("chat", copy, "-n", 4, "--json").json
    assert [m["role"] for m in found["messages"]] == ["user", "assistant"] * 2


# -- bad input -----------------------------------------------------------------------------------------------------


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


WRONG_KINDS = {
    "gguf": (b"GGUF\x03\0\0\0", "is a GGUF file; convert it first: meadowc convert"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "is a Git LFS pointer of 56 bytes, not the model itself",
    ),
    "pytorch": (b"PK\x03\x04rest", "is a PyTorch or zip archive; export it to ONNX first"),
    "pickle": (b"\x80\x02}q\x00.", "is a Python pickle"),
    "text": (b"hello, this is no model at all", "is not a whole ONNX file"),
    "empty": (b"", "is empty"),
}


@pytest.mark.parametrize("kind", WRONG_KINDS)
def test_a_wrong_kind_of_file_is_called_what_it_is(kind: str, meadowc: Any, tmp_path: Path) -> None:
    data, sentence = WRONG_KINDS[kind]
    result = meadowc("compile", write(tmp_path / "model.onnx", data), "--board", "zcu102", "-o", tmp_path / "p")
    assert result.code == 2 and sentence in result.err and not (tmp_path / "p").exists()


def test_a_missing_file_and_a_folder_without_a_model(meadowc: Any, tmp_path: Path) -> None:
    assert "does not exist" in meadowc("compile", tmp_path / "no.onnx", "--board", "zcu102").err
    result = meadowc("compile", tmp_path, "--board", "zcu102")
    assert result.code == 2 and "holds no .onnx files" in result.err


def test_a_vision_model_exits_with_3_and_a_table(meadowc: Any, tmp_path: Path) -> None:
    node = onnx.helper.make_node("Conv", ["pixel_values", "w"], ["out"], name="conv0")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("pixel_values", 1, [1, 3, 8, 8])], [value("out", 1, None)],
                                   [onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")])  # fmt: skip
    onnx.save(onnx.helper.make_model(graph), tmp_path / "vision.onnx")
    result = meadowc("compile", tmp_path / "vision.onnx", "--board", "zcu102", "--json")
    assert result.code == 3 and result.json["exit_code"] == 3 and len(result.json["problems"]) == 4


def test_an_encoder_exits_with_3(meadowc: Any, tmp_path: Path) -> None:
    model = onnx.load(FIXTURES / "exports" / "dynamo-eager-20.onnx")
    for output in model.graph.output:
        if output.name == "logits":
            output.name = "last_hidden_state"
    for node in model.graph.node:
        node.output[:] = ["last_hidden_state" if o == "logits" else o for o in node.output]
    onnx.save(model, tmp_path / "encoder.onnx")
    result = meadowc("compile", tmp_path / "encoder.onnx", "--board", "zcu102")
    assert result.code == 3 and "this looks like an encoder" in result.err


@pytest.fixture
def int8_copy(tiny_int8: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_int8, tmp_path / "model"))


def test_a_truncated_model_is_refused(int8_copy: Path, meadowc: Any) -> None:
    data = (int8_copy / "model.onnx").read_bytes()
    write(int8_copy / "model.onnx", data[: len(data) // 2])
    result = meadowc("compile", int8_copy, "--board", "zcu102")
    assert result.code == 2 and "not a whole ONNX file" in result.err


def test_external_data_that_is_missing_or_short(int8_copy: Path, meadowc: Any) -> None:
    data = (int8_copy / "model.onnx.data").read_bytes()
    write(int8_copy / "model.onnx.data", data[:1000])
    assert "truncated" in meadowc("compile", int8_copy, "--board", "zcu102").err
    (int8_copy / "model.onnx.data").unlink()
    result = meadowc("compile", int8_copy, "--board", "zcu102")
    assert result.code == 2 and "is missing; it must lie beside the .onnx file" in result.err


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd"])
def test_external_data_outside_the_folder(location: str, int8_copy: Path, meadowc: Any) -> None:
    model = onnx.load(int8_copy / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (int8_copy / "model.onnx").write_bytes(model.SerializeToString())
    write(int8_copy.parent / "secret", b"x" * 10_000_000)
    result = meadowc("compile", int8_copy, "--board", "zcu102")
    assert result.code == 2 and "lies outside the model's folder" in result.err


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e30])
def test_absurd_scales_are_named(value: float, int8_copy: Path, meadowc: Any) -> None:
    model = onnx.load(int8_copy / "model.onnx")
    scale = next(t for t in model.graph.initializer if t.name == "blk.1.attn_k.weight.scale")
    values = onnx.numpy_helper.to_array(scale).copy()
    values[3] = value
    scale.CopyFrom(onnx.numpy_helper.from_array(values, scale.name))
    onnx.save(model, int8_copy / "model.onnx")
    result = meadowc("compile", int8_copy, "--board", "zcu102", "-o", int8_copy.parent / "p")
    assert result.code == 3 and "blk.1.attn_k.weight: has scales from" in result.err
    assert not (int8_copy.parent / "p").exists()


def test_a_prompt_longer_than_the_context(meadowc: Any, tiny_package: Path) -> None:
    result = meadowc("run", tiny_package, "-p", "Alice " * 200)
    assert result.code == 2 and "more than the context of 128 that was compiled" in result.err


def test_a_model_too_large_for_the_board(meadowc: Any, tiny_int8: Path, tmp_path: Path) -> None:
    from meadow import boards

    text = (Path(boards.__file__).parent / "zcu102.toml").read_text()
    board = tmp_path / "small.toml"
    board.write_text(text.replace("dram_bytes = 3758096384", "dram_bytes = 1000000"))
    result = meadowc("compile", tiny_int8, "--board", board, "-o", tmp_path / "p")
    assert result.code == 5 and "a shorter context" in result.err and not (tmp_path / "p").exists()


def test_packages_that_are_corrupt_or_old(meadowc: Any, tiny_package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_package, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "format_version": 0}))
    result = meadowc("run", copy, "-p", "x")
    assert result.code == 7 and "compile the model again" in result.err
    write(copy / "manifest.json", b"\0\0")
    assert meadowc("run", copy, "-p", "x").code == 7
    assert meadowc("run", tmp_path, "-p", "x").code == 2


def test_a_full_disk_leaves_nothing(
    meadowc: Any, tiny_int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("meadow.compiler.save._write_weights", full)
    result = meadowc("compile", tiny_int8, "--board", "zcu102", "-o", tmp_path / "out" / "p")
    assert result.code == 5 and "No space left on device" in result.err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_keeps_the_package_that_was_there(meadowc: Any, tiny_package: Path, tiny_int8: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    copy = Path(shutil.copytree(tiny_package, tmp_path / "copy"))
    before = (copy / "manifest.json").read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("meadow.compiler.save._write_weights", full)
    assert meadowc("compile", tiny_int8, "--board", "kv260", "-o", copy).code == 5
    assert (copy / "manifest.json").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_ctrl_c_in_the_middle_of_compiling_leaves_nothing(tiny_int8: Path, tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nimport meadow.compiler.save as save\nreal = save._write_weights\n"
        "def slow(*a):\n    print('writing', flush=True); time.sleep(30); return real(*a)\n"
        "save._write_weights = slow\nfrom meadow.cli.main import main\nmain(sys.argv[1:])\n"
    )
    target = tmp_path / "out" / "p"
    command = [sys.executable, "-c", code, "compile", str(tiny_int8), "--board", "zcu102", "-o", str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "interrupted; nothing half-written was kept" in err and "Traceback" not in err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failed_verification_ends_with_4(meadowc: Any, tiny_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from meadow.runtime.emulator import Emulator

    healthy = Emulator._quantize
    monkeypatch.setattr(Emulator, "_quantize", lambda self, f: healthy(self, f) if self.run.tokens > 1 else None)
    assert meadowc("verify", tiny_package, "--rungs", "emulator", "--limit", 1, "--tokens", 2).code == 4
    monkeypatch.setattr("meadow.runtime.selftest._weights", lambda session, healthy: (False, "broken"))
    assert meadowc("selftest", tiny_package).code == 4


def test_a_folder_that_is_not_ours_is_never_replaced(
    meadowc: Any, tiny_int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "docs"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    copy = Path(shutil.copytree(tiny_int8, tmp_path / "model"))
    gguf = tmp_path / "here" / "tiny.gguf"
    gguf.parent.mkdir()
    shutil.copyfile(FIXTURES / "tiny.gguf", gguf)
    monkeypatch.chdir(precious)
    for arguments in (
        ("convert", gguf, "-o", precious), ("convert", gguf, "-o", ""), ("convert", gguf, "-o", "."), ("convert", gguf, "-o", ".."),
        ("convert", gguf, "-o", gguf.parent), ("quantize", copy, "-o", copy), ("compile", copy, "--board", "zcu102", "-o", copy),
        ("compile", copy, "--board", "zcu102", "-o", tmp_path), ("convert", gguf, "-o", gguf), ("quantize", copy, "-o", gguf / "sub"),
    ):  # fmt: skip
        result = meadowc(*arguments)
        assert result.code == 2 and any(word in result.err for word in ("choose", "not replaced", "no name")), arguments
    assert (precious / "thesis.txt").read_text() == "years of work"
    assert sorted(p.name for p in copy.iterdir()) == sorted(p.name for p in tiny_int8.iterdir()) and gguf.is_file()


@pytest.mark.parametrize("text", ["[1,2", "[]", '[{"foo": 1}]', '{"a": 1}', '[{"text": 5}]'])
def test_a_prompt_list_that_is_none(text: str, meadowc: Any, tiny_package: Path, tmp_path: Path) -> None:
    write(tmp_path / "p.json", text.encode())
    assert meadowc("verify", tiny_package, "--rungs", "emulator", "--prompts", tmp_path / "p.json").code == 2


def test_options_and_text_out_of_range(meadowc: Any, tiny_package: Path, tmp_path: Path) -> None:
    for arguments in (("--temperature", "nan"), ("--temperature", "1", "--seed", "-1"), ("--top-p", "0")):
        assert meadowc("run", tiny_package, "-p", "hi", *arguments).code == 2
    assert meadowc("run", tiny_package, "-p", "\udcff\udcfe").code == 2
    assert meadowc("run", tiny_package, "-p", "").code == 2
    assert meadowc("verify", tiny_package, "--reference", "/nope").code == 2
    write(tmp_path / "binary.txt", b"\xff\xfe\x00")
    assert meadowc("eval", tiny_package, "--text", tmp_path / "binary.txt").code == 2


@pytest.mark.parametrize("name", ["packing.json", "program.bin", "tokenizer/tokenizer.json", "hls/linear.hpp"])
def test_any_damaged_file_of_a_package_is_named(name: str, meadowc: Any, tiny_package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_package, tmp_path / "copy"))
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 4
    write(copy / name, data)
    result = meadowc("run", copy, "-p", "x")
    assert result.code == 7 and (name in result.err or "damaged" in result.err)


@pytest.mark.parametrize("change", [("lut = 117120", "lut = true"), ("bandwidth_gb_s = 19.2", "bandwidth_gb_s = nan"),
                                    ("clock_mhz = 200", "clock_mhz = 0"), ('name = "kv260"', 'name = "../x"'),
                                    ('"HP0", "HP3"', '"HP0", "HP0"')])  # fmt: skip
def test_a_board_of_nonsense_is_refused(change: tuple[str, str], meadowc: Any, tiny_int8: Path, tmp_path: Path) -> None:
    from meadow import boards

    text = (Path(boards.__file__).parent / "kv260.toml").read_text()
    assert change[0] in text
    write(tmp_path / "b.toml", text.replace(*change).encode())
    assert meadowc("compile", tiny_int8, "--board", tmp_path / "b.toml", "-o", tmp_path / "p").code == 2


def test_settings_that_are_no_numbers(meadowc: Any, tiny_int8: Path) -> None:
    result = meadowc("compile", tiny_int8, "--board", "zcu102", "--set", "context=many")
    assert result.code == 2 and "a whole number N is expected" in result.err
    both = meadowc(
        "compile", tiny_int8, "--board", "zcu102", "--set", "block=-1", "--set", "context=64", "--set", "context=32"
    )
    assert both.code == 2 and "block=-1" in both.err and "context is given twice, 64 and 32" in both.err
    assert "settable are" in meadowc("compile", tiny_int8, "--board", "zcu102", "--set", "lanes=4").err


def test_a_package_is_no_model_and_says_so(meadowc: Any, tiny_package: Path) -> None:
    result = meadowc("inspect", tiny_package)
    assert result.code == 2 and "is a compiled package" in result.err and "meadowc report" in result.err


def test_a_source_that_changed_is_not_compared_with(meadowc: Any, tiny_int8: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_int8, tmp_path / "model"))
    assert meadowc("compile", model, "--board", "zcu102", "-o", tmp_path / "p").code == 0
    with (model / "model.onnx").open("ab") as file:
        file.write(b"\0")
    result = meadowc("verify", tmp_path / "p")
    assert result.code == 2 and "has changed since the package was compiled" in result.err


def test_an_error_in_json_is_one_object(meadowc: Any, tmp_path: Path) -> None:
    result = meadowc("run", tmp_path, "-p", "x", "--json")
    assert result.code == 2 and set(result.json) == {"error", "exit_code"} and result.err == ""


def test_an_output_path_with_spaces(meadowc: Any, tiny_int8: Path, tmp_path: Path) -> None:
    target = tmp_path / "a folder with spaces" / "my package"
    assert meadowc("compile", tiny_int8, "--board", "zcu102", "-o", target).code == 0
    assert meadowc("run", target, "-p", "Alice", "-n", 2).code == 0
