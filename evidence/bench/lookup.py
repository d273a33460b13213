# SPDX-License-Identifier: Apache-2.0
"""bench lookup: what drafts from the text so far gain on one board: tokens per run measured, the time of a run counted or modelled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from meadow.runtime.drafts import LookupDrafts, pass_seconds
from meadow.runtime.session import Session


class Told(LookupDrafts):
    """Drafts, and how many runs had how many of them."""

    def __init__(self, seconds: Sequence[float], most: int):
        super().__init__(seconds, most)
        self.runs: Counter[int] = Counter()

    def verified(self, found: Sequence[int], proposed: int) -> None:
        super().verified(found, proposed)
        self.runs[proposed + 1] += 1


def tasks() -> list[dict[str, str]]:
    """(kind, text) of each bundled prompt: texts to be summarized, code to be edited."""
    found: list[dict[str, str]] = json.loads((resources.files(__package__) / "drafting.json").read_text())
    return found


def measure(
    session: Session,
    most: int,
    limit: int,
    counted: Mapping[int, float] | None,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Every task, answered with drafts and without: the same tokens, or the row says so.  `cut` prompts were longer than the context has
    room for, and only their ends were taken.

    counted  seconds of a run of 1, 2, ... tokens as the Verilog counts them; None where there is none
    """
    rows, modelled = [], pass_seconds(session.package)
    every: Counter[int] = Counter()
    tokens = cut = 0
    room = max(1, session.context - limit)
    for number, task in enumerate(tasks()):
        progress(f"prompt {number + 1}")
        drafts = Told(modelled, most)
        prompt = session.prompt(task["text"])
        cut += len(prompt) > room
        answer = session.answer(prompt[-room:], limit, drafts=drafts)
        answer.read()
        digest = session.digest
        plain = session.answer(prompt[-room:], limit)
        plain.read()
        same = [t.id for t in answer.tokens] == [t.id for t in plain.tokens] and digest == session.digest
        every += drafts.runs
        tokens += drafts.rounds.tokens
        rows.append({"kind": task["kind"], "same": same, **row(drafts.rounds.tokens, drafts.runs, modelled, counted)})
    return {
        "gamma": most,
        "cut": cut,
        "same": all(r["same"] for r in rows),
        **row(tokens, every, modelled, counted),
        "rows": rows,
        "pass_ms": [1e3 * s for s in modelled],
        "counted_pass_ms": None if counted is None else {n: 1e3 * s for n, s in counted.items()},
        "kind_of_gain": "tokens measured; seconds of a run "
        + ("modelled" if counted is None else "counted (linears in Verilog, the rest modelled)"),
    }


def row(
    tokens: int, runs: Mapping[int, int], modelled: Sequence[float], counted: Mapping[int, float] | None
) -> dict[str, Any]:
    """Tokens per run, and how many times as many tokens per second that makes."""
    passes = sum(runs.values())
    by_model = sum(n * modelled[k - 1] for k, n in runs.items())
    found = {
        "tokens": tokens,
        "passes": passes,
        "tokens_per_pass": tokens / passes if passes else 0.0,
        "gain_modelled": tokens * modelled[0] / by_model if by_model else 1.0,
    }
    if counted is not None:
        by_count = sum(n * counted[k] for k, n in runs.items())
        found["gain_counted"] = tokens * counted[1] / by_count if by_count else 1.0
    found["gain"] = found.get("gain_counted", found["gain_modelled"])
    return found
