# SPDX-License-Identifier: Apache-2.0
"""What a file says of thresholds that were put into it: written into its metadata by `sparsify`, read from files of anybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

KEY = "meadow.sparse"
LARGEST = 1 << 20
"""Characters of a record that are read."""


def sparsity_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The record of a file: the share of weights, the shape, the distance; None where it has none, or one that is not whole."""
    text = metadata.get(KEY, "")
    if not text or len(text) > LARGEST:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    numbers: list[Any] = [found.get(key) for key in ("share", "distance")]
    shape = found.get("shape")
    if (
        not all(type(n) in (int, float) and 0 <= n < 1e9 for n in numbers)
        or numbers[0] > 1
        or shape not in ("auto", "uniform")
    ):
        return None
    return {key: found[key] for key in ("share", "shape", "distance")}


def sentence(found: Mapping[str, Any]) -> str:
    """For people."""
    return (
        f"{found['share']:.0%} of the layers' weights are not needed on calibration text, by the {found['shape']} shape, "
        f"{found['distance']:.3f} nats per token from the whole model"
    )
