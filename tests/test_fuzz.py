# SPDX-License-Identifier: Apache-2.0
"""Damaged inputs of every kind end in a sentence: the corpus of what once failed, and new ones for most of a minute (`make fuzz`: 20,000)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzz import damage, run
from fuzz.worker import Watch


@pytest.mark.timeout(280)
def test_no_input_ends_in_a_traceback_a_hang_a_death_or_a_write_outside(tmp_path: Path) -> None:
    tally = run.fuzz(400, seconds=120, seed="ci", jobs=1, root=tmp_path)
    assert not tally.failed, f"{tally}\n{tally.said}"
    assert sum(tally.ends.values()) >= 100 and tally.ends["ok"] > 20 and tally.ends["refused"] > 50
    assert str(tally).endswith("inputs, 0 tracebacks, 0 hangs, 0 deaths")


def test_the_watch_sees_what_is_written_outside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    watch = Watch(tmp_path / "in")
    (tmp_path / "in" / "a").write_text("x")
    (tmp_path / "in" / "a").read_text()
    assert not watch.outside
    (tmp_path / "b").write_text("x")
    (tmp_path / "b").rename(tmp_path / "c")
    (tmp_path / "c").unlink()
    (tmp_path / "in-not").write_text("x")  # begins as the allowed folder does
    (tmp_path / "in-not").rename(tmp_path / "in" / "taken")  # from outside
    assert len(watch.outside) == 6, watch.outside
    watch.allowed.append("/")  # a hook stays for ever


def test_an_input_is_made_from_its_seed_alone() -> None:
    value = {"a": [1, {"b": 2}], "c": "x"}
    changed = [damage.change(random.Random(n), value) for n in range(50)]
    assert changed == [damage.change(random.Random(n), value) for n in range(50)]
    assert value == {"a": [1, {"b": 2}], "c": "x"} and sum(c != value for c in changed) > 40
    assert damage.put(value, ["a", 1, "b"], damage.ABSENT) == {"a": [1, {}], "c": "x"}
