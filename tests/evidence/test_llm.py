# SPDX-License-Identifier: Apache-2.0
"""bench llm: rows by the names that are compared, each with its kind, in every format; and likelihoods of answers."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from meadow.compiler.price.run import estimate
from meadow.evidence.bench.llm import modelled
from meadow.evidence.ladder.likelihood import likelihood
from meadow.evidence.ladder.reference import OnnxModel
from meadow.machine.errors import UsageError
from meadow.machine.package.read import load
from meadow.runtime.session import Session
from meadow.runtime.text.sampler import logprobs


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


def test_a_likelihood_is_the_sum_of_onnxruntimes_and_shares_what_was_asked_before(
    tiny_package: Path, tiny_int8: Path
) -> None:
    reference, context = OnnxModel(tiny_int8 / "model.onnx"), [5, 9, 200, 31, 7]
    with Session(tiny_package) as session:
        for answer in ([44, 18], [44, 19, 3], [7]):
            found, greedy = likelihood(session, context, answer)
            rows = reference.prefill([*context, *answer])
            each = [logprobs(rows[len(context) - 1 + n]) for n in range(len(answer))]
            assert found == pytest.approx(sum(row[t] for row, t in zip(each, answer, strict=True)), rel=0.02)
            assert greedy == all(int(row.argmax()) == t for row, t in zip(each, answer, strict=True))
        assert session.stats.reused_tokens == 2 * (len(context) - 1)
        best = int(reference.prefill(context)[-1].argmax())
        assert likelihood(session, context, [best])[1]
        alone = likelihood(session, context[:1], [44, 18])
        session.loaded.cached.clear()
        assert likelihood(session, context[:1], [44, 18]) == alone
        with pytest.raises(UsageError, match="no tokens"):
            likelihood(session, [], [1])
