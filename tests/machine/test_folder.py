# SPDX-License-Identifier: Apache-2.0
"""Nothing is lost: folders are swapped whole, and what meadow did not make is listed and kept."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from meadow.machine import folder
from meadow.machine.errors import ResourceExceeded, UsageError
from meadow.machine.folder import MARKER, beside, exchange, read_marker, refuse_target

SMALL = ("--set", "context=64", "--set", "block=16", "--set", "token_lanes=4")


def write(target: Path, text: str, kind: str = "model") -> None:
    with beside(target, kind) as work:
        (work / "a.json").write_text(text)
        (work / "model.onnx").write_text(text * 100)


def whole(target: Path) -> str:
    """The text of a folder that `write` made, both files of it alike."""
    text = (target / "a.json").read_text()
    assert (target / "model.onnx").read_text() == text * 100 and read_marker(target) is not None
    return text


@pytest.mark.parametrize(
    ("command", "precious"), [("convert", "model.onnx"), ("quantize", "model.onnx"), ("compile", "manifest.json")]
)
def test_a_folder_of_the_users_is_not_replaced_though_it_holds_a_file_of_our_name(
    command: str, precious: str, meadowc: Any, tiny_int8: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / precious).write_text("{}")
    (mine / "thesis.tex").write_text("years of work")
    source = Path(__file__).parents[1] / "fixtures" / "tiny.gguf" if command == "convert" else tiny_int8
    more = ("--board", "zcu102") if command == "compile" else ()
    result = meadowc(command, source, "-o", mine, *more)
    assert result.code == 2 and "was not made by this command, so it is not replaced" in result.err
    assert (mine / "thesis.tex").read_text() == "years of work" and (mine / precious).read_text() == "{}"


def test_files_that_meadow_does_not_know_are_listed_and_kept(tmp_path: Path) -> None:
    target = tmp_path / "m"
    write(target, "1")
    write(target, "2")
    (target / "notes").mkdir()
    for n in range(7):
        (target / "notes" / f"{n}.md").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes/0.md, notes/1.md, .* and 2 more, which meadow did not make"):
        write(target, "3")
    assert whole(target) == "2" and len(list((target / "notes").iterdir())) == 7


def test_a_text_that_was_edited_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "m"
    write(target, "1")
    (target / "a.json").write_text("edited")
    with pytest.raises(UsageError, match=r"holds a.json, which changed since meadow made it"):
        write(target, "2")
    assert (target / "a.json").read_text() == "edited"


def test_a_model_is_not_replaced_by_a_package_and_a_link_in_it_is_unknown(tmp_path: Path) -> None:
    write(tmp_path / "m", "1")
    with pytest.raises(UsageError, match="holds a model, and this command makes a package"):
        write(tmp_path / "m", "2", "package")
    (tmp_path / "m" / "a.json").unlink()
    (tmp_path / "m" / "a.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"a.json, which meadow did not make"):
        write(tmp_path / "m", "2")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"kind": ["model"], "files": {}}',
        '{"kind": "model"}',
        '{"kind": "x", "files": {}}',
        "[" * 100_000,
        "\0",
    ],
)
def test_a_damaged_marker_counts_as_no_marker(text: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / MARKER).write_text(text)
    with pytest.raises(UsageError, match="has no .meadow"):
        refuse_target(tmp_path / "m", "model", ())


def test_an_output_that_is_a_link_stays_one(tmp_path: Path) -> None:
    write(tmp_path / "real", "1")
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", "2")
    assert (tmp_path / "link").is_symlink() and whole(tmp_path / "real") == "2"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="is a link that leads to itself"):
        write(tmp_path / "loop", "3")


def test_folders_of_the_users_that_look_like_left_overs_are_not_swept(tmp_path: Path) -> None:
    for name in (".m.meadow-backup", ".u.meadow-zz", ".m.meadow-abcdefgh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes").write_text("mine")
    write(tmp_path / "m", "1")
    write(tmp_path / "?", "1")
    assert len(list(tmp_path.glob(".*/notes"))) == 3 and whole(tmp_path / "?") == "1"


def test_a_file_added_while_a_command_runs_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "m", "1")
    with (
        pytest.raises(UsageError, match="holds notes.md, which meadow did not make"),
        beside(tmp_path / "m", "model") as work,
    ):
        (work / "a.json").write_text("2")
        (tmp_path / "m" / "notes.md").write_text("written meanwhile")
    assert (tmp_path / "m" / "notes.md").read_text() == "written meanwhile" and whole(tmp_path / "m") == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_weights_that_were_edited_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "m", "1")
    (tmp_path / "m" / "model.onnx").write_text("my own training")
    with pytest.raises(UsageError, match="holds model.onnx, which changed since meadow made it"):
        write(tmp_path / "m", "2")


def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system without renameat2's exchange."""
    monkeypatch.setattr(folder, "exchange", lambda a, b: False)


