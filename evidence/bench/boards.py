# SPDX-License-Identifier: Apache-2.0
"""bench boards: many light boards on one server, over real links, some of which leave in the middle: is anything lost, how long do
rounds take, and does the server's memory stay."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from meadow.machine.errors import DeviceError
from meadow.serve.frames import decode, encode
from meadow.speculate.messages import VERSION, Hello, Welcome
from meadow.speculate.rounds import Drafter

RIGHT = 0.8
"""Share of a light board's drafts that are right: it knows the answer."""


@dataclass
class Told:
    """What all boards saw.

    answers   that came to their end, of which `wrong` were another text than the target's alone
    left      answers that a board gave up on purpose
    lost      links that broke, or messages that nobody answered
    seconds   of each round
    memory    of the server: (seconds since the beginning, MB)
    """

    answers: int = 0
    wrong: int = 0
    left: int = 0
    lost: list[str] = field(default_factory=list)
    tokens: int = 0
    seconds: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)


class Serving:
    """`meadowc serve --target` in a process of its own."""

    def __init__(self, target: str):
        command = [sys.executable, "-m", "meadow", "serve", "--target", target, "--port", "0", "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stderr is not None
        text = ""
        for line in self.process.stdout:
            text += line
            with suppress(ValueError):
                self.url = str(json.loads(text)["boards"])
                return
        raise DeviceError(f"the server did not begin: {self.process.stderr.read()[-300:].strip()}")

    @property
    def megabytes(self) -> float:
        """Resident memory; 0 where nobody says."""
        with suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) / 1024
        return 0.0

    def close(self) -> None:
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.process.kill()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


async def answer(
    url: str,
    hello: Hello,
    drafter_of: Callable[[Welcome, int], Drafter],
    draft: Callable[[list[int]], int],
    told: Told,
    leave: int,
) -> list[int] | None:
    """One answer over a link of its own; None where the board left after `leave` rounds."""
    async with connect(url, compression=None, proxy=None, open_timeout=60, ping_interval=None) as link:
        await link.send(encode(hello))
        welcome = decode(_bytes(await link.recv()))
        if not isinstance(welcome, Welcome):
            raise DeviceError(f"the server said {welcome}")
        drafter = drafter_of(welcome, 0)
        while not drafter.done:
            while (text := drafter.next()) is not None:
                drafter.drafted(draft(text))
            for message in drafter.outbox:
                await link.send(encode(message))
            drafter.outbox.clear()
            began, rounds = time.monotonic(), drafter.counts.rounds
            while drafter.counts.rounds == rounds and not drafter.done:
                drafter.received(decode(_bytes(await asyncio.wait_for(link.recv(), 120))))
            told.seconds.append(time.monotonic() - began)
            if drafter.counts.rounds == leave:
                return None
        if drafter.refused:
            raise DeviceError(drafter.refused)
        return drafter.answer


def _bytes(data: str | bytes) -> bytes:
    return data if isinstance(data, bytes) else data.encode()


@dataclass(frozen=True)
class Load:
    """How many boards for how many seconds; `share` of them leave each answer in the middle."""

    boards: int
    seconds: float
    share: float = 0.1
    limit: int = 24
    gamma: int = 3


async def play(
    serving: Serving,
    hello: Hello,
    ends: frozenset[int],
    prompts: Sequence[list[int]],
    load: Load,
    progress: Callable[[str], None],
) -> Told:
    """All boards at once, each asking one prompt after another."""
    told, alone = Told(), dict[int, list[int]]()

    def drafter_of(number: int, gamma: int) -> Callable[[Welcome, int], Drafter]:
        return lambda welcome, first: Drafter(
            prompts[number], load.limit, ends, lambda: gamma, welcome.context, welcome.context, "none", first
        )

    for number in range(len(prompts)):  # what the target says alone, a token a round
        progress(f"the target alone, prompt {number + 1} of {len(prompts)}")
        alone[number] = await answer(serving.url, hello, drafter_of(number, 0), lambda text: 0, Told(), -1) or []
    began = time.monotonic()

    async def board(number: int) -> None:
        r = random.Random(number)
        leaves = number < load.share * load.boards
        while time.monotonic() - began < load.seconds:
            which = r.randrange(len(prompts))

            def draft(text: list[int], which: int = which) -> int:
                at = len(text) - len(prompts[which])
                known = alone[which]
                return known[at] if at < len(known) and r.random() < RIGHT else r.randrange(1000)

            try:
                found = await answer(
                    serving.url, hello, drafter_of(which, load.gamma), draft, told, r.randrange(1, 6) if leaves else -1
                )
            except (WebSocketException, OSError, TimeoutError, asyncio.TimeoutError, DeviceError) as wrong:
                told.lost.append(f"{type(wrong).__name__}: {wrong}"[:120])
                continue
            if found is None:
                told.left += 1
                continue
            told.answers += 1
            told.tokens += len(found)
            told.wrong += found != alone[which]

    async def watch() -> None:
        while True:
            told.memory.append((time.monotonic() - began, serving.megabytes))
            progress(
                f"{told.answers} answers, {told.left} left, {time.monotonic() - began:.0f} of {load.seconds:.0f} s"
            )
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(board(n) for n in range(load.boards)))
    watching.cancel()
    told.memory.append((time.monotonic() - began, serving.megabytes))
    return told


def summary(told: Told, load: Load) -> dict[str, Any]:
    """For people and JSON: seconds measured here."""
    ordered = sorted(told.seconds)
    half = load.seconds / 2

    def peak(first: float, last: float) -> float:
        return max((mb for at, mb in told.memory if first <= at <= last), default=0.0)

    end = told.memory[-1][0] if told.memory else 0.0
    return {
        "boards": load.boards,
        "seconds": end,
        "answers": told.answers,
        "wrong": told.wrong,
        "left": told.left,
        "lost": len(told.lost),
        "lost_why": sorted(set(told.lost))[:5],
        "rounds": len(ordered),
        "tokens_per_s": told.tokens / end if end else 0.0,
        "p50_s": ordered[len(ordered) // 2] if ordered else 0.0,
        "p99_s": ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0,
        "memory_mb_first_half": peak(0, half),
        "memory_mb_second_half": peak(half, end),
        "kind": "measured on this machine, server and boards on the same cores",
    }


def run(
    target: str, load: Load, prompts_of: Callable[[Any], list[list[int]]], progress: Callable[[str], None]
) -> dict[str, Any]:
    """A server and its boards.  Raises DeviceError."""
    from meadow.runtime.text.vocabulary import Vocabulary
    from meadow.targets.target import open_target

    model = open_target(target)
    hello = Hello(VERSION, Vocabulary.of(model.tokenizer, model.vocab).digest, early=False)
    prompts, ends = prompts_of(model), model.ends
    model.close()
    progress("the server begins")
    serving = Serving(target)
    try:
        return summary(asyncio.run(play(serving, hello, ends, prompts, load, progress)), load)
    finally:
        serving.close()
