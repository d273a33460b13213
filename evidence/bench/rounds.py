# SPDX-License-Identifier: Apache-2.0
"""A board, a server and the network between them on a virtual clock: real models say the tokens, stated times say how long it takes."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meadow.runtime.drafts import likeliest_after
from meadow.runtime.session import Session
from meadow.serve.frames import encode
from meadow.serve.remote import framed
from meadow.speculate import chance
from meadow.speculate.messages import Begin, Early, ToBoard, ToServer
from meadow.speculate.network import Network
from meadow.speculate.rounds import Counts, Drafter, Verifier, Work
from meadow.targets.exits import confidence
from meadow.targets.target import Ask, Kept, Rows, Target


@dataclass(frozen=True)
class Times:
    """Stated seconds.

    draft         of the board, for a token
    verify        of the server, for a round
    server_draft  of the server, for a token of the same draft model there
    exit_share    that each exit adds to a round: its head's share of the target
    """

    draft: float = 0.072
    verify: float = 0.620
    server_draft: float = 0.072
    exit_share: float = 0.02


@dataclass
class Result:
    """What verifying a round says: of exits (layer, accepted, token), and of the target."""

    early: list[tuple[int, int, int]]
    accepted: int
    token: int


class Draft:
    """The board's model; what it said of a text is remembered."""

    def __init__(self, session: Session):
        self.session = session
        self._said: dict[tuple[int, ...], int] = {}

    def __call__(self, text: Sequence[int]) -> int:
        key = tuple(text)
        if key not in self._said:
            self._said[key] = likeliest_after(self.session, list(text))
        return self._said[key]


class Judge:
    """The server's model, greedy; what it said of a round is remembered."""

    def __init__(self, target: Target, tau: float):
        self.target, self.tau = target, tau
        self._said: dict[tuple[tuple[int, ...], tuple[int, ...]], Result] = {}
        self._kept: dict[int, Kept] = {}

    def __call__(self, prompt: int, work: Work) -> Result:
        key = (work.text, work.drafts)
        if key not in self._said:
            self._said[key] = self._verify(prompt, work)
        return self._said[key]

    def _verify(self, prompt: int, work: Work) -> Result:
        early: list[tuple[int, int, int]] = []

        def told(number: int, layer: int, rows: Rows) -> None:
            accepted, token = chance.likeliest(list(rows), work.drafts, self.target.ends)
            if confidence(rows[: accepted + 1]).min() >= self.tau:
                early.append((layer, accepted, token))

        ask = Ask(self._kept.setdefault(prompt, Kept()), work.text, work.drafts)
        rows = self.target.verify([ask], told if self.target.exits else None)[0]
        return Result(early, *chance.likeliest(list(rows), work.drafts, self.target.ends))

    def alone(self, prompt: Sequence[int], limit: int) -> list[int]:
        """The target's own answer, a token at a time, with its end token."""
        text, kept = list(prompt), Kept()
        while len(text) - len(prompt) < limit and len(text) <= self.target.context:
            text.append(int(np.argmax(self.target.verify([Ask(kept, tuple(text), ())])[0][-1])))
            if text[-1] in self.target.ends:
                break
        return text[len(prompt) :]


@dataclass
class Run:
    """An answer on the virtual clock: its tokens, the seconds until the last of them, those of the server, bytes over the link,
    the drafts of each round with how many were accepted, and restarts of the server."""

    tokens: list[int]
    seconds: float
    server_seconds: float
    board_seconds: float
    sent: int
    received: int
    counts: Counts
    rounds: list[tuple[int, int]] = field(default_factory=list)
    restarts: int = 0


