# SPDX-License-Identifier: Apache-2.0
"""A manifest whose fields are of other types is refused by their names, before anything reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fuzz.damage import ABSENT, put

from meadow.machine.errors import DeviceError
from meadow.machine.package.read import load, manifest_digest
from meadow.machine.package.shape import MANIFEST, Each, Maybe, check_shape


def places(value: Any, shape: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """Every place of `value` that the shape speaks of, with its shape."""
    if isinstance(shape, Maybe):
        return [] if value is None else places(value, shape.of, path)
    found: list[tuple[tuple[Any, ...], Any]] = [(path, shape)] if path else []
    if isinstance(shape, Each):
        key = sorted(value)[0]
        return found + places(value[key], shape.of, (*path, key))
    if isinstance(shape, dict):
        for key, kind in shape.items():
            if key.removesuffix("?") in value:
                found += places(value[key.removesuffix("?")], kind, (*path, key.removesuffix("?")))
    elif isinstance(shape, list) and value:
        found += places(value[0], shape[0], (*path, 0))
    return found


def test_every_field_of_another_type_is_refused_by_name(tiny_package: Path, tmp_path: Path) -> None:
    whole = json.loads((tiny_package / "manifest.json").read_text())
    check_shape(whole)
    tried = places(whole, MANIFEST)
    assert len(tried) > 50
    for path, _ in tried:
        for wrong in (object(), float("nan")):  # of no type, and no number
            with pytest.raises(ValueError, match=r"^" + str(path[0])):
                check_shape(put(whole, list(path), wrong))
        if all(isinstance(p, str) for p in path) and len(path) == 1 and path[0] + "?" not in MANIFEST:
            with pytest.raises(ValueError, match="missing"):
                check_shape(put(whole, list(path), ABSENT))


@pytest.mark.parametrize(
    ("path", "wrong", "said"),
    [
        (["files"], True, "files is no object"),
        (["files", "program.bin"], 3, "files.program.bin is no printable text"),
        (["embedding", "tied"], 1, "neither true nor false"),
        (["chunks", 0, "bytes"], -1, "chunks[0].bytes is -1"),
        (["name"], "\x1b[2J", "name is no printable text"),
        (["hardware", "ddr", 0], [1], "hardware.ddr[0] is no list of 2"),
    ],
)
def test_a_package_of_wrong_fields_does_not_open(
    path: list[Any], wrong: Any, said: str, tiny_package: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_package, tmp_path / "copy"))
    manifest = put(json.loads((copy / "manifest.json").read_text()), path, wrong)
    manifest["digest"] = manifest_digest(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DeviceError) as refused:
        load(copy)
    assert said in str(refused.value)
