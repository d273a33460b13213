# SPDX-License-Identifier: Apache-2.0
"""Remote: a board's end of a link to a server that verifies.  It drafts with its own model, and goes on drafting while it waits.

rounds.py decides what is said; here are the link, its losses, and the clock.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    WebSocketException,
)
from websockets.sync.client import ClientConnection, connect

from meadow.machine.errors import DeviceError, UsageError
from meadow.runtime.session import Session
from meadow.runtime.text.sampler import GREEDY, Sampling, probabilities
from meadow.runtime.text.vocabulary import Vocabulary, word
from meadow.serve.address import Server
from meadow.serve.frames import Unreadable, decode, encode
from meadow.speculate import chance
from meadow.speculate.messages import MOST_DRAFTS, VERSION, Choice, Hello, Propose, Refused, ToServer, Welcome
from meadow.speculate.pace import Pace
from meadow.speculate.rounds import Broken, Drafter

AGAIN_SECONDS = 5.0
"""After which what was not answered is said again."""
MOST_WAIT = 600.0
"""Seconds of a round at most: a long text, and many boards before it."""
OPEN_SECONDS, CLOSE_SECONDS = 10.0, 1.0
MOST_FRAME = 1 << 22
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two links that are tried."""
SMOOTHED = 0.8
"""What a measured time leaves of those before it."""


class Gone(Exception):
    """The link is broken."""


class Link:
    """One connection, opened and greeted.  Raises Gone where it breaks, UsageError where the server refuses."""

    def __init__(self, server: Server, hello: Hello, vocabulary: Vocabulary):
        context = None
        if server.url.startswith("wss:"):
            context = server.trusted()
        headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
        self.sent = self.received = 0
        self._open = ExitStack()
        try:
            opening = connect(
                server.address,
                additional_headers=headers,
                ssl=context,
                max_size=MOST_FRAME,
                open_timeout=OPEN_SECONDS,
                close_timeout=CLOSE_SECONDS,
                compression=None,
                proxy=None,
            )
            self.socket: ClientConnection = self._open.enter_context(opening)
        except ssl.SSLError as wrong:
            if wrong.reason == "WRONG_VERSION_NUMBER":
                raise UsageError(f"{server.url} does not speak TLS; use ws://") from None
            if not isinstance(wrong, ssl.SSLCertVerificationError):
                raise Gone(f"{server.url} broke the link while it was made") from None
            raise UsageError(
                f"{server.url}: its certificate is not trusted ({wrong.reason}); name the authority's with --ca"
            ) from None
        except InvalidStatus as wrong:
            if wrong.response.status_code >= 500:  # it begins, or ends
                raise Gone(f"{server.url} answers with status {wrong.response.status_code}") from None
            raise _refusal_of(server, wrong) from None
        except InvalidMessage:
            raise Gone(f"{server.url} broke the link while it was made") from None
        except (InvalidURI, InvalidHandshake) as wrong:
            raise UsageError(f"{server.url} is no server of meadow: {wrong}") from None
        except (OSError, WebSocketException, TimeoutError) as wrong:
            raise Gone(f"{server.url} does not answer: {getattr(wrong, 'strerror', None) or wrong}") from None
        try:
            self.send(hello)
            welcome = self.take(OPEN_SECONDS)
        except BaseException:
            self.close()
            raise
        if isinstance(welcome, Refused):
            self.close()
            raise UsageError(f"the server refuses: {_words(welcome, vocabulary)}")
        if welcome is None:
            self.close()
            raise Gone(f"{server.url} said nothing within {OPEN_SECONDS:g} s")
        if not isinstance(welcome, Welcome):
            self.close()
            raise UsageError(f"{server.url} did not say Welcome: another version of meadow, or no server of it")
        self.welcome = welcome

    def send(self, message: ToServer) -> None:
        data = encode(message)
        try:
            self.socket.send(data)
        except (ConnectionClosed, OSError) as wrong:
            raise Gone(str(wrong)) from None
        self.sent += framed(len(data), masked=True)

    def take(self, seconds: float) -> Any:
        """The next message; None where none comes in time."""
        try:
            data = self.socket.recv(timeout=seconds)
        except TimeoutError:
            return None
        except (ConnectionClosed, OSError) as wrong:
            raise Gone(str(wrong)) from None
        if isinstance(data, str):
            raise Gone("the server sent text")
        self.received += framed(len(data), masked=False)
        try:
            return decode(data)
        except Unreadable as wrong:
            raise Gone(f"the server sent what cannot be read: {wrong}") from None

    def close(self) -> None:
        self._open.close()


