# SPDX-License-Identifier: Apache-2.0
"""Files from outside, damaged in every way: an error of meadow's own with the file's name, never a traceback or a hang."""

from __future__ import annotations

import json
import os
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
from fuzz import damage
from onnx import helper

from meadow.compiler.models import convert
from meadow.compiler.sources.onnx.read import read
from meadow.machine.errors import DeviceError, MeadowError, UsageError
from meadow.machine.guard import guard
from meadow.machine.package.read import load, manifest_digest
from meadow.runtime.session import Session

EXPORTS = Path(__file__).parents[1] / "fixtures" / "exports"
GGUF = Path(__file__).parents[1] / "fixtures" / "tiny.gguf"
pytestmark = pytest.mark.timeout(120)  # a hang is a failure


@pytest.mark.parametrize("name", ["dynamo-eager-20", "dynamo-sdpa-23", "optimum-18"])
def test_a_damaged_onnx_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    random_ = random.Random(name)
    whole = (EXPORTS / f"{name}.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    for turn in range(80):
        if turn % 4 == 0:
            path.write_bytes(damage.raw(random_, whole))
        else:
            model = onnx.load_from_string(whole)
            damage.graph(random_, model)
            path.write_bytes(model.SerializeToString())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
        except MeadowError as error:
            assert str(tmp_path) in str(error) or "'" in str(error)


def test_a_damaged_gguf_file_is_converted_or_refused(tmp_path: Path) -> None:
    random_ = random.Random(5)
    whole = GGUF.read_bytes()
    header = whole[:40_000]  # what is not weights
    for turn in range(60):
        (tmp_path / "x.gguf").write_bytes(damage.raw(random_, header) + whole[len(header) :])
        try:
            convert(tmp_path / "x.gguf", tmp_path / f"m{turn}")
        except MeadowError:
            assert not (tmp_path / f"m{turn}").exists()


@pytest.mark.parametrize("name", ["manifest.json", "packing.json"])
def test_a_package_with_values_of_other_types_opens_or_is_refused(
    name: str, tiny_package: Path, tmp_path: Path
) -> None:
    random_ = random.Random(name)
    copy = Path(shutil.copytree(tiny_package, tmp_path / "copy"))
    whole = {n: json.loads((copy / n).read_text()) for n in ("manifest.json", "packing.json")}
    for _ in range(60):
        changed = {**whole, name: damage.change(random_, whole[name])}
        text = json.dumps(changed["packing.json"])
        (copy / "packing.json").write_text(text)
        manifest = changed["manifest.json"]
        if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict):
            manifest = {
                **manifest,
                "files": {**manifest["files"], "packing.json": __import__("hashlib").sha256(text.encode()).hexdigest()},
            }
            manifest["digest"] = manifest_digest(manifest)
        (copy / "manifest.json").write_text(json.dumps(manifest))
        try:
            with Session(copy) as session:
                session.prefill([1, 2, 3])
        except MeadowError as error:
            assert str(error)


def test_deep_json_and_digits_of_other_scripts_are_refused(tiny_package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_package, tmp_path / "copy"))
    (copy / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(DeviceError, match="not a whole manifest"):
        load(copy)
    model = onnx.load(EXPORTS / "dynamo-eager-20.onnx")
    model.metadata_props.add(key="meadow.context", value="²")
    onnx.save(model, tmp_path / "model.onnx")
    assert read(tmp_path / "model.onnx").model.context == 0


def test_a_header_and_zeros_are_no_model(meadowc: Any, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(200))
    result = meadowc("convert", tmp_path / "x.gguf", "-o", tmp_path / "o")
    assert result.code == 2 and "names no architecture" in result.err and "None" not in result.err


def test_only_regular_files_are_opened(meadowc: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    result = meadowc("inspect", tmp_path / "model.onnx")
    assert result.code == 2 and "is no regular file" in result.err
    os.mkfifo(tmp_path / "x.gguf")
    assert meadowc("convert", tmp_path / "x.gguf", "-o", tmp_path / "o").code == 2


def test_an_operator_that_reads_itself_and_a_name_made_twice_are_refused(tmp_path: Path) -> None:
    for node in (
        helper.make_node("Identity", ["a"], ["a"]),
        helper.make_node("Identity", ["input_ids"], ["input_ids"]),
    ):
        model = onnx.load(EXPORTS / "dynamo-eager-20.onnx")
        model.graph.node.append(node)
        onnx.save(model, tmp_path / "model.onnx")
        with pytest.raises(UsageError, match="not a valid graph"):
            read(tmp_path / "model.onnx")


def test_another_readers_json_is_not_parsed_by_its_ending(meadowc: Any, tmp_path: Path) -> None:
    for name in ("config.json", "graph.textproto", "model.onnxtxt"):
        (tmp_path / name).write_text('{"architectures": ["LlamaForCausalLM"]}')
        result = meadowc("inspect", tmp_path / name)
        assert result.code == 2 and "is not a whole ONNX file" in result.err


def test_the_guard_names_the_file_and_lets_interrupts_through(tmp_path: Path) -> None:
    with (
        pytest.raises(
            UsageError, match=r"f.onnx is damaged, or not what it says it is \(IndexError in .*: no\); do this"
        ),
        guard(tmp_path / "f.onnx", UsageError, "do this"),
    ):
        raise IndexError("no")
    with pytest.raises(KeyboardInterrupt), guard(tmp_path / "f.onnx", UsageError, "do this"):
        raise KeyboardInterrupt
    with pytest.raises(UsageError, match="RecursionError"), guard(tmp_path / "f.onnx", UsageError, "do this"):
        raise RecursionError
