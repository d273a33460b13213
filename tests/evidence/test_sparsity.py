# SPDX-License-Identifier: Apache-2.0
"""bench sparsity on the tiny model: a row for each share and shape, whose weights that are not needed are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meadow.compiler.quantize.calibrate import Calibration
from meadow.compiler.sources.source import companions_of, find_source
from meadow.evidence.bench.sparsity import measure
from meadow.evidence.ladder.perplexity import pieces_of

WORDS = "the boat and the lamp of the harbour were painted in the winter by a captain who had no letters to read. "


def test_each_share_and_shape_has_a_row_beside_the_whole_model(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(WORDS * 100)
    pieces = pieces_of(companions_of(find_source(tiny)).get("tokenizer.json"), WORDS * 20, 2, 64)
    calibration = Calibration(str(tmp_path / "text"), 768)
    told: list[str] = []
    rows = list(
        measure(
            *(tiny, [0.3, 0.6], ["auto", "uniform"], tmp_path / "out", pieces, calibration),
            lambda stage, what: told.append(stage),
        )
    )
    assert [(r["share"], r["shape"]) for r in rows[1:]] == [
        (0.3, "auto"),
        (0.3, "uniform"),
        (0.6, "auto"),
        (0.6, "uniform"),
    ]
    assert rows[0]["ratio"] == 1 and rows[0]["weights_cut"] == 0
    assert all(r["ratio"] == pytest.approx(r["perplexity"] / rows[0]["perplexity"]) for r in rows)
    assert all(r["weights_cut"] == pytest.approx(r["share"], abs=0.05) for r in rows)
    assert set(told) == {"measuring", "sparsifying"}


def test_wrong_shares_and_shapes_are_refused(tiny: Path, meadowc: Any) -> None:
    for options, said in (
        (("--activations", "much"), "--activations 'much' are no shares"),
        (("--shapes", "round"), "--shapes 'round'"),
    ):
        result = meadowc("bench", "sparsity", tiny, *options)
        assert result.code == 2 and said in " ".join(result.err.split())
