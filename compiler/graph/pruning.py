# SPDX-License-Identifier: Apache-2.0
"""What a file says of what was pruned: written into its metadata by `prune`, read from files of anybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

KEY = "meadow.pruned"
LARGEST = 1 << 20
"""Characters of a record that are read."""
SHARES = ("heads", "kv_groups", "channels", "weights")


def pruning_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The record of a file: shares that went, the score, whether matrices were fitted; None where it has none, or one that is not whole."""
    text = metadata.get(KEY, "")
    if not text or len(text) > LARGEST:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("repair"), bool):
        return None
    shares: list[Any] = [found.get(key) for key in SHARES]
    score, rule = found.get("score"), found.get("rule")
    if not all(type(s) in (int, float) and 0 <= s <= 1 for s in shares):
        return None
    if not all(isinstance(word, str) and word.isprintable() and len(word) <= 64 for word in (score, rule)):
        return None
    return {key: found[key] for key in (*SHARES, "score", "rule", "repair")}


def sentence(found: Mapping[str, Any]) -> str:
    """For people."""
    named = zip(SHARES, ("of the heads", "of the KV heads with theirs", "of the MLP channels"), strict=False)
    parts = [f"{found[key]:.0%} {what}" for key, what in named if found[key]]
    whole = [f"{', '.join(parts)} by {found['score']}" + (", repaired" if found["repair"] else "")] if parts else []
    masked = [f"{found['weights']:.0%} of the weights by {found['rule']}"] if found["weights"] else []
    return ", then ".join(whole + masked)
