# SPDX-License-Identifier: Apache-2.0
"""What the ladder is climbed with: prompts of text or token ids, the user's own, the bundled ones, or random tokens."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from meadow.compiler.quantize.calibrate import calibration_text
from meadow.machine.errors import UsageError
from meadow.runtime.session import Session

RANDOM_PROMPTS = (16, 1, 40, 7, 64, 3, 100, 25)
"""Lengths of the prompts of a model without a tokenizer."""


def prompts(session: Session, file: Path | None, limit: int) -> list[tuple[str, list[int]]]:
    """(title, token ids) of each prompt of a JSON list of {text, raw, before} or {ids}.

    Without a list, a model without a tokenizer gets random ids of the lengths of RANDOM_PROMPTS.
    """
    room, vocab = max(1, session.context - 32), int(session.package.model["vocab"])
    if file is None and not session.has_tokenizer:
        random = np.random.default_rng(0)
        lengths = [min(n, room) for n in RANDOM_PROMPTS[: limit or None]]
        return [(f"{n} random tokens", random.integers(0, vocab, n).tolist()) for n in lengths]
    found = []
    for entry in json.loads(_prompt_file(file))[: limit or None]:
        if "ids" in entry:
            found.append((f"{len(entry['ids'])} tokens", entry["ids"][-room:]))
            continue
        whole = entry["text"]
        if "before" in entry:
            whole = calibration_text() + "\n" + whole
        found.append((entry["text"], session.prompt(whole, raw=bool(entry.get("raw")))[-room:]))
    return found


def _prompt_file(file: Path | None) -> str:
    """The text of a prompt list.  Raises UsageError unless it is a JSON list of objects with a text, or token ids, each."""
    if file is None:
        return resources.files("meadow.evidence.ladder").joinpath("prompts.json").read_text()
    try:
        text = file.read_text()
        entries = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--prompts {file}: {error}") from None

    def good(entry: Any) -> bool:
        if not isinstance(entry, dict) or not {"text", "ids"} & entry.keys():
            return False
        ids = entry.get("ids", [0])
        whole = (
            isinstance(ids, list)
            and ids
            and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids)
        )
        return bool(whole) and isinstance(entry.get("text", ""), str)

    if not isinstance(entries, list) or not entries or not all(good(e) for e in entries):
        raise UsageError(
            f'--prompts {file}: a JSON list such as [{{"text": "Hello", "raw": true}}, {{"ids": [1, 50, 7]}}] is expected'
        )
    return text
