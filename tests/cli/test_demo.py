# SPDX-License-Identifier: Apache-2.0
"""The demo goes all the way offline, and says what it did as commands that can be typed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.csim
def test_the_demo_ends_with_the_same_bits_on_two_rungs(
    meadowc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def offline(*_: object) -> None:
        raise AssertionError("the demo asked the network")

    monkeypatch.setattr(socket.socket, "connect", offline)
    target = tmp_path / "my demo"
    done = meadowc("demo", "-o", target)
    assert done.code == 0, done.err
    assert "the same bits" in done.out and "emulator and csim" in done.out and f"'{target / 'tiny'}'" in done.out
    found = meadowc("demo", "-o", target, "--json").json  # again, over what is there
    assert found["equal"] and found["text"] and (target / "tiny" / "manifest.json").is_file()


def test_without_a_compiler_the_demo_runs_on_the_emulator(
    meadowc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = meadowc("demo", "-o", tmp_path / "demo", "--json").json
    assert list(found["digests"]) == ["emulator"] and found["equal"]
