# SPDX-License-Identifier: Apache-2.0
"""Recordings of a device: replayed bit for bit, and found out where they differ, end or are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meadow.machine.package.read import load

pytest.importorskip("pynq", reason="no pynq: pip install 'meadow-fpga[pynq]'")
pytestmark = pytest.mark.csim


def test_a_recording_is_replayed_and_a_difference_is_found(tiny_package: Path, meadowc: Any, tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    said = meadowc(
        "run", tiny_package, "--raw", "-p", "Hello", "-n", "3", "--device", "emulated-pynq", "--record", tape, "--json"
    ).json
    again = meadowc("run", tiny_package, "--raw", "-p", "Hello", "-n", "3", "--replay", tape, "--json").json
    assert (
        again["digest"] == said["digest"]
        and again["text"] == said["text"]
        and again["device"] == "replay of emulated-pynq"
    )
    other = meadowc("run", tiny_package, "--raw", "-p", "Howdy", "-n", "3", "--replay", tape)
    assert other.code == 7 and "in the recording" in other.err
    longer = meadowc("run", tiny_package, "--raw", "-p", "Hello", "-n", "9", "--replay", tape)
    assert longer.code == 7 and "longer than the recording" in longer.err
    lines = tape.read_text().splitlines()
    for damage in ('{"format": "x"}', "{", "[1]"):
        tape.write_text("\n".join([damage, *lines[1:]]))
        result = meadowc("run", tiny_package, "--raw", "-p", "Hello", "-n", "3", "--replay", tape)
        assert result.code in (2, 7) and "record it again" in result.err
    head = json.loads(lines[0])
    tape.write_text("\n".join([json.dumps({**head, "package": "y"}), *lines[1:]]))
    assert "another package" in meadowc("run", tiny_package, "-p", "x", "--replay", tape).err
    cut = [json.dumps({**json.loads(line), "data": "eJw="}) if '"data"' in line else line for line in lines]
    tape.write_text("\n".join(cut))
    assert "damaged" in meadowc("run", tiny_package, "--raw", "-p", "Hello", "-n", "3", "--replay", tape).err


def test_hostile_recordings_are_called_damaged(tiny_package: Path, tmp_path: Path, meadowc: Any) -> None:
    tape = tmp_path / "tape"
    head = json.dumps(
        {"format": "meadow recording 2", "package": load(tiny_package).manifest["digest"], "device": "\x1b[2Jx"}
    )
    for rest in (b"\xff\xfe", b"[" * 200000, b'{"alloc": 1, "address": "x"}', b'{"alloc": 1}'):
        tape.write_bytes(head.encode() + b"\n" + rest)
        result = meadowc("run", tiny_package, "--raw", "-p", "x", "--replay", tape)
        assert result.code == 7 and "record it again" in result.err and "\x1b[2J" not in result.err + result.out
    assert meadowc("run", tiny_package, "-p", "x", "--replay", tape, "--device", "csim").code == 2
