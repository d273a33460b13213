# SPDX-License-Identifier: Apache-2.0
"""Answer: what a session says to a prompt, piece after piece, with its tokens, how likely they were, and why it ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from meadow.runtime.text.sampler import Logits, Sampler, logprobs
from meadow.runtime.text.stop import Stop
from meadow.runtime.text.tokenizer import Streamer

if TYPE_CHECKING:
    from meadow.runtime.drafts import Drafts
    from meadow.runtime.session import Session

Choose = Callable[[Logits], int]
REMEMBERED = 256
"""Answers whose tokens are kept for later turns."""


@dataclass(frozen=True)
class Token:
    """A token of an answer.

    logprob  natural logarithm of its probability at temperature 1; 0 where nobody asked
    top      (token, logprob) of the likeliest tokens there, as many as were asked for
    """

    id: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


class Answer:
    """An answer on its way.  Iterating gives text; str() waits for the whole.

    prompt         token ids
    prompt_tokens  how many they are
    reused         of them, those whose keys and values lay in the cache already
    tokens         that the model chose, the one that ended it left out
    finish_reason  "stop" at an end token or a stop text, "length" at the limit or the context's end, "stopped" by close(), "" before
    text           so far
    """

    def __init__(
        self,
        session: Session,
        prompt: Sequence[int],
        limit: int,
        choose: Choose | None = None,
        stop: Sequence[str] = (),
        top: int | None = None,
        end_tokens: frozenset[int] = frozenset(),
        ahead: bool = False,
        drafts: Drafts | None = None,
    ):
        self.session, self.prompt, self.limit = session, list(prompt), limit
        self.end_tokens, self.top, self.ahead, self.drafts = end_tokens, top, ahead, drafts
        self.choose: Choose = choose if choose is not None else lambda row: int(np.argmax(row))
        if isinstance(self.choose, Sampler):
            self.choose.see(self.prompt)
        self.stop = Stop(stop)
        self.prompt_tokens, self.reused = len(self.prompt), 0
        self.tokens: list[Token] = []
        self.finish_reason, self.text = "", ""
        self._chosen: deque[Token] = deque()  # that were not given out yet
        self._pieces = self._answer()

    def _pick(self, row: Logits) -> int:
        token = self.choose(row)
        if self.top is None:
            self._chosen.append(Token(token))
            return token
        likely = logprobs(row)
        best = np.argsort(-likely, kind="stable")[: self.top]
        self._chosen.append(Token(token, float(likely[token]), tuple((int(n), float(likely[n])) for n in best)))
        return token

    def _take(self, token: int) -> None:
        """A token that the engine chose."""
        self._chosen.append(Token(token))

    def _answer(self) -> Generator[str, None, None]:
        session, streamer = self.session, Streamer(self.session.tokenizer)
        before = session.stats.reused_tokens
        chosen = session.new_conversation(
            self.prompt, self.limit, self._pick, self.end_tokens, self._take if self.ahead else None, self.drafts
        )
        self.reused = session.stats.reused_tokens - before
        for token in chosen:
            self.tokens.append(self._chosen.popleft())
            piece = self.stop.push(streamer.push(token))
            if piece:
                self.text += piece
                yield piece
            if self.stop.found:
                break
        else:
            tail = self.stop.push(streamer.finish())
            tail += "" if self.stop.found else self.stop.finish()
            self.text += tail
            if tail:
                yield tail
        ended = self.stop.found or any(token.id in self.end_tokens for token in self._chosen)
        self.finish_reason = "stop" if ended else "length"
        self._remember()

    def _remember(self) -> None:
        """What was said with which tokens, so that a later turn of the conversation finds them in the cache."""
        tokenizer, spoken = self.session.tokenizer, self.session.spoken
        control = {tokenizer.library.token_to_id(name) for name in tokenizer.control}
        if self.stop.found or any(token.id in control for token in self.tokens):
            return  # the text is not all that the tokens say
        spoken.pop(self.text, None)
        spoken[self.text] = [token.id for token in self.tokens]
        while len(spoken) > REMEMBERED:
            del spoken[next(iter(spoken))]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def read(self) -> str:
        """The whole text, once it has ended."""
        for _ in self:
            pass
        return self.text

    def close(self) -> None:
        """Stop between two tokens; what was said until then counts as said."""
        self._pieces.close()
        if not self.finish_reason:
            self.finish_reason = "stopped"
            self._remember()

    def __str__(self) -> str:
        return self.read()

    def __repr__(self) -> str:
        ended = self.finish_reason or "on its way"
        return f"<Answer: {self.prompt_tokens} tokens of prompt ({self.reused} in the cache), {len(self.tokens)} of answer, {ended}>"

    def _repr_html_(self) -> str:
        return f"<div style='white-space:pre-wrap'>{escape(self.read())}</div><small>{escape(repr(self))}</small>"
