# SPDX-License-Identifier: Apache-2.0
"""Rounds: both sides of speculative decoding over a link, without the link: what each does with a message, and what it says then.

The board (Drafter) proposes tokens, the server (Verifier) says which of them its target would have said too, and what comes then.  The
text is the target's own, whatever is lost, late, doubled or begun anew: only a Final of the round under way adds to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from meadow.speculate.messages import (
    MOST_DRAFTS,
    Begin,
    Choice,
    Early,
    Final,
    Lost,
    Propose,
    Refused,
    ToBoard,
    check_of,
)


class Broken(Exception):
    """The other side said what it cannot mean."""


# -- the server ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What the target is to verify: logits are wanted after the text and after each draft."""

    round: int
    text: tuple[int, ...]
    drafts: tuple[int, ...]
    choices: tuple[Choice, ...]


class Verifier:
    """The server's side of one board.

    context, vocab, most  of the target: tokens that it holds, its vocabulary, drafts of a round
    sampling              whether drafts must come with the distribution that they were drawn from
    """

    def __init__(self, context: int, vocab: int, most: int = MOST_DRAFTS, sampling: bool = False):
        self.context, self.vocab, self.most, self.sampling = context, vocab, most, sampling
        self.text: tuple[int, ...] | None = None
        self.round = -1  # the last one that was answered
        self.work: Work | None = None
        self._answer: Final | None = None
        self._asked: Begin | None = None  # what the last text began with

    def received(self, message: Begin | Propose) -> Work | ToBoard | None:
        """Work for the target, or what to answer at once, or nothing where it is under way, or old.  Raises Broken."""
        if self.work is not None and message.round <= self.work.round:
            return None  # doubled, and its result comes; or late
        if message.round == self.round and self._answer is not None and self._same(message):
            return self._answer
        if isinstance(message, Propose):
            if message.round <= self.round:
                return None
            if self.text is None or message.round != self.round + 1 or message.check != check_of(self.text):
                return Lost(message.round)
            text = self.text
        else:
            if message.round < self.round:
                return None
            text = message.text
        self._check(text, message)
        self.work = Work(message.round, text, message.drafts, message.choices)
        self._asked = message if isinstance(message, Begin) else None
        return self.work

    def _same(self, message: Begin | Propose) -> bool:
        """Whether a message of the round that was answered asks for the same."""
        return isinstance(message, Propose) or message == self._asked

    def _check(self, text: Sequence[int], message: Begin | Propose) -> None:
        if not text:
            raise Broken("the text is empty")
        if len(message.drafts) > self.most:
            raise Broken(f"{len(message.drafts)} drafts in a round; {self.most} are taken")
        if len(text) + len(message.drafts) > self.context:
            raise Broken(
                f"{len(text)} tokens and {len(message.drafts)} drafts; the target's context holds {self.context}"
            )
        wrong = next((t for t in (*text, *message.drafts) if not 0 <= t < self.vocab), None)
        if wrong is not None:
            raise Broken(f"token {wrong} is outside of the target's vocabulary of {self.vocab}")
        if self.sampling and len(message.choices) != len(message.drafts):
            raise Broken(f"{len(message.drafts)} drafts come with {len(message.choices)} distributions")

    def verified(self, accepted: int, token: int, done: bool, of: Work | None = None) -> Final | None:
        """A round has a result: the one under way, which `of` names; None where another one took its place meanwhile."""
        work = self.work
        if work is None or (of is not None and of is not work):
            return None
        self.text = (*work.text, *work.drafts[:accepted], token)
        self.round, self.work = work.round, None
        self._answer = Final(work.round, accepted, token, done)
        return self._answer


