# SPDX-License-Identifier: Apache-2.0
"""bench llm: prompt processing and text generation, by the names under which they are compared (pp512, tg128)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from meadow.compiler.price.run import estimate, prompt_estimate
from meadow.machine.errors import UsageError
from meadow.machine.package.read import Package
from meadow.runtime.session import Session

SEED = 7
"""Of the random tokens that stand for text: what a token is does not change what it takes."""


def check(context: int, prompts: Sequence[int], answers: Sequence[int]) -> None:
    """Raise UsageError for lengths that the context does not hold."""
    wrong = [f"pp{n}" for n in prompts if not 1 <= n <= context] + [f"tg{n}" for n in answers if not 1 <= n < context]
    if wrong:
        raise UsageError(
            f"{', '.join(wrong)}: prompts of 1 to {context} and answers of 1 to {context - 1} tokens are possible (the context is {context})"
        )
    if not prompts and not answers:
        raise UsageError("neither a prompt nor an answer is asked for; give -p or -n")


def measure(
    session: Session, prompts: Sequence[int], answers: Sequence[int], repeats: int, tell: Callable[[str, str], None]
) -> Iterator[dict[str, Any]]:
    """One row for each length, measured on the session's device, each beside what the compiler models for the board.

    A first run, which is not counted, unpacks the weights.  An answer follows one token.
    """
    package, device = session.package, session.device
    random = np.random.default_rng(SEED)
    emulated = "emulated, this machine" if device.emulated else "on the board"
    about = {"model": package.name, "board": package.design.board, "device": device.name}
    tell("warm", "up")
    session.reset()
    session.prefill([1])
    for name, count in (*(("pp", n) for n in prompts), *(("tg", n) for n in answers)):
        rates = []
        for turn in range(repeats):
            tell(f"{name}{count}", f"{turn + 1} of {repeats}")
            tokens = [int(t) for t in random.integers(0, int(package.model["vocab"]), count)]
            session.reset()
            rates.append(count / (_prompt(session, tokens) if name == "pp" else _answer(session, tokens)))
        row = {
            "test": f"{name}{count}",
            "tokens_per_s": statistics.fmean(rates),
            "stddev": statistics.stdev(rates) if repeats > 1 else 0.0,
            "kind": f"measured ({emulated})",
        }
        yield {**about, **row}
        yield {
            **about,
            "test": f"{name}{count}",
            "tokens_per_s": modelled(package, name, count),
            "stddev": 0.0,
            "kind": "modelled",
        }


def _prompt(session: Session, tokens: list[int]) -> float:
    """Seconds of a prompt, up to its first logits."""
    began = time.perf_counter()
    session.prefill(tokens)
    return time.perf_counter() - began


def _answer(session: Session, tokens: list[int]) -> float:
    """Seconds of so many decoded tokens."""
    session.prefill([1])
    began = time.perf_counter()
    for token in tokens:
        session.step(token)
    return time.perf_counter() - began


def modelled(package: Package, name: str, count: int) -> float:
    """Tokens per second of the same on the board, by the cost model: an answer as its token in the middle."""
    bandwidth = float(package.figures()["bandwidth_gb_s"])
    design, chunks = package.design, len(package.chunks)
    if name == "pp":
        return count / prompt_estimate(package.steps("prefill"), design, count, bandwidth, chunks).seconds
    return 1 / estimate(package.steps("decode"), design, 1, 1 + count // 2, bandwidth, chunks=chunks).seconds