def framed(size: int, masked: bool) -> int:
    """Bytes of a message of `size` bytes with its WebSocket header (RFC 6455, 5.2)."""
    return size + 2 + (0 if size < 126 else 2 if size < 65536 else 8) + 4 * masked


def _refusal_of(server: Server, wrong: InvalidStatus) -> UsageError:
    status = wrong.response.status_code
    if status in (401, 403):
        return UsageError(
            f"{server.url} refuses this board: no key, or a wrong one (--key, $MEADOW_API_KEY), or it serves as many as it takes"
        )
    return UsageError(f"{server.url} answers with status {status}; was it started with --target?")


def _words(refused: Refused, vocabulary: Vocabulary) -> str:
    if not refused.checks:
        return refused.words
    first = vocabulary.first_difference(refused.checks)
    if first is None:
        return refused.words
    return f"{refused.words}: token {first} is {word(vocabulary.words, first)!r} in the draft's and another one in the target's"


class Remote:
    """Answers of a target, drafted by a session.

    gamma  drafts of a round at most; how many is decided each round
    ahead  what is drafted on while a round is under way (speculate.rounds.AHEAD)
    Raises UsageError, and DeviceError where the server is not there.
    """

    def __init__(
        self, session: Session, server: Server, sampling: Sampling | None = None, gamma: int = 8, ahead: str = "both"
    ):
        server.check()
        self.session, self.server, self.ahead = session, server, ahead
        self.sampling = sampling or Sampling()
        self.sampling.check()
        if self.sampling.seed >= 1 << 64 or self.sampling.top_k >= 1 << 32 or self.sampling.temperature >= 1e9:
            raise UsageError(
                "a seed below 2^64, a top_k below 2^32 and a temperature below 1e9 can be sent to a server"
            )
        if self.sampling.repeat_penalty != 1.0:
            raise UsageError("--repeat-penalty depends on the text in another way than a target verifies; drop it")
        self.vocabulary = session.vocabulary
        self.sent = self.received = 0
        self.draft_seconds, self.round_seconds = 0.02, 0.1
        self.pace = Pace(lambda n: n * self.draft_seconds + self.round_seconds, min(gamma, MOST_DRAFTS))
        self._ran = 0  # tokens that the last draft took
        self._timed: float | None = None  # when the round under way was proposed, where its time tells what rounds take
        self._said = -1  # the round of the last message
        self._waits = 0.0  # seconds without a message
        self._lost: float | None = None  # since when there was no result, because of the link
        self._pause = SHORTEST_PAUSE
        self.fell_back = ""
        """Why the draft model went on alone; "" where it did not."""
        self.drafter: Drafter | None = None
        self._link: Link | None = None
        try:
            self.welcome = self._connect()
        except Gone as wrong:
            raise DeviceError(str(wrong)) from None

    def close(self) -> None:
        if self._link is not None:
            self._drop()

    def answer(self, prompt: list[int], limit: int, ends: frozenset[int]) -> Iterator[int]:
        """The target's tokens, as they are certain; an end token is not given out.

        Raises DeviceError where the server is gone, or refuses, and `fallback` is "stop".
        """
        if len(prompt) > self.welcome.context:
            raise UsageError(f"the prompt has {len(prompt)} tokens; the target's context holds {self.welcome.context}")
        self.session.check_tokens(prompt, 0)
        self.fell_back = ""
        first = 0 if self.drafter is None else self.drafter.round + 1
        drafter = self.drafter = Drafter(
            prompt,
            limit,
            frozenset(),  # what ends an answer is the target's to say
            lambda: self.pace.drafts(self.welcome.drafts),
            self.session.context,
            self.welcome.context,
            self.ahead,
            first,
        )
        given, self._waits, self._lost, self._timed = 0, 0.0, None, None
        while True:
            try:
                self._turn(drafter)
            except Gone as wrong:
                self._again(drafter, str(wrong))
            if drafter.refused:
                self._without(drafter, f"the server refuses: {drafter.refused}")
            for token in drafter.answer[given:]:
                given += 1
                if not (drafter.ended and given == len(drafter.answer)):
                    yield token
            if self.fell_back:
                yield from self._alone(drafter, limit - given, ends)
                return
            if drafter.done:
                return

    def _turn(self, drafter: Drafter) -> None:
        """Say what there is to say, draft a token where one is wanted, hear what came."""
        link = self._link
        if link is None:
            raise Gone("there is no link")
        for message in drafter.outbox:
            link.send(message)
            # A first round computes the prompt; of one that is said again nobody knows which saying was answered.
            self._timed = time.monotonic() if isinstance(message, Propose) and message.round != self._said else None
            self._said = message.round
        drafter.outbox.clear()
        text = drafter.next()
        if text is not None:
            began = time.perf_counter()
            drafter.drafted(*self._draft(text))
            if self._ran <= 2:  # not where a prompt was computed with it
                self.draft_seconds = SMOOTHED * self.draft_seconds + (1 - SMOOTHED) * (time.perf_counter() - began)
        message = link.take(0 if text is not None else AGAIN_SECONDS)
        if message is None:
            if text is None:
                self._waits += AGAIN_SECONDS  # the link is alive, or its pings would have broken it
                if self._waits > MOST_WAIT:
                    self._without(drafter, f"{self.server.url} has not answered a round for {self._waits:.0f} s")
                    return
                drafter.timeout()
            return
        self._waits = 0.0
        rounds, accepted, drafted = drafter.counts.rounds, drafter.counts.accepted, drafter.proposed
        try:
            drafter.received(message)
        except Broken as wrong:
            raise Gone(f"the server sent a result that cannot be: {wrong}") from None
        if drafter.counts.rounds > rounds:
            self._lost, self._pause = None, SHORTEST_PAUSE
            if self._timed is not None:
                took = time.monotonic() - self._timed
                self.round_seconds = SMOOTHED * self.round_seconds + (1 - SMOOTHED) * took
            self.pace.saw(drafter.counts.accepted - accepted, drafted)

    def _draft(self, text: list[int]) -> tuple[int, Choice | None]:
        """The draft model's token after a text."""
        start = self.session.resume(text)
        self._ran = len(text) - start
        row = self.session.prefill(text[start:])[-1]
        if self.sampling.temperature < GREEDY:
            return int(np.argmax(row)), None
        choice = chance.choice_of(probabilities(row, self.sampling))
        return chance.draft(choice, row.size, self.sampling.seed, len(text)), choice

    def _alone(self, drafter: Drafter, left: int, ends: frozenset[int]) -> Iterator[int]:
        """The rest by the draft model."""
        text = list(drafter.text)
        for _ in range(min(left, self.session.context - len(text) + 1)):
            token, _ = self._draft(text)
            if token in ends:
                return
            text.append(token)
            yield token

    def _connect(self) -> Welcome:
        """A new link, and what the server says of its target.  Raises Gone and UsageError."""
        h = self.sampling
        early = self.ahead in ("exits", "both")
        hello = Hello(VERSION, self.vocabulary.digest, h.temperature, h.top_k, h.top_p, h.min_p, h.seed, early)
        self._link = Link(self.server, hello, self.vocabulary)
        return self._link.welcome

    def _drop(self) -> None:
        assert self._link is not None
        self.sent, self.received = self.sent + self._link.sent, self.received + self._link.received
        self._link.close()
        self._link = None

    def _again(self, drafter: Drafter, why: str) -> None:
        """A new link, or what is done without one.  Patience counts from the last result on: a link that opens and breaks is none."""
        if self._link is not None:
            self._drop()
        self._lost = time.monotonic() if self._lost is None else self._lost
        while time.monotonic() < self._lost + self.server.patience:
            try:
                self.welcome = self._connect()
            except Gone as wrong:
                why = str(wrong)
            except UsageError as wrong:  # it came back as another server
                why = str(wrong)
                break
            else:
                drafter.bound(self.welcome.context)
                drafter.outbox.clear()
                drafter.reconnected()
                self._waits = 0.0
                time.sleep(self._pause)
                self._pause = min(LONGEST_PAUSE, 1.5 * self._pause)
                return
            time.sleep(self._pause)
            self._pause = min(LONGEST_PAUSE, 1.5 * self._pause)
        self._without(
            drafter,
            f"the server is gone after {len(drafter.answer)} tokens, and did not come back within {self.server.patience:g} s: {why}",
        )

    def _without(self, drafter: Drafter, why: str) -> None:
        """Go on alone, or raise DeviceError, as `fallback` says."""
        if self.server.fallback == "stop":
            raise DeviceError(f"{why}; --fallback draft goes on with the draft model alone")
        self.fell_back = why
        if self._link is not None:
            self._drop()

    @property
    def bytes_on_link(self) -> tuple[int, int]:
        """(sent, received), with the headers of frames."""
        link = self._link
        return self.sent + (link.sent if link else 0), self.received + (link.received if link else 0)
