# SPDX-License-Identifier: Apache-2.0
"""Generation: token after token of an answer, chosen by the host, by the engine, or verified where a draft proposes several."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from meadow.machine.errors import UsageError

if TYPE_CHECKING:
    from meadow.runtime.drafts import Drafts
    from meadow.runtime.session import Session

Logits = NDArray[np.float32]
Pick = Callable[[Logits], int]
"""The next token from its logits."""
After = Callable[[int, int], list[int]]
"""What comes after a token, at most so many tokens and at least one."""


def likeliest(row: Logits) -> int:
    """The token of the largest logit, the first of them."""
    return int(np.argmax(row))


def _taken(token: int) -> None:
    """Nobody is told."""


class Generation:
    """The half of a Session that goes from token to token."""

    def generate(
        self,
        tokens: list[int],
        max_new_tokens: int = 64,
        choose: Pick | None = None,
        end_tokens: frozenset[int] = frozenset(),
        ahead: bool = False,
        drafts: Drafts | None = None,
    ) -> Generator[int, None, None]:
        """New tokens after the prompt `tokens`, until an end token (not given out), the limit, or the context's end.

        choose  the next token from its logits; None: the likeliest
        ahead   let the engine choose and go on by itself, where package and device can: the same tokens, and no digest of their logits
        drafts  propose tokens, several of which one run verifies: the same tokens, and the same digest
        Raises UsageError for `choose` with `ahead`, and for `drafts` with `ahead`.
        """
        session = cast("Session", self)
        if ahead and choose is not None:
            raise UsageError(
                "ahead=True lets the engine choose the likeliest token, and choose asks for another; drop one of them"
            )
        with session._turn():
            mine = session._conversation
        told = _taken if ahead else None
        return self._generate(mine, tokens, max_new_tokens, choose or likeliest, end_tokens, told, drafts)

    def _generate(
        self,
        mine: int,
        tokens: list[int],
        max_new_tokens: int,
        pick: Pick,
        end_tokens: frozenset[int],
        ahead: Callable[[int], None] | None,
        drafts: Drafts | None,
    ) -> Generator[int, None, None]:
        """`generate` of the conversation `mine`, whichever thread asks for the next token.

        ahead  is told the tokens that the engine chose by itself; None lets `pick` choose all
        """
        session = cast("Session", self)
        if ahead is not None and drafts is not None:
            raise UsageError("ahead lets the engine go on by itself, and drafts are the host's to verify; drop one")
        ahead = ahead if session.loaded.goes_ahead(end_tokens) else None

        def after(token: int, left: int) -> tuple[list[int], Logits | None]:
            if ahead is not None:
                found = session._follow(token, left, end_tokens)
                ahead(found)
                return [found], None
            if drafts is not None:
                return self._verified(token, left, pick, end_tokens, drafts)
            return [pick(session._step(token))], None

        with session._turn(mine):
            found = [pick(session._prefill(tokens, "last", session.package.design.block)[-1])]
            if drafts is not None:
                drafts.see([*session.loaded.cached[: session.position], *found])
        given, uncounted = 0, None
        try:
            while given < max_new_tokens:
                for n, token in enumerate(found):
                    if uncounted is not None:  # only now: whoever stops between two tokens has read no more than these
                        with session._turn(mine):
                            session.position += 1
                            session._digest.update(uncounted[n].data)
                            session.stats.decode_tokens += 1
                    if token in end_tokens:
                        return
                    yield token
                    given += 1
                with session._turn(mine):
                    left = min(max_new_tokens - given, session.context - session.position)
                    if left <= 0:
                        return
                    found, uncounted = after(token, left)
        finally:
            if ahead is not None and mine == session._conversation:
                session.loaded.settle()

    def _verified(
        self, token: int, left: int, pick: Pick, end_tokens: frozenset[int], drafts: Drafts
    ) -> tuple[list[int], Logits]:
        """The tokens after `token`: as many of the proposed ones as `pick` would have chosen, and the one that it chooses then; and the
        logits of each as the device made them: a run of one token each would have read the same.  The position stays."""
        session = cast("Session", self)
        proposed = drafts.propose(min(left - 1, session.package.design.block - 1))
        began = time.perf_counter()
        start = session.position
        rows, raw = session._rows([token, *proposed], 0)
        session.position = start
        found: list[int] = []
        for n in range(len(proposed) + 1):
            found.append(pick(rows[n]))
            if n == len(proposed) or found[-1] != proposed[n] or found[-1] in end_tokens:
                break
        drafts.verified(found, len(proposed))
        session.stats.decode_seconds += time.perf_counter() - began
        return found, raw[: len(found)]

    def _follow(self, token: int, left: int, end_tokens: frozenset[int]) -> int:
        """The token after `token`, as the engine chose it; it may go on for `left` tokens."""
        session = cast("Session", self)
        began = time.perf_counter()
        found = session.loaded.follow(token, session.position, left, end_tokens)
        session.position += 1
        session.unread += 1
        session.stats.decode_tokens += 1
        session.stats.decode_seconds += time.perf_counter() - began
        return found

    def new_conversation(
        self,
        tokens: list[int],
        max_new_tokens: int,
        pick: Pick,
        end_tokens: frozenset[int] = frozenset(),
        ahead: Callable[[int], None] | None = None,
        drafts: Drafts | None = None,
    ) -> Iterator[int]:
        """`generate` in a new conversation, begun where the cache already has the keys and values of the prompt: the same bits, for
        they are those of the same tokens.  The prompt has run when this returns.  Raises as prefill does.

        ahead  lets the engine choose and go on by itself, and is told each of its tokens
        """
        session = cast("Session", self)
        with session._lock:  # no other conversation between the reset and the prompt
            session.resume(tokens)
            rest = tokens[session.position :]
            answer = self._generate(session._conversation, rest, max_new_tokens, pick, end_tokens, ahead, drafts)
            first = next(answer, None)
        return itertools.chain([] if first is None else [first], answer)
