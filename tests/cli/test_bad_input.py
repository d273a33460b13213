# SPDX-License-Identifier: Apache-2.0
"""Bad input to every command: what was found, what was allowed, what to do; never a traceback, nothing half-written."""

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

FIXTURES = Path(__file__).parents[1] / "fixtures"


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


WRONG_KINDS = {
    "gguf": (b"GGUF\x03\0\0\0", "is not a whole GGUF file"),
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
def test_a_wrong_kind_of_file_is_named(kind: str, meadowc: Any, tmp_path: Path) -> None:
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
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [value("pixel_values", 1, [1, 3, 8, 8])],
        [value("out", 1, None)],
        [onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")],
    )
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

    monkeypatch.setattr("meadow.compiler.emit.save._write_weights", full)
    result = meadowc("compile", tiny_int8, "--board", "zcu102", "-o", tmp_path / "out" / "p")
    assert result.code == 5 and "No space left on device" in result.err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_keeps_the_package_that_was_there(
    meadowc: Any, tiny_package: Path, tiny_int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(tiny_package, tmp_path / "copy"))
    before = (copy / "manifest.json").read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("meadow.compiler.emit.save._write_weights", full)
    assert meadowc("compile", tiny_int8, "--board", "kv260", "-o", copy).code == 5
    assert (copy / "manifest.json").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_ctrl_c_in_the_middle_of_compiling_leaves_nothing(tiny_int8: Path, tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nimport meadow.compiler.emit.save as save\nreal = save._write_weights\n"
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
    from meadow.machine.instructions.quantize import Quantize

    healthy = Quantize.run
    monkeypatch.setattr(Quantize, "run", lambda self, f, m: healthy(self, f, m) if m.run.tokens > 1 else None)
    result = meadowc("verify", tiny_package, "--rungs", "emulator", "--limit", 1, "--tokens", 2)
    assert result.code == 4, result.err
    monkeypatch.setattr("meadow.runtime.check.selftest._weights", lambda session, healthy: (False, "broken"))
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
        ("convert", gguf, "-o", precious),
        ("convert", gguf, "-o", ""),
        ("convert", gguf, "-o", "."),
        ("convert", gguf, "-o", ".."),
        ("convert", gguf, "-o", gguf.parent),
        ("quantize", copy, "-o", copy),
        ("compile", copy, "--board", "zcu102", "-o", copy),
        ("compile", copy, "--board", "zcu102", "-o", tmp_path),
        ("convert", gguf, "-o", gguf),
        ("quantize", copy, "-o", gguf / "sub"),
    ):
        result = meadowc(*arguments)
        assert result.code == 2 and any(word in result.err for word in ("choose", "not replaced", "no name")), arguments
    assert (precious / "thesis.txt").read_text() == "years of work"
    assert sorted(p.name for p in copy.iterdir()) == sorted(p.name for p in tiny_int8.iterdir()) and gguf.is_file()


@pytest.mark.parametrize("text", ["[1,2", "[]", '[{"foo": 1}]', '{"a": 1}', '[{"text": 5}]'])
def test_a_file_that_is_no_prompt_list_is_refused(text: str, meadowc: Any, tiny_package: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("name", ["packing.json", "program.bin", "tokenizer/tokenizer.json", "hls/array.hpp"])
def test_any_damaged_file_of_a_package_is_named(name: str, meadowc: Any, tiny_package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_package, tmp_path / "copy"))
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 4
    write(copy / name, bytes(data))
    result = meadowc("run", copy, "-p", "x")
    assert result.code == 7 and (name in result.err or "damaged" in result.err)


@pytest.mark.parametrize(
    "change",
    [
        ("lut = 117120", "lut = true"),
        ("bandwidth_gb_s = 19.2", "bandwidth_gb_s = nan"),
        ("clock_mhz = 200", "clock_mhz = 0"),
        ('name = "kv260"', 'name = "../x"'),
        ('"HP0", "HP3"', '"HP0", "HP0"'),
    ],
)
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
