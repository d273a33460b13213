# SPDX-License-Identifier: Apache-2.0
"""The page of one model by many recipes: perplexity against bytes per token, and which of them no other beats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meadow.cli.report import charts
from meadow.cli.report.page import render


def build(
    model: str, rows: Sequence[dict[str, Any]], best: Sequence[str], board: str, windows: str, command: str
) -> str:
    """The page.

    rows     of bench quantize, the float model's first
    best     recipes that no other beats, from the fewest bytes on
    windows  what perplexity is measured on, for people
    """
    made = [row for row in rows if row["bytes_per_token"]]
    whole = next(row for row in rows if not row["bytes_per_token"])
    figures = {
        "front": charts.recipes(
            [(r["recipe"], r["bytes_per_token"] / 1e6, r["perplexity"], r["recipe"] in best) for r in made],
            whole["perplexity"],
        )
    }
    return render(
        "recipes.html.j2",
        figures,
        model=model,
        rows=made,
        whole=whole,
        best=best,
        board=board,
        windows=windows,
        command=command,
    )
