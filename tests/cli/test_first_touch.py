# SPDX-License-Identifier: Apache-2.0
"""What a newcomer types: slips are answered with the way on, suggested commands can be pasted, and hints install this project."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from meadow.cli import output, progress
from meadow.machine import distribution

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FOREIGN = ("litellm",)
"""Other projects whose installation the docs show."""


def test_hints_name_this_distribution_and_extras_that_it_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == distribution.NAME
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    named = 0
    for name in listed:
        if Path(name).suffix not in (".py", ".md", ".ipynb", ".j2"):
            continue
        for wanted, extras in re.findall(r"pip install [\\'\"]+([\w-]+)\[([\w,]+)\]", (ROOT / name).read_text()):
            if wanted in FOREIGN:
                continue
            assert wanted == distribution.NAME and set(extras.split(",")) <= set(project["optional-dependencies"]), name
            named += 1
    assert named > 20


def test_a_command_that_is_nearly_right_is_named(meadowc: Any) -> None:
    for words, said in (
        (("comple",), "no command 'comple'; did you mean compile"),
        (("bench", "traffik"), "did you mean traffic?"),
        (("zzz",), "there are demo, fetch, convert"),
    ):
        result = meadowc(*words)
        assert result.code == 2 and said in result.err


@pytest.mark.parametrize("words", [(), ("bench",)])
def test_a_group_alone_shows_its_help(words: tuple[str, ...], meadowc: Any) -> None:
    result = meadowc(*words)
    assert result.code == 2 and result.err.startswith("Usage: meadowc") and "Commands:" in result.err


def test_suggested_commands_can_be_pasted(meadowc: Any, tiny_int8: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my models" / "a 'b'"
    folder.parent.mkdir()
    said = meadowc("compile", tiny_int8, "--board", "zcu102", "-o", folder, "--set", "block=16")
    assert said.code == 0, said.err
    line = next(line for line in said.out.splitlines() if line.startswith("next: "))
    assert shlex.split(line.removeprefix("next: ").partition(";")[0])[:3] == ["meadowc", "run", str(folder)]
    again = meadowc("compile", tiny_int8, "--board", "kv260", "-o", folder, "--set", "block=16")
    assert f"note: {folder} was a package for zcu102, which this one replaced" in again.out


def test_files_that_are_not_there_are_named_as_they_were_typed(meadowc: Any, tiny_package: Path) -> None:
    result = meadowc("boards", "--board", "nope.toml")
    assert result.code == 2 and "nope.toml is not there" in result.err
    result = meadowc("report", tiny_package, "-o", "/proc/x.html")
    assert result.code == 2 and "/proc/x.html cannot be written" in result.err and ".new" not in result.err


def test_a_model_that_is_int8_already_is_said_to_lose_more(meadowc: Any, tiny_int8: Path, tmp_path: Path) -> None:
    said = meadowc("quantize", tiny_int8, "-o", tmp_path / "again")
    assert re.search(r"note: (\d+) of \d+ matrices are int8 already; they are rounded once more", said.out)


def test_a_command_for_grouped_weights_says_how_to_get_some(meadowc: Any, tiny_package: Path) -> None:
    result = meadowc("bench", "bus", tiny_package)
    assert result.code == 2 and "--weights int4" in result.err


def test_a_stage_that_is_longer_than_the_terminal_does_not_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(output, "err", Console(file=screen, width=40, force_terminal=True, soft_wrap=True))
    with progress.stages(("read",), quiet=False) as show:
        show("read", "x" * 200)
    lines = [line for line in re.split(r"\r|\n|\x1b\[[\d;?]*[a-zA-Z]", screen.getvalue()) if line]
    assert any(line.startswith("[1/1] read xxx") for line in lines) and all(len(line) <= 40 for line in lines)


def test_meadow_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "meadow", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == f"meadowc, version {distribution.version()}"
    assert Path(sys.executable).with_name("meadowc").is_file()


def test_the_cache_is_shown_and_cleared_by_part(meadowc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cache"
    monkeypatch.setenv("MEADOW_CACHE", str(root))
    for name in ("files/a.gguf", "csim/x.so", "other/mine"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(b"x" * 1000)
    shown = meadowc("cache", "--json").json
    assert {p["part"]: p["bytes"] for p in shown["parts"]}["csim"] == 1000 and "0.0 MB" in meadowc("cache").out
    meadowc("cache", "--clear", "csim")
    assert not (root / "csim").exists() and (root / "files" / "a.gguf").is_file()
    meadowc("cache", "--clear", "all")
    assert sorted(p.name for p in root.iterdir()) == ["other"]  # what is not ours stays
