# SPDX-License-Identifier: Apache-2.0
"""bench llm: rows by the names that are compared, each with its kind, in every format."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from meadow.compiler.price.run import estimate
from meadow.evidence.bench.llm import modelled
from meadow.machine.package.read import load


def test_every_length_has_a_measured_and_a_modelled_row(meadowc: Any, tiny_package: Path) -> None:
    found = meadowc("bench", "llm", tiny_package, "-p", "16,64", "-n", "4", "-r", 2, "--json").json
    assert [r["test"] for r in found["rows"]] == ["pp16", "pp16", "pp64", "pp64", "tg4", "tg4"]
    assert {r["kind"] for r in found["rows"]} == {"measured (emulated, this machine)", "modelled"}
    assert all(r["tokens_per_s"] > 0 and r["model"] == "tiny" for r in found["rows"])
    package = load(tiny_package)
    made = estimate(package.steps("decode"), package.design, 1, 3, 17.07, chunks=len(package.chunks))
    assert modelled(package, "tg", 4) == pytest.approx(1 / made.seconds)


def test_the_same_as_a_table_markdown_and_csv(meadowc: Any, tiny_package: Path) -> None:
    said = meadowc("bench", "llm", tiny_package, "-p", "", "-n", "2", "-r", 1).out
    assert "tg2" in said and "modelled" in said
    lines = meadowc("bench", "llm", tiny_package, "-p", "8", "-n", "", "-r", 1, "-o", "md").out.splitlines()
    assert lines[0] == "| model | board | device | test | tokens/s | kind |" and len(lines) == 4
    text = meadowc("bench", "llm", tiny_package, "-p", "8", "-n", "", "-r", 1, "-o", "csv").out
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [r["test"] for r in rows] == ["pp8", "pp8"] and float(rows[1]["tokens_per_s"]) > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-p", "129", "-n", "4"), "pp129: prompts of 1 to 128"),
        (("-p", "8", "-n", "128"), "tg128"),
        (("-p", "", "-n", ""), "neither a prompt nor an answer"),
        (("-p", "x"), "whole numbers with commas"),
        (("-o", "md", "--json"), "drop -o md"),
    ],
)
def test_lengths_that_cannot_be_are_refused(
    options: tuple[str, ...], said: str, meadowc: Any, tiny_package: Path
) -> None:
    result = meadowc("bench", "llm", tiny_package, *options)
    assert result.code == 2 and said in result.out + result.err
