# SPDX-License-Identifier: Apache-2.0
"""Jobs, and the one thread that runs them on the one session: in turn by client, bounded, and stopped when nobody waits any more."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from meadow.machine.errors import DeviceError, MeadowError
from meadow.runtime.answer import Answer
from meadow.runtime.session import Session

MOST_WAITING = 256
"""Jobs that may wait; more are told to come again."""
MOST_OF_ONE = 128
"""Of one client: of an address, or of a key where the server has one."""


class Full(Exception):
    """The queue takes no more; its text says why."""


class Ending(Exception):
    """The server ends before the answer does."""


@dataclass(eq=False)
class Job:
    """One request: `begin` makes its answer on the session's thread; what comes of it is put into `events`, on the caller's loop.

    An event is a text, then None at the end, or an exception.

    client, user  who asks, and for whom: clients take turns, and of each its users
    """

    client: str
    user: str
    begin: Callable[[Session], Answer]
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[str | BaseException | None] = field(default_factory=asyncio.Queue)
    answer: Answer | None = None
    asked: float = field(default_factory=time.monotonic)
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
        self._waiting: OrderedDict[str, OrderedDict[str, deque[Job]]] = OrderedDict()
        self._changed = threading.Condition()
        self._ends = False
        self._thread = threading.Thread(target=self._work, name="meadow-session", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that wait for their turn."""
        with self._changed:
            return sum(map(self._of, self._waiting))

    def _of(self, client: str) -> int:
        return sum(len(jobs) for jobs in self._waiting.get(client, {}).values())

    def submit(self, job: Job) -> None:
        """Raises Full where too many wait, or the server ends."""
        with self._changed:
            if self._ends:
                raise Full("the server ends")
            if self._of(job.client) >= MOST_OF_ONE:
                raise Full(f"{MOST_OF_ONE} requests of this client wait already; try again later")
            if self.waiting >= MOST_WAITING:
                raise Full(f"{MOST_WAITING} requests wait already; try again later")
            users = self._waiting.setdefault(job.client, OrderedDict())
            users.setdefault(job.user, deque()).append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Stop it, or do not begin it."""
        job.cancelled.set()
        with self._changed:
            users = self._waiting.get(job.client) or OrderedDict[str, deque[Job]]()
            jobs = users.get(job.user, deque())
            if job in jobs:
                jobs.remove(job)
                self.tell("cancelled", 1)
                if not jobs:
                    del users[job.user]
                if not users:
                    del self._waiting[job.client]

    def stop(self) -> None:
        """Take no more, and tell all who wait."""
        with self._changed:
            self._ends = True
            jobs = [job for users in self._waiting.values() for some in users.values() for job in some]
            self._waiting.clear()
            if self.running is not None:
                jobs.append(self.running)
            for job in jobs:
                job.cancelled.set()
                job.put(Ending("the server ends"))
            self._changed.notify()

    def close(self) -> None:
        """End after the token that is under way."""
        self.stop()
        self._thread.join()

    def _next(self) -> Job | None:
        """The oldest job of the user, of the client, whose turn it is; None at the end."""
        with self._changed:
            while not self._waiting and not self._ends:
                self._changed.wait()
            if self._ends:
                return None
            client, users = self._waiting.popitem(last=False)
            user, jobs = users.popitem(last=False)
            job = jobs.popleft()
            if jobs:
                users[user] = jobs  # behind the others
            if users:
                self._waiting[client] = users
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
        if job.cancelled.is_set():  # between its turn and here
            self.tell("cancelled", 1)
            return
        self.tell("wait_seconds", time.monotonic() - job.asked)
        stats = self.session.stats
        before = (stats.prefill_tokens, stats.reused_tokens, stats.prefill_seconds, stats.decode_seconds)
        job.answer = answer = job.begin(self.session)
        try:
            for piece in answer:
                job.put(piece)
                if job.cancelled.is_set():
                    answer.close()
                    break
        finally:
            self.tell("prompt_tokens", stats.prefill_tokens - before[0])
            self.tell("reused_tokens", stats.reused_tokens - before[1])
            self.tell("answer_tokens", len(answer.tokens))
            self.tell("prefill_seconds", stats.prefill_seconds - before[2])
            self.tell("decode_seconds", stats.decode_seconds - before[3])
        if job.cancelled.is_set():
            self.tell("cancelled", 1)
        job.put(None)
