# SPDX-License-Identifier: Apache-2.0
"""meadow.toml holds options, is checked whole, and what it sets is told; -q and -v say less and more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from meadow.cli import main as entry
from meadow.cli.output import Volume
from meadow.machine.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    Volume.set()


def test_a_section_sets_what_the_command_line_does_not(meadowc: Any, here: Path, tiny_package: Path) -> None:
    (here / "meadow.toml").write_text("[bench.llm]\nrepeats = 1\nprompts = '4'\nanswers = '2'\n")
    said = meadowc("bench", "llm", tiny_package)
    assert said.code == 0 and "pp4" in said.out and "tg2" in said.out
    assert 'meadow.toml: prompts = "4", answers = "2", repeats = 1' in said.err
    other = meadowc("bench", "llm", tiny_package, "-p", "8")
    assert "pp8" in other.out and "pp4" not in other.out and "prompts" not in other.err
    assert {r["test"] for r in meadowc("bench", "llm", tiny_package, "--json").json["rows"]} == {"pp4", "tg2"}


def test_a_table_or_a_list_gives_options_that_repeat(meadowc: Any, here: Path, tiny_int8: Path) -> None:
    for text in ("[compile.set]\ncontext = 64\n", '[compile]\nset = ["context=64"]\n'):
        (here / "meadow.toml").write_text(text)
        found = meadowc("config", "--json", "compile", tiny_int8, "--board", "zcu102").json
        assert found["options"]["set"] == ["context=64"]


def test_everything_that_is_wrong_is_named_at_once(meadowc: Any, here: Path, tiny_package: Path) -> None:
    (here / "meadow.toml").write_text('[run]\ntemprature = 1\nstop = "x"\ntrust = true\nprompt = ["a"]\n')
    refused = meadowc("run", tiny_package, "-p", "a")
    assert refused.code == 2
    for part in (
        "temprature is no option of run; did you mean temperature?",
        'stop = ["x"]',
        "trust is said on",
        "takes one",
    ):
        assert part in refused.err
    assert meadowc("config").code == 2
    for text, part in (
        ("[rum]\n", "[rum] is no command; did you mean run?"),
        ("[bench.lm]\n", "did you mean llm?"),
        ("run = 3\n", "run is a section, [run]"),
        ("= 3", "is not TOML"),
        ("[run]\nmax-tokens = 'x'\n", "not a valid integer"),
    ):
        (here / "meadow.toml").write_text(text)
        assert part in meadowc("bench", "llm", "x").err + meadowc("run", tiny_package, "-p", "a").err
    (here / "meadow.toml").write_bytes(b"\xff")
    assert "is not TOML" in meadowc("doctor").err
    assert meadowc("--config", here / "none.toml", "doctor").code == 2
    assert meadowc("--config", "/dev/null", "doctor").code == 0


def test_what_config_prints_can_be_used_again(meadowc: Any, here: Path, tiny_int8: Path) -> None:
    printed = meadowc("config", "compile", tiny_int8, "--board", "zcu102", "--set", "context=64").out
    assert "# the command line" in printed and "# the default" in printed
    section = tomllib.loads(printed)["compile"]
    assert section["board"] == "zcu102" and section["set"] == ["context=64"] and section["dataflow"] == "auto"
    (here / "meadow.toml").write_text(printed)
    again = meadowc("config", "compile").out
    assert tomllib.loads(again) == tomllib.loads(printed) and "# the file" in again
    assert "[compile]; every key is an option" in meadowc("config").out
    secret = meadowc("config", "serve", "x", "--api-key", "hush").out
    assert "hush" not in secret and "kept to itself" in secret


def test_q_leaves_the_result_and_v_tells_stages_options_and_causes(
    meadowc: Any, here: Path, tiny: Path, tiny_package: Path, capsys: Any
) -> None:
    quiet = meadowc("quantize", tiny, "-o", here / "a", "-q")
    assert quiet.err == "" and "matrices are quantized" in quiet.out
    assert meadowc("run", tiny_package, "-q", "--raw", "-p", "a", "-n", "1").err == ""
    loud = meadowc("quantize", tiny, "-o", here / "b", "-v")
    assert "[quantize]" in loud.err and "calibrating: 0." in loud.err and "MB so far" in loud.err
    assert meadowc("doctor", "-q", "-v").code == 2
    capsys.readouterr()
    with pytest.raises(SystemExit):
        entry.main(["run", str(here / "none"), "-p", "a", "-v"])
    assert "UsageError" in capsys.readouterr().err


def test_a_fault_of_meadow_says_so_and_what_is_needed_of_it(monkeypatch: pytest.MonkeyPatch, meadowc: Any) -> None:
    def broken(name: str) -> None:
        raise ZeroDivisionError(name)

    monkeypatch.setattr("meadow.boards.load", broken)
    failed = meadowc("boards", "--board", "zcu102")
    assert failed.code == 1 and "a fault of meadow itself: ZeroDivisionError at test_configuration.py" in failed.err
    assert UsageError("x").exit_code == 2
