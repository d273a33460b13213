# SPDX-License-Identifier: Apache-2.0
"""bench quantize on the tiny model: recipes by name, rows with their keys, the front, and the distance of distributions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meadow import boards
from meadow.cli.report.recipes import build
from meadow.compiler.quantize.calibrate import Calibration
from meadow.evidence.bench.quantize import RECIPES, Wish, divergence, front, measure, other_text
from meadow.machine.errors import UsageError

KEYS = {
    *(
        "recipe",
        "bits_per_weight",
        "bytes_per_token",
        "perplexity",
        "perplexity_out_of_domain",
        "kl",
        "tokens_per_s",
        "seconds",
    ),
}


def test_recipes_are_read_by_their_names() -> None:
    assert Wish.of("int2-g64-head-shift") == Wish("int2-g64-head-shift", "int2", "group", 64, "same", "shift")
    assert Wish.of("int8-tensor-gptq").granularity == "tensor" and Wish.of("int8").granularity == "channel"
    assert all(Wish.of(name).name == name for name in RECIPES)
    for wrong in ("int5", "int2-tensor", "int8-head", "int4-best", ""):
        with pytest.raises(UsageError, match="recipes are WEIGHTS"):
            Wish.of(wrong)


def test_each_recipe_has_a_row_beside_the_float_model(tiny: Path, tmp_path: Path) -> None:
    words = "the boat and the lamp of the harbour were painted in the winter by a captain who had no letters to read. "
    text = tmp_path / "text"
    text.write_text(words * 300)
    rows = list(
        measure(
            tiny,
            ("int8-channel", "int2", "int2-shift"),
            boards.load("zcu102"),
            tmp_path,
            2,
            48,
            {"one": words * 20, "other": words[::-1] * 40},
            Calibration(str(text), 1024),
            lambda stage, what: None,
        )
    )
    assert [r["recipe"] for r in rows] == ["float", "int8-channel", "int2", "int2-shift"]
    assert all(set(r) == KEYS for r in rows)
    best, int8, nearest, solved = rows
    assert best["kl"] == 0 and 0 < int8["kl"] < solved["kl"] < nearest["kl"]
    assert abs(int8["perplexity"] / best["perplexity"] - 1) < 0.1
    assert nearest["bytes_per_token"] == solved["bytes_per_token"] < int8["bytes_per_token"]
    assert nearest["bits_per_weight"] == solved["bits_per_weight"] and "int2" not in front(rows)
    assert not any(path.name.startswith("tmp") for path in tmp_path.iterdir()), "no logits are left behind"


def test_the_distance_of_two_distributions_is_theirs() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 130, 50)).astype(np.float32)
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (a.astype(np.float64), b.astype(np.float64)))
    assert abs(divergence(a, b) - (p * np.log(p / q)).sum()) < 1e-9 * divergence(a, b) and divergence(a, a + 3) < 1e-4


def test_what_no_other_beats_is_the_front() -> None:
    rows = [
        {"recipe": n, "bytes_per_token": b, "perplexity": p}
        for n, b, p in (
            ("a", 3, 9.0),
            ("b", 2, 9.5),
            ("c", 2, 12.0),
            ("d", 1, 20.0),
            ("e", 4, 9.0),
            ("float", None, 8.0),
        )
    ]
    assert front(rows) == ["d", "b", "a"]


def test_the_other_text_is_english_that_every_python_has() -> None:
    assert len(other_text()) > 200_000 and " the " in other_text()


def test_the_page_draws_perplexity_against_bytes_and_says_whom_no_other_beats() -> None:
    def row(name: str, size: float | None, perplexity: float) -> dict[str, Any]:
        some = {
            "bits_per_weight": 4.2,
            "perplexity_out_of_domain": 30.0,
            "kl": 0.1,
            "tokens_per_s": 99.0,
            "seconds": 9.0,
        }
        return {"recipe": name, "bytes_per_token": size, "perplexity": perplexity, **some}

    rows = [row("float", None, 20), row("int4", 9e7, 21), row("int2", 7e7, 90), row("<int8>", 12e7, 22)]
    page = build("tiny <b>", rows, front(rows), "zcu102", "Perplexity of 2 windows", "meadowc bench quantize")
    figures = json.loads(page.split('id="figures">')[1].split("</script>")[0])
    others, best, whole = figures["front"]["data"]
    assert (best["text"], best["x"], best["y"]) == (["int2", "int4"], [70, 90], [90, 21])
    assert others["text"] == ["<int8>"] and whole["y"] == [20, 20]
    assert "<td>int2 *</td>" in page and "&lt;int8&gt;</td>" in page and "tiny <b>" not in page and "1.050" in page
