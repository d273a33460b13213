# SPDX-License-Identifier: Apache-2.0
"""bench prune on the tiny model: a row for each score, the repair beside the first, and bytes that are counted as predicted."""

from __future__ import annotations

from pathlib import Path

import pytest

from meadow import boards
from meadow.compiler.quantize.calibrate import Calibration
from meadow.compiler.sources.source import companions_of, find_source
from meadow.evidence.bench.prune import measure
from meadow.evidence.ladder.perplexity import pieces_of
from meadow.machine.errors import UsageError

WORDS = "the boat and the lamp of the harbour were painted in the winter by a captain who had no letters to read. "


def test_each_score_has_a_row_beside_the_whole_model(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(WORDS * 300)
    pieces = pieces_of(companions_of(find_source(tiny)).get("tokenizer.json"), WORDS * 20, 2, 48)
    calibration = Calibration(str(tmp_path / "text"), 1024)
    rows = list(
        measure(
            *(tiny, [0.25], ["layer-energy", "random"], boards.load("zcu102"), tmp_path / "out", pieces, calibration),
            lambda stage, what: None,
        )
    )
    assert [(r["heads"], r["score"], r["repaired"]) for r in rows] == [
        (0.0, "", False),
        (0.25, "layer-energy", False),
        (0.25, "layer-energy", True),
        (0.25, "random", False),
    ]
    whole, cut, fitted, chance = rows
    assert all(row["ratio"] == pytest.approx(row["perplexity"] / whole["perplexity"]) for row in rows)
    assert len({row["perplexity"] for row in (whole, cut, fitted, chance)}) == 4
    assert whole["equal"] and cut["equal"] and cut["counted_bytes"] == cut["predicted_bytes"] < whole["counted_bytes"]
    assert cut["query_heads"] == 12 and "counted_bytes" not in chance


def test_text_needs_a_tokenizer_and_enough_of_it(tiny: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no tokenizer\.json beside the model"):
        pieces_of(None, WORDS, 1, 8)
    with pytest.raises(UsageError, match="windows of 4000 need 4000"):
        pieces_of(companions_of(find_source(tiny)).get("tokenizer.json"), WORDS, 1, 4000)
