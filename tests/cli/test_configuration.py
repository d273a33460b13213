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
    (here / "meadow.toml").write_text(
        '[run]\ntemprature = 1\nstop = "x"\ntrust = true\nprompt = ["a"]\n[eval]\nwindows = "two"\n'
    )
    refused = meadowc("run", tiny_package, "-p", "a")
    assert refused.code == 2 and "meadow.toml" in refused.err
    for part in (
        "'temprature' is no option of run; did you mean temperature?",
        'stop = "x": a list is expected',
        "'trust' is said on the command line alone",
        'prompt = ["a"]: a text or a number',
    ):
        assert part in refused.err
    whole = meadowc("config")
    assert whole.code == 2 and "[eval] windows" in whole.err and "'temprature'" in whole.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rum]\n", "[rum] is no command; did you mean run?"),
        ("[bench.lm]\n", "[bench.lm] is no command; did you mean llm?"),
        ("run = 3\n", "run is a section, [run]"),
        ("bench = 3\n", "bench is a section, [bench]"),
        ("= 3", "is not TOML"),
        ("[run]\nseed = 9" + "9" * 4500, "more than 64 kB, or a line of more than 4096"),
        ("[run]\nseed = 0x" + "9" * 4000, "numbers of up to 64 bits"),
        ("a." * 30000 + "b = 1", "no configuration has"),
        ("[run]\nmax-tokens = 1.9\n", "'1.9' is not a valid integer"),
        ("[run]\nmax-tokens = true\n", "a text or a number is expected"),
        ("[run]\nraw = 2\n", "raw = 2: true or false is expected"),
        ("[run]\nprompt = 1979-05-27\n", "a text or a number is expected"),
        ("[compile.set]\ncontext = true\n", "a text or a number is expected"),
        ('[run]\nstop = [["x"]]\n', "a text or a number is expected"),
        ('[cache]\nclear = ["all"]\n', "'clear' is said on the command line alone"),
        ('[serve]\nhost = "0.0.0.0"\napi-key = "SECRET"\n', "'api-key' is said on the command line alone"),
        ('["\\u001b[31mred"]\n', "is no command"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_in_a_sentence(text: str, said: str, meadowc: Any, here: Path) -> None:
    (here / "meadow.toml").write_text(text)
    refused = meadowc("config")
    assert refused.code == 2 and said in refused.err, refused.err
    assert "\x1b" not in refused.err and "SECRET" not in refused.err


def test_what_is_no_file_is_refused_and_an_empty_one_is_none(meadowc: Any, here: Path) -> None:
    (here / "meadow.toml").write_bytes(b"\xff")
    assert "is not TOML" in meadowc("doctor").err
    (here / "meadow.toml").unlink()
    (here / "meadow.toml").symlink_to(here / "nowhere")
    assert meadowc("doctor").code == 2  # a broken link is not the same as nothing
    (here / "meadow.toml").unlink()
    assert meadowc("--config", here / "none.toml", "doctor").code == 2
    assert meadowc("--config", "/dev/null", "doctor").code == 0


def test_options_of_a_file_that_do_not_fit_the_command_line_wait_for_another(
    meadowc: Any, here: Path, tiny_package: Path, tiny: Path
) -> None:
    (here / "text").write_text("The Queen of Hearts " * 30)
    (here / "meadow.toml").write_text("[eval]\nlimit = 5\nwindows = 1\nwindow-tokens = 8\n")
    assert meadowc("eval", tiny_package, "--text", "text", "--reference", tiny).code == 0
    assert meadowc("eval", tiny_package, "--text", "text", "--limit", "3").code == 2


def test_what_config_prints_can_be_used_again(meadowc: Any, here: Path, tiny_int8: Path) -> None:
    printed = meadowc("config", "compile", tiny_int8, "--board", "zcu102", "--set", "context=64").out
    assert "# the command line" in printed and "# the default" in printed
    section = tomllib.loads(printed)["compile"]
    assert section["board"] == "zcu102" and section["set"] == ["context=64"] and section["dataflow"] == "auto"
    (here / "meadow.toml").write_text(printed)
    again = meadowc("config", "compile").out
    assert tomllib.loads(again) == tomllib.loads(printed) and "# the file" in again
    assert "[compile]; every key is an option" in meadowc("config").out
    odd = meadowc("config", "run", "x", "-p", "grin 😀 \x7f\x01", "--temperature", "inf").out
    again = tomllib.loads(odd)["run"]
    assert again["prompt"] == "grin 😀 \x7f\x01" and again["temperature"] == float("inf")


def test_a_key_of_the_environment_is_shown_nowhere(
    meadowc: Any, here: Path, tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEADOW_API_KEY", "hush")
    for words in (
        ("config", "serve", "x"),
        ("config", "--json", "serve", "x"),
        ("config", "serve", "x", "--api-key", "hush"),
    ):
        assert "hush" not in meadowc(*words).out


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