# -- the board ----------------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What rounds came to, on the board.

    tokens           of the answer
    rounds           that were answered
    drafted          tokens that were proposed
    accepted         of them
    ahead            tokens drafted while a round was under way
    kept             of them, those that the next proposal had
    early            messages of exits
    early_right      rounds whose last one said what the Final said
    early_rounds     rounds with any
    sent_again       messages that were repeated
    begun            times that the whole text was sent
    """

    tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    ahead: int = 0
    kept: int = 0
    early: int = 0
    early_right: int = 0
    early_rounds: int = 0
    sent_again: int = 0
    begun: int = 0

    @property
    def acceptance(self) -> float:
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_round(self) -> float:
        return self.tokens / self.rounds if self.rounds else 0.0


AHEAD = ("none", "own", "exits", "both")
"""On what a board drafts while a round is under way: not at all, on its own guess (every draft is right), on what exits say, or on what
was right more often so far."""
OWN = 0
"""Who guesses: the board itself, else the layer of an exit."""


@dataclass
class _Guess:
    """A result that the round under way may have, and what was drafted behind it.  `token` is None until it is drafted itself."""

    accepted: int
    token: int | None
    drafts: list[int] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)


class Drafter:
    """The board's side.

    prompt   tokens
    limit    tokens of the answer at most
    ends     tokens that end it
    gamma    how many to draft in the next round
    context  tokens that the draft's model holds, and `target_context` the target's
    ahead    one of AHEAD
    first    number of its first round: later ones than those of answers before it on the same link
    outbox   messages to be sent, oldest first: the caller takes them out
    """

    def __init__(
        self,
        prompt: Sequence[int],
        limit: int,
        ends: frozenset[int],
        gamma: Callable[[], int],
        context: int,
        target_context: int,
        ahead: str = "both",
        first: int = 0,
    ):
        if ahead not in AHEAD:
            raise ValueError(f"ahead is {ahead!r}; {', '.join(AHEAD)}")
        self.text, self.prompt = list(prompt), len(prompt)
        self.limit = min(limit, target_context - len(prompt) + 1)
        self.ends, self.context, self.target_context, self.ahead = ends, context, target_context, ahead
        self.counts = Counts()
        self.outbox: list[Begin | Propose] = []
        self.done = self.limit <= 0
        self.refused = ""
        self.ended = False  # by a token that the target says is an end
        self.round = first
        self._gamma = gamma
        self._check = check_of(prompt)
        self._drafts: list[int] = []
        self._choices: list[Choice] = []
        self._wanted = 0
        self._sent: Begin | Propose | None = None
        self._guess: _Guess | None = None
        self._earlies: list[Early] = []
        self._own: tuple[int, int] | None = None  # what the board itself guessed of the round under way
        self._right: dict[int, tuple[int, int]] = {}  # by who guessed: right ones, and all
        if not self.done:
            self._send(Begin(self.round, tuple(self.text)))
            self.counts.begun += 1

    @property
    def answer(self) -> list[int]:
        """The tokens so far."""
        return self.text[self.prompt :]

    @property
    def under_way(self) -> bool:
        """Whether a round is."""
        return self._sent is not None

    @property
    def proposed(self) -> int:
        """Drafts of the round under way."""
        return 0 if self._sent is None else len(self._sent.drafts)

    # -- drafting ----------------------------------------------------------------------------------------------------

    def next(self) -> list[int] | None:
        """The text after which one more token is to be drafted; None where none is needed now."""
        if self.done:
            return None
        if self._sent is None:
            return [*self.text, *self._drafts] if len(self._drafts) < self._wanted else None
        g = self._guess
        if g is None or len(g.drafts) >= self._room(len(self.text) + g.accepted + 1):
            return None
        text = [*self.text, *self._sent.drafts[: g.accepted], *([] if g.token is None else [g.token]), *g.drafts]
        return text if len(text) < self.context else None

    def drafted(self, token: int, choice: Choice | None = None) -> None:
        """The token after the text that `next` gave."""
        if self._sent is None:
            self._drafts.append(token)
            self._choices += [] if choice is None else [choice]
            self._propose()
            return
        g = self._guess
        assert g is not None
        self.counts.ahead += 1
        if g.token is None:
            g.token = token
            self._own = (g.accepted, token)
        else:
            g.drafts.append(token)
            g.choices += [] if choice is None else [choice]

    def _room(self, size: int) -> int:
        """Drafts that the next round may have behind a text of `size` tokens."""
        left = self.limit - (size - self.prompt) - 1  # the target adds a token of its own
        return max(0, min(self._wanted, left, self.target_context - size, self.context - size))

    def _propose(self) -> None:
        """Send the round once it has its drafts."""
        if self._sent is None and len(self._drafts) >= self._wanted:
            self.round += 1
            message = Propose(self.round, self._check, tuple(self._drafts), tuple(self._choices))
            self._send(message)

    def _send(self, message: Begin | Propose) -> None:
        self._sent, self._own = message, None
        self._earlies.clear()
        self.counts.drafted += len(message.drafts)
        self.outbox.append(message)
        self._wanted = min(self._gamma(), MOST_DRAFTS)
        own = self.ahead in ("own", "both")
        self._guess = _Guess(len(message.drafts), None) if own else None

    # -- messages ----------------------------------------------------------------------------------------------------

    def received(self, message: ToBoard) -> None:
        """Raises Broken for a result that no server can mean."""
        if self.done:
            return
        if isinstance(message, Refused):
            self.done, self.refused = True, message.words
        elif self._sent is None or not isinstance(message, (Early, Final, Lost)) or message.round != self.round:
            return  # late, or doubled
        elif isinstance(message, Lost):
            if isinstance(self._sent, Propose):
                self._begin_again()
        elif not 0 <= message.accepted <= len(self._sent.drafts) or message.token < 0:
            raise Broken(f"{message.accepted} of {len(self._sent.drafts)} drafts accepted, then token {message.token}")
        elif isinstance(message, Early):
            self._early(message)
        else:
            self._commit(message)

    def _early(self, message: Early) -> None:
        self.counts.early += 1
        self.counts.early_rounds += not self._earlies
        self._earlies = [e for e in self._earlies if e.layer != message.layer] + [message]
        g = self._guess
        same = g is not None and (g.accepted, g.token) == (message.accepted, message.token)
        if self.ahead == "exits" or (self.ahead == "both" and self._trust(message.layer) > self._trust(OWN)):
            self._guess = g if same else _Guess(message.accepted, message.token)

    def _trust(self, who: int) -> float:
        """How often guesses of the board, or of an exit, were right."""
        right, tried = self._right.get(who, (0, 0))
        return (right + 1) / (tried + 2)

    def _learn(self, message: Final) -> None:
        """Which guesses of this round were right."""
        result = (message.accepted, message.token)
        guesses = [(e.layer, (e.accepted, e.token)) for e in self._earlies]
        for who, guess in guesses + ([(OWN, self._own)] if self._own is not None else []):
            right, tried = self._right.get(who, (0, 0))
            self._right[who] = (right + (guess == result), tried + 1)

    def _commit(self, message: Final) -> None:
        sent, g, c = self._sent, self._guess, self.counts
        assert sent is not None
        new = [*sent.drafts[: message.accepted], message.token]
        end = next((n for n, t in enumerate(new) if t in self.ends), None)
        new = new if end is None else new[: end + 1]
        new = new[: self.limit - len(self.answer)]
        self.text += new
        self._check = check_of(new, self._check)
        c.rounds += 1
        c.accepted += message.accepted
        c.tokens += len(new)
        if self._earlies:
            last = self._earlies[-1]
            c.early_right += (last.accepted, last.token) == (message.accepted, message.token)
        self._learn(message)
        self._sent = self._guess = None
        self.ended = message.done and new[-1:] == [message.token]
        self.done = message.done or end is not None or len(self.answer) >= self.limit
        if self.done:
            return
        hit = g is not None and (g.accepted, g.token) == (message.accepted, message.token)
        self._drafts, self._choices = (list(g.drafts), list(g.choices)) if hit and g is not None else ([], [])
        self._wanted = self._room(len(self.text))
        del self._drafts[self._wanted :], self._choices[self._wanted :]
        c.kept += len(self._drafts)
        self._propose()

    def timeout(self) -> None:
        """Nothing came for long: say it again."""
        if self._sent is not None and not self.done:
            self.counts.sent_again += 1
            self.outbox.append(self._sent)

    def reconnected(self) -> None:
        """There is a new link, to a server that may know nothing."""
        if self._sent is not None and not self.done:
            self._begin_again()

    def bound(self, target_context: int) -> None:
        """The target holds so many tokens from now on: another server may hold fewer."""
        self.target_context = target_context
        self.limit = min(self.limit, target_context - self.prompt + 1)

    def _begin_again(self) -> None:
        """The round under way, with the whole text."""
        sent = self._sent
        assert sent is not None
        self.counts.begun += 1
        self._sent = Begin(sent.round, tuple(self.text), sent.drafts, sent.choices)
        self.outbox.append(self._sent)