@pytest.mark.parametrize("with_exchange", [True, False])
def test_a_failure_at_the_renames_keeps_what_was_there(
    with_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "m"
    write(target, "1")
    calls = []
    real_rename = Path.rename

    def full(self: Path, other: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_rename(self, other)

    if with_exchange:

        def refused(a: Path, b: Path) -> bool:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(folder, "exchange", refused)
    else:
        no_exchange(monkeypatch)
        monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(ResourceExceeded, match="what was there before is untouched"):
        write(target, "2")
    monkeypatch.setattr(Path, "rename", real_rename)
    assert whole(target) == "1" and [p.name for p in tmp_path.iterdir()] == ["m"]


def test_names_are_swapped_in_one_step_here(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x").touch()
    assert exchange(tmp_path / "a", tmp_path / "b") and (tmp_path / "b" / "x").exists()
    with pytest.raises(OSError, match="No such file"):
        exchange(tmp_path / "a", tmp_path / "none")


def in_child(work: Callable[[], None]) -> int:
    """The pid of a forked process that does `work`."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


@pytest.mark.parametrize("with_exchange", [True, False])
def test_killed_at_any_time_the_old_or_the_new_folder_is_whole(
    with_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_exchange:
        no_exchange(monkeypatch)
    target, random_ = tmp_path / "m", random.Random(3)
    write(target, "0")
    for turn in range(50):

        def forever(turn: int = turn) -> None:
            while True:
                write(target, str(turn))

        pid = in_child(forever)
        time.sleep(random_.uniform(0.001, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        folder._sweep(target)  # as the next command does first
        whole(target)
        assert [p.name for p in tmp_path.iterdir()] == ["m"], "what a killed process left is swept"


@pytest.mark.parametrize("moment", ["before", "between", "after"])
@pytest.mark.parametrize("with_exchange", [True, False])
def test_killed_at_and_between_the_renames_nothing_is_lost(moment: str, with_exchange: bool, tmp_path: Path) -> None:
    target = tmp_path / "m"
    write(target, "old")

    def work() -> None:
        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        real_exchange, real_rename, seen = folder.exchange, Path.rename, []

        def swapped(a: Path, b: Path) -> bool:
            if not with_exchange:
                return False
            if moment == "before":
                die()
            done = real_exchange(a, b)
            die()
            return done

        def renamed(self: Path, other: Path) -> Path:
            seen.append(other)
            if len(seen) == {"before": 1, "between": 2, "after": 9}[moment]:
                die()
            made = real_rename(self, other)
            if len(seen) == 2:
                die()
            return made

        folder.exchange = swapped
        Path.rename = renamed  # type: ignore[method-assign, assignment]
        write(target, "new")

    pid = in_child(work)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    if with_exchange or moment != "between":
        assert whole(target) in ("old", "new")
    folder._sweep(target)
    assert whole(target) == ("new" if (with_exchange and moment != "before") or moment == "after" else "old")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_files_that_another_process_writes_are_not_removed(tmp_path: Path) -> None:
    target = tmp_path / "m"
    with beside(target, "model") as work:
        (work / "a.json").write_text("1")
        (work / "model.onnx").write_text("1" * 100)

        def other() -> None:
            write(target, "2")

        os.waitpid(in_child(other), 0)
        assert work.is_dir() and whole(target) == "2"
    assert whole(target) == "1"


def test_compiling_again_after_an_edit_of_a_companion_compiles_anew(
    meadowc: Any, tiny_int8: Path, tmp_path: Path
) -> None:
    model, package = tmp_path / "m", tmp_path / "p"
    shutil.copytree(tiny_int8, model)

    def compiled() -> bool:
        result = meadowc("compile", model, "--board", "zcu102", "-o", package, *SMALL, "--json")
        assert result.code == 0, result.err
        return not result.json["up_to_date"]

    (model / "chat_template.jinja").write_text("AAAA")
    assert compiled() and not compiled()
    (model / "chat_template.jinja").write_text("BBBB")
    assert compiled() and (package / "tokenizer" / "chat_template.jinja").read_text() == "BBBB"
    config = model / "generation_config.json"
    config.write_text(config.read_text().replace("3", "9", 1))
    assert compiled() and (package / "tokenizer" / "generation_config.json").read_text() == config.read_text()


@pytest.mark.parametrize("name", ["weights.bin", "program.bin", "hls/array.hpp", "report/graph.txt"])
def test_a_damaged_package_is_made_anew(name: str, meadowc: Any, tiny_int8: Path, tmp_path: Path) -> None:
    package = tmp_path / "p"
    command = ("compile", tiny_int8, "--board", "zcu102", "-o", package, *SMALL, "--json")
    assert meadowc(*command).code == 0
    data = bytearray((package / name).read_bytes())
    before = bytes(data)
    data[len(data) // 2] ^= 1
    (package / name).write_bytes(data)
    result = meadowc(*command)
    assert result.code == 0 and not result.json["up_to_date"] and (package / name).read_bytes() == before


def test_the_compilers_digest_sees_every_source(monkeypatch: pytest.MonkeyPatch) -> None:
    from meadow.compiler.emit import save

    seen = [
        path
        for name in ("boards", "compiler", "hls", "machine", "rtl")
        for path, _ in save._sources(resources.files(f"meadow.{name}"), name)
    ]
    for path in (
        "boards/zcu102.toml",
        "compiler/program/lower.py",
        "compiler/graph/passes/fuse_glu.py",
        "hls/sim/csim.cpp",
        "rtl/pacq_gemv.v",
        "compiler/quantize/calibration.txt",
    ):
        assert path in seen, path
    assert any(path.startswith("boards/") and path.endswith(".j2") for path in seen)
    before = save.compiler_digest()
    real = save._sources
    monkeypatch.setattr(
        save,
        "_sources",
        lambda folder, name: (
            (p, d + b" " * (p.startswith("boards/") and p.endswith(".j2"))) for p, d in real(folder, name)
        ),
    )
    assert save.compiler_digest() != before


def test_a_bitstream_survives_whatever_happens_to_a_compile(meadowc: Any, tiny_int8: Path, tmp_path: Path) -> None:
    package = tmp_path / "p"
    command = ("compile", tiny_int8, "--board", "zcu102", "-o", package, "--set", "block=16", "--set", "token_lanes=4")
    assert meadowc(*command, "--set", "context=64").code == 0
    (package / "overlay").mkdir()
    (package / "overlay" / "meadow.bit").write_text("hours")
    assert meadowc(*command, "--set", "context=64", "--packing", "raw").code == 0
    assert [p.read_text() for p in package.rglob("meadow.bit")] == ["hours"]
    assert meadowc(*command, "--set", "context=128").code == 0
    assert [p.read_text() for p in package.rglob("meadow.bit")] == ["hours"]
    assert meadowc(*command, "--set", "context=64").code == 0
    assert [p.read_text() for p in package.rglob("meadow.bit")] == ["hours"]
    (package / "work-notes").mkdir()
    (package / "work-notes" / "n.md").write_text("mine")
    assert (
        meadowc(*command, "--set", "context=128").code == 0 and (package / "work-notes" / "n.md").read_text() == "mine"
    )
    (package / "report" / "index.html").write_text("<!doctype html>")
    (package / "report" / "results.json").write_text("{}")
    (package / "mine.txt").write_text("x")
    result = meadowc(*command, "--set", "context=128")
    assert (
        result.code == 2
        and "holds mine.txt, which meadow did not make" in result.err
        and (package / "mine.txt").exists()
    )