class Play:
    """One answer.

    restart  the server forgets everything while it verifies this round; -1: never
    """

    def __init__(
        self,
        draft: Callable[[Sequence[int]], int],
        judge: Callable[[Work], Result],
        drafter: Drafter,
        verifier: Callable[[], Verifier],
        network: Network,
        times: Times,
        exits: tuple[int, int],
        seed: int,
        restart: int = -1,
    ):
        self.draft, self.judge, self.drafter, self.new_verifier = draft, judge, drafter, verifier
        self.network, self.times, self.restart = network, times, restart
        self.exits, self.layers = exits
        self.chance = random.Random(seed)
        self.verifier = verifier()
        self.now = 0.0
        self._events: list[tuple[float, int, str, Any]] = []
        self._number = 0
        self._inbox: list[ToBoard] = []
        self._busy = False
        self._said = 0  # of the last timer
        self._life = 0  # of the server
        self._free = 0.0
        self.run = Run([], 0.0, 0.0, 0.0, 0, 0, drafter.counts)

    def _at(self, seconds: float, what: str, how: Any) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now + seconds, self._number, what, how))

    def play(self) -> Run:
        """To the end of the answer."""
        while True:
            self._board()
            if self.drafter.done:
                break
            self.now, _, what, how = heapq.heappop(self._events)
            getattr(self, f"_{what}")(how)
        self.run.tokens, self.run.seconds = self.drafter.answer, self.now
        return self.run

    # -- the board -----------------------------------------------------------------------------------------------------

    def _board(self) -> None:
        """All that it does at once: hear, speak, begin to draft."""
        if self._busy:
            return
        for message in self._inbox:
            proposed, rounds, accepted = self.drafter.proposed, self.drafter.counts.rounds, self.drafter.counts.accepted
            self.drafter.received(message)
            if self.drafter.counts.rounds > rounds:
                self.run.rounds.append((proposed, self.drafter.counts.accepted - accepted))
        self._inbox.clear()
        for spoken in self.drafter.outbox:
            self._send(spoken)
        self.drafter.outbox.clear()
        text = self.drafter.next()
        if text is not None:
            self._busy = True
            self.run.board_seconds += self.times.draft
            self._at(self.times.draft, "drafted", text)

    def _drafted(self, text: list[int]) -> None:
        self._busy = False
        self.drafter.drafted(self.draft(text))

    def _send(self, message: ToServer) -> None:
        size = framed(len(encode(message)), masked=True)
        self.run.sent += size
        way = self.network.seconds(size, True, self.chance)
        if way is not None:
            self._at(way, "heard", message)
        self._said += 1
        self._at(2 * (self.network.rtt + self.network.jitter + self.times.verify), "again", self._said)

    def _again(self, said: int) -> None:
        """Nothing was said since: say it once more."""
        if said == self._said:
            self.drafter.timeout()

    def _told(self, message: ToBoard) -> None:
        self._inbox.append(message)

    # -- the server ----------------------------------------------------------------------------------------------------

    def _heard(self, message: Begin) -> None:
        found = self.verifier.received(message)
        if isinstance(found, Work):
            result = self.judge(found)
            takes = self.times.verify * (1 + self.times.exit_share * self.exits)
            start = max(self._free, self.now) - self.now
            self._free = self.now + start + takes
            self.run.server_seconds += takes
            if found.round == self.restart:
                self.restart = -1
                self._at(start + takes / 2, "died", None)
            for layer, accepted, token in result.early:
                self._at(
                    start + takes * layer / self.layers,
                    "tell",
                    (self._life, Early(found.round, layer, accepted, token)),
                )
            self._at(start + takes, "verified", (self._life, found, result))
        elif found is not None:
            self._reply(found)

    def _died(self, _: None) -> None:
        self._life += 1
        self.run.restarts += 1
        self.verifier, self._free = self.new_verifier(), self.now

    def _tell(self, how: tuple[int, ToBoard]) -> None:
        if how[0] == self._life:
            self._reply(how[1])

    def _verified(self, how: tuple[int, Work, Result]) -> None:
        life, work, result = how
        if life == self._life:
            ends = result.token in self.drafter.ends
            found = self.verifier.verified(result.accepted, result.token, ends, work)
            if found is not None:
                self._reply(found)

    def _reply(self, message: ToBoard) -> None:
        size = framed(len(encode(message)), masked=False)
        self.run.received += size
        way = self.network.seconds(size, False, self.chance)
        if way is not None:
            self._at(way, "told", message)
