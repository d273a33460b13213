# SPDX-License-Identifier: Apache-2.0
"""What a file says of how its weights were calibrated: written into its metadata by `quantize`, read from files of anybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

KEY = "meadow.calibration"
METHODS = ("rtn", "gptq", "gptaq", "shift")
"""How weights are rounded (compiler/quantize/solver.py)."""
LARGEST = 1 << 20
"""Characters of a record that are read."""
NUMBERS = ("tokens", "windows", "held", "seed")


def written(facts: Mapping[str, Any], errors: list[list[Any]]) -> dict[str, str]:
    """The metadata of a file.

    errors  [first matrix, relative error of the outputs by nearest, as solved, beta] of each group of matrices
    """
    return {KEY: json.dumps({**facts, "errors": errors})}


def calibration_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The record of a file; None where it has none, or one that is not whole."""
    text = metadata.get(KEY, "")
    if not text or len(text) > LARGEST:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("method") not in METHODS:
        return None
    rows = found.get("errors")
    whole = isinstance(rows, list) and all(
        isinstance(r, list) and len(r) == 4 and isinstance(r[0], str) and all(_number(v) for v in r[1:]) for r in rows
    )
    texts = isinstance(found.get("text"), str) and found["text"].isprintable() and len(found["text"]) < 256
    if not whole or not texts or not all(type(found.get(key)) is int for key in NUMBERS):
        return None
    return {key: found[key] for key in ("method", "text", *NUMBERS, "errors")}


def _number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e9


def sentence(found: Mapping[str, Any]) -> str:
    """For people."""
    return (
        f"{found['method']} on {found['tokens']:,} tokens of {found['text']} (seed {found['seed']}), "
        f"{found['held']} of {found['windows']} windows held out"
    )
