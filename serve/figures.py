# SPDX-License-Identifier: Apache-2.0
"""Figures of a server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300)


class _Told:
    """Figures by the name under which they are told."""

    def __init__(self) -> None:
        self._told: dict[str, Counter | Histogram] = {}

    def tell(self, what: str, number: float) -> None:
        """Count, or observe, by name."""
        figure = self._told[what]
        if isinstance(figure, Histogram):
            figure.observe(number)
        else:
            figure.inc(number)


class Figures(_Told):
    """Counts since the server began.

    waiting, busy  asked for whenever the figures are
    """

    def __init__(self, waiting: Callable[[], int], busy: Callable[[], bool]):
        super().__init__()
        self.registry = CollectorRegistry()
        to = self.registry
        self.requests = Counter("meadow_requests", "Requests by path and status.", ("path", "status"), registry=to)
        self._told = {
            "prompt_tokens": Counter("meadow_prompt_tokens", "Tokens of prompts that were computed.", registry=to),
            "reused_tokens": Counter("meadow_reused_tokens", "Tokens of prompts that lay in the cache.", registry=to),
            "answer_tokens": Counter("meadow_answer_tokens", "Tokens of answers.", registry=to),
            "prefill_seconds": Counter("meadow_prefill_seconds", "Seconds of computing prompts.", registry=to),
            "decode_seconds": Counter("meadow_decode_seconds", "Seconds of computing answers.", registry=to),
            "cancelled": Counter("meadow_cancelled", "Answers that nobody waited for any more.", registry=to),
            "wait_seconds": Histogram(
                "meadow_wait_seconds", "Seconds that a request waited for its turn.", buckets=SECONDS, registry=to
            ),
        }
        Gauge("meadow_waiting", "Requests that wait.", registry=to).set_function(waiting)
        Gauge("meadow_busy", "1 while an answer is computed.", registry=to).set_function(lambda: float(busy()))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class RoundFigures(_Told):
    """Counts of the rounds of boards, beside those of a server."""

    def __init__(self, registry: CollectorRegistry, boards: Callable[[], int]):
        super().__init__()
        self._told = {
            "rounds": Counter("meadow_rounds", "Rounds that the target verified.", registry=registry),
            "drafted": Counter("meadow_drafted", "Tokens that boards proposed.", registry=registry),
            "accepted": Counter("meadow_accepted", "Of them, those that the target chose too.", registry=registry),
            "early": Counter("meadow_early", "Results that an exit told early.", registry=registry),
            "verify_seconds": Counter("meadow_verify_seconds", "Seconds of the target's passes.", registry=registry),
            "round_seconds": Histogram(
                "meadow_round_seconds", "Seconds from a proposal to its result.", buckets=SECONDS, registry=registry
            ),
        }
        Gauge("meadow_boards", "Boards with a link.", registry=registry).set_function(lambda: float(boards()))
