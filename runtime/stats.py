# SPDX-License-Identifier: Apache-2.0
"""What a session counts and times, and a place in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meadow.runtime.display import grid


@dataclass
class Stats:
    """What a session did.  Rates are of this machine, measured; the board's are in the package's report, modelled."""

    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    reused_tokens: int = 0
    """Of prompts, those whose keys and values lay in the cache already: they are no prefill_tokens."""

    unpack_seconds: float = 0.0
    """Spent on unpacking weights, once, in a device that computes on them unpacked; no part of the prefill's."""

    @property
    def prefill_rate(self) -> float:
        """Tokens per second."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens per second."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        rows = [
            ("prompts", str(self.prefill_tokens), f"{self.prefill_seconds:.2f}", f"{self.prefill_rate:.1f}"),
            ("answers", str(self.decode_tokens), f"{self.decode_seconds:.2f}", f"{self.decode_rate:.1f}"),
            ("of prompts in the cache", str(self.reused_tokens), "", ""),
        ]
        return grid(("", "tokens", "seconds", "tokens/s, measured here"), rows)


@dataclass(frozen=True)
class Mark:
    """A place in a conversation to which a Session can go back."""

    conversation: int
    position: int
    digest: Any
    unread: int = 0
