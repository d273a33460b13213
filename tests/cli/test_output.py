# SPDX-License-Identifier: Apache-2.0
"""Tables fit the terminal: no number and no word is broken in two at any width."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from meadow.cli import progress
from meadow.cli.output import table

words = st.text("abcdefgh0123456789.,", min_size=1, max_size=12)


def printed(rows: list[list[str]], heads: list[str], width: int) -> list[str]:
    made = table("title", *heads)
    for row in rows:
        made.add_row(*row)
    file = io.StringIO()
    Console(file=file, width=width, soft_wrap=True, markup=False, highlight=False).print(made)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@given(
    heads=st.lists(words, min_size=2, max_size=10, unique=True),
    count=st.integers(1, 4),
    width=st.sampled_from([40, 60, 80, 120]),
    data=st.data(),
)
def test_no_cell_is_broken_and_no_line_is_too_long(
    heads: list[str], count: int, width: int, data: st.DataObject
) -> None:
    rows = [[data.draw(words) for _ in heads] for _ in range(count)]
    lines = printed(rows, heads, width)
    assert all(len(line) <= width for line in lines)
    tokens = [word.rstrip(";") for line in lines for word in line.split()]
    for row in rows:
        for cell in row:
            assert cell in tokens


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_boards_fit(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from meadow.cli import boards

    file = io.StringIO()
    monkeypatch.setattr(boards, "out", Console(file=file, width=width, soft_wrap=True, markup=False, highlight=False))
    boards.boards_command.main([], standalone_mode=False)
    text = file.getvalue()
    for whole in ("274,080", "xczu9eg-ffvb1156-2-e", "BRAM36", "installer"):
        assert whole in text


def test_long_work_says_how_far_it_is_and_how_long_it_takes(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    now = [0.0]
    monkeypatch.setattr("meadow.cli.progress.time.monotonic", lambda: now[0])
    with progress.Pace("windows", 4, quiet=False) as pace:
        for done in range(5):
            now[0] = 30.0 * done
            pace.at(done, f"so far {done}")
        now[0] += 1
        pace.at(3)  # too soon for another line
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "windows 0 of 4, 0:00 · so far 0"
    assert lines[1] == "windows 1 of 4, 0:30, 1:30 left · so far 1"
    assert lines[4] == "windows 4 of 4, 2:00 · so far 4" and len(lines) == 5
    progress.Pace("windows", 4, quiet=True).at(1)
    assert capsys.readouterr().err == ""
