# SPDX-License-Identifier: Apache-2.0
"""Figures of a server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300)


class Figures:
    """Counts since the server began.

    waiting, busy  asked for whenever the figures are
    """

    def __init__(self, waiting: Callable[[], int], busy: Callable[[], bool]):
        self.registry = CollectorRegistry()
        made = {"registry": self.registry}
        self.requests = Counter("meadow_requests", "Requests by path and status.", ("path", "status"), **made)
        self._counters = {
            "prompt_tokens": Counter("meadow_prompt_tokens", "Tokens of prompts that were computed.", **made),
            "reused_tokens": Counter("meadow_reused_tokens", "Tokens of prompts that lay in the cache.", **made),
            "answer_tokens": Counter("meadow_answer_tokens", "Tokens of answers.", **made),
            "prefill_seconds": Counter("meadow_prefill_seconds", "Seconds of computing prompts.", **made),
            "decode_seconds": Counter("meadow_decode_seconds", "Seconds of computing answers.", **made),
            "cancelled": Counter("meadow_cancelled", "Answers that nobody waited for any more.", **made),
        }
        self._wait = Histogram(
            "meadow_wait_seconds", "Seconds that a request waited for its turn.", buckets=SECONDS, **made
        )
        Gauge("meadow_waiting", "Requests that wait.", **made).set_function(waiting)
        Gauge("meadow_busy", "1 while an answer is computed.", **made).set_function(lambda: float(busy()))

    def tell(self, what: str, number: float) -> None:
        """Count; names are those of the counters, and wait_seconds."""
        if what == "wait_seconds":
            self._wait.observe(number)
        else:
            self._counters[what].inc(number)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
