# SPDX-License-Identifier: Apache-2.0
"""The rounds of many boards: whoever waits is verified together, in one pass over the target's weights.

One thread has the target; boards.py has the links.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meadow.machine.errors import MeadowError
from meadow.runtime.text.sampler import GREEDY, Logits, Sampling, probabilities
from meadow.speculate import chance
from meadow.speculate.messages import Early, Hello, Refused, ToBoard
from meadow.speculate.rounds import Verifier, Work
from meadow.targets.exits import confidence
from meadow.targets.target import Ask, Kept, Target

MOST_TOGETHER = 64
"""Rounds of one pass."""
PIECE = 256
"""Rows of one text that a pass computes at most."""
ROWS = 512
"""Rows of a pass: what is computed between the layers is kept for all of them."""
KEPT_BYTES = 2 << 30
"""Of keys and values of all boards; the rest is computed again, to the same bits."""


@dataclass(eq=False)
class Board:
    """A board as the server sees it: its greeting, its rounds, and `put`, which sends it a message."""

    hello: Hello
    verifier: Verifier
    put: Callable[[ToBoard], None]
    kept: Kept = field(default_factory=Kept)
    asked: float = 0.0
    gone: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Of the verifier: the link's thread asks it, the target's tells it results."""

    @property
    def sampling(self) -> Sampling:
        h = self.hello
        return Sampling(h.temperature, h.top_k, h.top_p, h.min_p, seed=h.seed)

    def decide(self, rows: Logits, work: Work, ends: frozenset[int]) -> tuple[int, int]:
        """(accepted drafts, the token behind them), by the logits of the target, or of an exit.  Raises ValueError."""
        if self.hello.temperature < GREEDY:
            if not np.isfinite(rows.max()):
                raise ValueError("the logits are not finite")
            return chance.likeliest(list(rows), work.drafts, ends)
        likely = [probabilities(row, self.sampling) for row in rows]
        return chance.sampled(likely, work.drafts, work.choices, ends, self.hello.seed, len(work.text))


