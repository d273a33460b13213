# SPDX-License-Identifier: Apache-2.0
"""Links to boards that draft: one WebSocket each.  Who may speak, how much and how slowly, and what a wrong word is answered."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Awaitable
from typing import Any, TypeVar

from fastapi import FastAPI, Response, WebSocket, WebSocketDisconnect

from meadow.machine.errors import MeadowError
from meadow.runtime.text.sampler import GREEDY, Sampling
from meadow.runtime.text.vocabulary import Vocabulary
from meadow.serve.address import PATH
from meadow.serve.app import key_of
from meadow.serve.frames import BOARD_KINDS, Unreadable, decode, encode
from meadow.serve.rounds import Board, Rounds, facts
from meadow.speculate.messages import MOST_DRAFTS, VERSION, Begin, Hello, Propose, Refused, ToBoard, Welcome
from meadow.speculate.rounds import Broken, Verifier, Work

HELLO_SECONDS = 10.0
"""In which a board must have said who it is."""
IDLE_SECONDS = 600.0
"""After which a board that says nothing is gone."""
SEND_SECONDS = 10.0
"""In which a board must take what it is told."""
MOST_BOARDS = 400
MOST_OLD = 200
"""Messages in a row that ask for nothing new: a board says one again every few seconds at most."""
MOST_UNREAD = 64
"""Messages that wait for a board to take them."""
WRONG, DENIED = 1008, 4401
"""Codes with which a link is closed."""
T = TypeVar("T")


class Boards:
    """All links.

    key  that a board must bring; "" for none
    """

    def __init__(self, rounds: Rounds, key: str = ""):
        self.rounds, self.key = rounds, key.encode()
        target = rounds.target
        self.vocabulary = Vocabulary.of(target.tokenizer, target.vocab)
        self._open = 0

    async def serve(self, link: WebSocket) -> None:
        """One board, to its end."""
        if self.key and not hmac.compare_digest(key_of(link), self.key):
            await link.close(DENIED, "no key, or a wrong one; send Authorization: Bearer KEY")
            return
        if "origin" in link.headers:  # a browser says so, for any page that it shows; a board does not
            await link.close(DENIED, "links are for boards, not for pages")
            return
        if self._open >= MOST_BOARDS:
            with contextlib.suppress(RuntimeError):
                await link.send_denial_response(Response(f"{MOST_BOARDS} boards are served already", 503))
            return
        self._open += 1
        try:
            await link.accept()
            await self._speak(link)
        except (TimeoutError, asyncio.TimeoutError):  # the first is an OSError too
            await _closed(link, "nothing was said in time")
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # it has gone
        finally:
            self._open -= 1

    async def _speak(self, link: WebSocket) -> None:
        hello = await _within(HELLO_SECONDS, self._heard(link))
        if isinstance(hello, Hello):
            refusal = self._refusal(hello)
        else:
            refusal = hello if isinstance(hello, Refused) else Refused("a board says Hello first")
        if refusal is not None:
            await self._refuse(link, refusal)
            return
        assert isinstance(hello, Hello)
        target = self.rounds.target
        await link.send_bytes(encode(Welcome(target.context, MOST_DRAFTS, target.layers, target.exits)))
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[ToBoard] = asyncio.Queue()

        def put(message: ToBoard) -> None:  # from the target's thread
            with contextlib.suppress(RuntimeError):  # the server ends
                loop.call_soon_threadsafe(told.put_nowait, message)

        verifier = Verifier(target.context, target.vocab, MOST_DRAFTS, hello.temperature >= GREEDY)
        board = Board(hello, verifier, put)
        self.rounds.joined(board)
        telling = asyncio.create_task(self._tell(link, told))
        try:
            await self._listen(link, board, told, telling)
        finally:
            telling.cancel()
            self.rounds.left(board)

    async def _listen(
        self, link: WebSocket, board: Board, told: asyncio.Queue[ToBoard], telling: asyncio.Task[None]
    ) -> None:
        old = 0
        while not telling.done():
            message = await _within(IDLE_SECONDS, self._heard(link))
            if isinstance(message, Hello):
                message = Refused("Hello is said once")
            if isinstance(message, Refused):
                await self._refuse(link, message)
                return
            try:
                with board.lock:
                    found = board.verifier.received(message)
            except Broken as wrong:
                await self._refuse(link, Refused(str(wrong)))
                return
            old = 0 if isinstance(found, Work) else old + 1
            if old > MOST_OLD:
                await self._refuse(link, Refused(f"{MOST_OLD} messages in a row were old, or said twice"))
                return
            if isinstance(found, Work):
                self.rounds.submit(board, found)
            elif found is not None:
                told.put_nowait(found)

    async def _tell(self, link: WebSocket, told: asyncio.Queue[ToBoard]) -> None:
        """What there is to be told, as fast as the board takes it."""
        while True:
            message = await told.get()
            if told.qsize() > MOST_UNREAD:
                await _closed(link, "too much was not taken")
                return
            try:
                await _within(SEND_SECONDS, link.send_bytes(encode(message)))
            except (TimeoutError, asyncio.TimeoutError):
                await _closed(link, "what was told was not taken in time")
                return
            except (WebSocketDisconnect, RuntimeError, OSError):
                return  # it has gone
            if isinstance(message, Refused):
                await _closed(link, message.words)
                return

    async def _heard(self, link: WebSocket) -> Hello | Begin | Propose | Refused:
        try:
            message = decode(await link.receive_bytes())
        except Unreadable as wrong:
            return Refused(str(wrong))
        except KeyError:
            return Refused("frames are binary")
        if not isinstance(message, BOARD_KINDS):
            return Refused(f"a board does not say {type(message).__name__}")
        return message

    def _refusal(self, hello: Hello) -> Refused | None:
        """Why a board is not served."""
        if hello.version != VERSION:
            return Refused(
                f"the board speaks version {hello.version} of the messages, the server {VERSION}; update one of them"
            )
        try:
            Sampling(hello.temperature, hello.top_k, hello.top_p, hello.min_p, seed=hello.seed).check()
        except MeadowError as wrong:
            return Refused(str(wrong))
        if hello.vocabulary != self.vocabulary.digest:
            return Refused("the target has another tokenizer", self.vocabulary.checks)
        return None

    async def _refuse(self, link: WebSocket, refusal: Refused) -> None:
        await _within(SEND_SECONDS, link.send_bytes(encode(refusal)))
        await _closed(link, refusal.words)


async def _within(seconds: float, what: Awaitable[T]) -> T:
    return await asyncio.wait_for(what, seconds)


async def _closed(link: WebSocket, words: str) -> None:
    with contextlib.suppress(RuntimeError, OSError, TimeoutError, asyncio.TimeoutError):  # it has gone
        await asyncio.wait_for(link.close(WRONG, words.encode()[:120].decode(errors="ignore")), SEND_SECONDS)


def route(app: FastAPI, boards: Boards) -> None:
    """Let an application speak with boards."""

    @app.websocket(PATH)
    async def speculate(link: WebSocket) -> None:
        await boards.serve(link)

    @app.get(PATH)
    async def who() -> dict[str, Any]:
        return facts(boards.rounds)
