# SPDX-License-Identifier: Apache-2.0
"""Jobs, and the one thread that runs them on the one session: in turn by client, bounded, and stopped when nobody waits any more."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meadow.machine.errors import DeviceError, MeadowError
from meadow.runtime.answer import Answer
from meadow.runtime.session import Session

MOST_WAITING = 64
"""Jobs that may wait; more are told to come again."""
MOST_OF_ONE = 16
"""Of one client."""


class Full(Exception):
    """The queue takes no more; its text says why."""


@dataclass
class Job:
    """One request: `begin` makes its answer on the session's thread; what comes of it is put into `events`, on the caller's loop.

    An event is a text, then None at the end, or an exception.
    """

    client: str
    begin: Callable[[Session], Answer]
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[str | BaseException | None] = field(default_factory=asyncio.Queue)
    answer: Answer | None = None
    asked: float = field(default_factory=time.monotonic)
    began: float = 0.0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def put(self, event: str | BaseException | None) -> None:
        """From the session's thread; nobody listens once the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:
            self.cancelled.set()


class Worker:
    """Runs jobs one after another.  Clients take turns: who asks for much does not keep others waiting.

    tell  called with (what, number) for the figures: see serve/figures.py
    """

    def __init__(self, session: Session, tell: Callable[[str, float], None] = lambda what, number: None):
        self.session, self.tell = session, tell
        self.failed = ""
        """Why the device cannot be used any more; "" while it can."""
        self.running: Job | None = None
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._changed = threading.Condition()
        self._ends = False
        self._thread = threading.Thread(target=self._work, name="meadow-session", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that wait for their turn."""
        with self._changed:
            return sum(len(jobs) for jobs in self._waiting.values())

    def submit(self, job: Job) -> None:
        """Raises Full where too many wait."""
        with self._changed:
            mine = len(self._waiting.get(job.client, ()))
            if sum(len(jobs) for jobs in self._waiting.values()) >= MOST_WAITING or mine >= MOST_OF_ONE:
                whose = "of this client " if mine >= MOST_OF_ONE else ""
                most = MOST_OF_ONE if mine >= MOST_OF_ONE else MOST_WAITING
                raise Full(f"{most} requests {whose}wait already; try again later")
            self._waiting.setdefault(job.client, deque()).append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Stop it, or do not begin it."""
        job.cancelled.set()
        with self._changed:
            jobs = self._waiting.get(job.client)
            if jobs is not None and job in jobs:
                jobs.remove(job)
                if not jobs:
                    del self._waiting[job.client]

    def close(self) -> None:
        """End after the token that is under way."""
        with self._changed:
            self._ends = True
            for jobs in self._waiting.values():
                for job in jobs:
                    job.cancelled.set()
            self._waiting.clear()
            if self.running is not None:
                self.running.cancelled.set()
            self._changed.notify()
        self._thread.join()

    def _next(self) -> Job | None:
        """The oldest job of the client whose turn it is; None at the end."""
        with self._changed:
            while not self._waiting and not self._ends:
                self._changed.wait()
            if self._ends:
                return None
            client, jobs = next(iter(self._waiting.items()))
            job = jobs.popleft()
            del self._waiting[client]
            if jobs:
                self._waiting[client] = jobs  # behind the others
            self.running = job
            return job

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._run(job)
            except MeadowError as error:
                if isinstance(error, DeviceError) and self._lost():
                    self.failed = str(error)
                job.put(error)
            except BaseException as error:  # a fault of ours: the client is told, the server goes on
                job.put(error)
            finally:
                self.running = None

    def _lost(self) -> bool:
        """Whether the device answers nothing any more."""
        try:
            self.session.reset()
            self.session.prefill([0])
        except MeadowError:
            return True
        return False

    def _run(self, job: Job) -> None:
        if job.cancelled.is_set():
            return
        job.began = time.monotonic()
        self.tell("wait_seconds", job.began - job.asked)
        stats = self.session.stats
        before = (stats.prefill_tokens, stats.reused_tokens, stats.prefill_seconds, stats.decode_seconds)
        job.answer = answer = job.begin(self.session)
        try:
            for piece in answer:
                job.put(piece)
                if job.cancelled.is_set():
                    answer.close()
                    self.tell("cancelled", 1)
                    break
        finally:
            self.tell("prompt_tokens", stats.prefill_tokens - before[0])
            self.tell("reused_tokens", stats.reused_tokens - before[1])
            self.tell("answer_tokens", len(answer.tokens))
            self.tell("prefill_seconds", stats.prefill_seconds - before[2])
            self.tell("decode_seconds", stats.decode_seconds - before[3])
        job.put(None)


def client_of(key: str, address: str, user: Any) -> str:
    """Who takes turns with whom: the user that a request names, under its key, else its address."""
    return f"{key}/{user or address}"
