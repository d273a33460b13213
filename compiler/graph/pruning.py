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


def records_of(metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """The records of a file, the oldest first: shares that went, by what, whether matrices were fitted.  Those that are not whole are left out."""
    text = metadata.get(KEY, "")
    if not text or len(text) > LARGEST:
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [record for record in found if _whole(record)] if isinstance(found, list) else []


def _whole(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("repair"), bool):
        return False
    shares: list[Any] = [record.get(key) for key in SHARES]
    words: list[Any] = [record.get(key) for key in ("score", "rule")]
    return all(type(s) in (int, float) and 0 <= s <= 1 for s in shares) and all(
        isinstance(word, str) and word.isprintable() and len(word) <= 64 for word in words
    )


def sentence(records: list[dict[str, Any]]) -> str:
    """For people."""
    return ", then ".join(part for record in records for part in _parts(record))


def _parts(record: Mapping[str, Any]) -> list[str]:
    named = zip(SHARES, ("of the heads", "of the KV heads with theirs", "of the MLP channels"), strict=False)
    parts = [f"{record[key]:.0%} {what}" for key, what in named if record[key]]
    whole = [f"{', '.join(parts)} by {record['score']}" + (", repaired" if record["repair"] else "")] if parts else []
    return whole + ([f"{record['weights']:.0%} of the weights by {record['rule']}"] if record["weights"] else [])