class Rounds:
    """Verifies what boards propose.

    tell  called with (what, number) for the figures
    tau   an exit tells where it is as sure as this of every token that it names; None: the target's own
    """

    def __init__(
        self, target: Target, tell: Callable[[str, float], None] = lambda what, number: None, tau: float | None = None
    ):
        self.target, self.tell, self.tau = target, tell, target.tau if tau is None else tau
        self._waiting: dict[Board, Work] = {}
        self._boards: dict[Board, None] = {}  # in the order of their last round
        self._changed = threading.Condition()
        self._ends = False
        self._thread = threading.Thread(target=self._work, name="meadow-target", daemon=True)
        self._thread.start()

    @property
    def boards(self) -> int:
        return len(self._boards)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def joined(self, board: Board) -> None:
        with self._changed:
            self._boards[board] = None

    def left(self, board: Board) -> None:
        """Nobody waits for its rounds any more."""
        with self._changed:
            board.gone = True
            self._waiting.pop(board, None)
            self._boards.pop(board, None)

    def submit(self, board: Board, work: Work) -> None:
        board.asked = time.monotonic()
        with self._changed:
            self._waiting[board] = work
            self._changed.notify()

    def stop(self) -> None:
        """Take no more.  Boards are told nothing: their links end, and they come back to whoever serves next."""
        with self._changed:
            self._ends = True
            self._changed.notify()

    def close(self) -> None:
        """End after the pass that is under way."""
        self.stop()
        self._thread.join()
        self.target.close()

    def _work(self) -> None:
        while (some := self._next()) is not None:
            began = time.perf_counter()
            try:
                self._verify(some)
            except Exception:  # of one of them: each alone, so that the others have their results
                for one in some:
                    self._alone(*one)
            self.tell("verify_seconds", time.perf_counter() - began)

    def _alone(self, board: Board, work: Work) -> None:
        """Verify a round of a pass that failed, and refuse it where it fails again."""
        with self._changed:
            if self._waiting.get(board, work) is not work:
                return  # it began another one meanwhile
            self._waiting.pop(board, None)
        try:
            self._verify([(board, work)])
        except (MeadowError, ValueError) as wrong:
            self._refuse(board, work, str(wrong))
        except Exception as wrong:  # a fault of ours: the board is told, the server goes on
            self._refuse(board, work, f"the server failed: {type(wrong).__name__}")

    def _next(self) -> list[tuple[Board, Work]] | None:
        with self._changed:
            while not self._waiting and not self._ends:
                self._changed.wait()
            if self._ends:
                return None
            some = list(self._waiting.items())[:MOST_TOGETHER]
            for board, _ in some:
                del self._waiting[board]
            return some

    def _refuse(self, board: Board, work: Work, words: str) -> None:
        """Tell a board, unless it has begun another round meanwhile."""
        with board.lock:
            if board.verifier.work is work:
                board.put(Refused(words))

    def _verify(self, some: list[tuple[Board, Work]]) -> None:
        some = self._prepare(some)
        if not some:
            return
        asks = [Ask(board.kept, work.text, work.drafts) for board, work in some]
        wants = self.target.exits and any(board.hello.early for board, _ in some)

        def early(number: int, layer: int, rows: Logits) -> None:
            board, work = some[number]
            if board.hello.early and not board.gone:
                self._early(board, work, layer, rows)

        found = self.target.verify(asks, early if wants else None)
        for (board, work), rows in zip(some, found, strict=True):
            try:
                accepted, token = board.decide(rows, work, self.target.ends)
            except ValueError as wrong:
                self._refuse(board, work, str(wrong))
                continue
            with board.lock:
                result = board.verifier.verified(accepted, token, token in self.target.ends, work)
            if result is None:
                continue  # it began anew meanwhile
            self.tell("rounds", 1)
            self.tell("drafted", len(work.drafts))
            self.tell("accepted", accepted)
            self.tell("round_seconds", time.monotonic() - board.asked)
            board.put(result)
        self._served([board for board, _ in some])

    def _prepare(self, some: list[tuple[Board, Work]]) -> list[tuple[Board, Work]]:
        """The rounds that this pass verifies, of ROWS rows together at most: the one that waits longest, and then the smallest.  A piece of
        one text that is longer is computed too, so that who comes with much keeps nobody waiting and gets on; the others wait for the
        next pass."""
        if not self.target.kept_bytes:  # nothing is kept that a piece could add to
            return some
        room, ready, later = ROWS, list[tuple[Board, Work]](), list[tuple[Board, Work]]()
        small = [one for one in some if _missing(*one) <= PIECE]
        oldest = min(small, key=lambda one: one[0].asked, default=None)
        for board, work in sorted(some, key=lambda one: (one is not oldest, _missing(*one))):
            rows = _missing(board, work)
            if rows <= min(room, PIECE):
                ready.append((board, work))
                room -= rows
            else:
                later.append((board, work))
        if later:
            board, work = min(later, key=lambda one: one[0].asked)
            have = board.kept.same(work.text)
            if have < len(work.text) - 1:
                self.target.verify([Ask(board.kept, work.text[: have + PIECE], ())])
                self._served([board])
        with self._changed:
            for board, work in later:
                if not board.gone:
                    self._waiting.setdefault(board, work)
        return ready

    def _early(self, board: Board, work: Work, layer: int, rows: Logits) -> None:
        try:
            accepted, token = board.decide(rows, work, self.target.ends)
        except ValueError:
            return  # an exit that overflows has nothing to tell
        if confidence(rows[: accepted + 1]).min() >= self.tau:
            self.tell("early", 1)
            board.put(Early(work.round, layer, accepted, token))

    def _served(self, some: list[Board]) -> None:
        """Remember who was served last, and drop what is kept of boards that wait for nothing, the longest unheard of first, where all
        together keep too much."""
        each = self.target.kept_bytes
        with self._changed:
            for board in some:
                if board in self._boards:
                    self._boards[board] = self._boards.pop(board)
            total = sum(len(board.kept.tokens) for board in self._boards) * each
            for board in list(self._boards):
                if total <= KEPT_BYTES:
                    break
                if board.verifier.work is None and board not in some:
                    total -= len(board.kept.tokens) * each
                    board.kept.tokens, board.kept.state = [], None


def _missing(board: Board, work: Work) -> int:
    """Rows that a round computes."""
    return len(work.text) - min(board.kept.same(work.text), len(work.text) - 1) + len(work.drafts)


def facts(rounds: Rounds) -> dict[str, Any]:
    """For /health."""
    target = rounds.target
    return {
        "target": target.name,
        "context": target.context,
        "exits": list(target.exits),
        "boards": rounds.boards,
        "waiting": rounds.waiting,
    }
