# SPDX-License-Identifier: Apache-2.0
"""Both sides of a link that loses, doubles and reorders what is said, to a server that begins anew: the text stays the target's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meadow.speculate import chance
from meadow.speculate.messages import Begin, Choice, Early, Final, Lost, Propose, Refused, check_of
from meadow.speculate.rounds import AHEAD, Broken, Drafter, Verifier, Work

VOCAB, END = 11, 10
ENDS = frozenset({END})
Model = Callable[[list[int]], int]


def target_of(seed: int) -> Model:
    """A made-up model: its next token depends on the last three."""

    def target(text: list[int]) -> int:
        r = random.Random(repr((seed, text[-3:])))
        return END if r.random() < 0.02 else r.randrange(VOCAB - 1)

    return target


def draft_of(seed: int, share: float) -> Model:
    """Right in about this share of places."""
    target = target_of(seed)

    def draft(text: list[int]) -> int:
        r = random.Random(repr((seed, text[-4:], "draft")))
        return target(text) if r.random() < share else r.randrange(VOCAB)

    return draft


def alone(model: Model, prompt: list[int], limit: int, context: int) -> list[int]:
    text = list(prompt)
    while len(text) - len(prompt) < limit and len(text) <= context:
        text.append(model(text))
        if text[-1] in ENDS:
            break
    return text[len(prompt) :]


class Link:
    """Messages on their way, of which some are lost, doubled or late."""

    def __init__(self, r: random.Random, loss: float, doubled: float):
        self.r, self.loss, self.doubled = r, loss, doubled
        self.way: list[Any] = []

    def send(self, message: Any) -> None:
        for _ in range(1 + (self.r.random() < self.doubled)):
            if self.r.random() >= self.loss:
                self.way.append(message)

    def take(self) -> Any:
        return self.way.pop(self.r.randrange(min(3, len(self.way)))) if self.way else None


def play(
    seed: int,
    share: float,
    loss: float,
    doubled: float,
    restarts: float,
    ahead: str,
    gamma: int,
    limit: int,
    prompt: list[int],
    context: int,
    draft_context: int,
) -> Drafter:
    """A whole answer, in steps of either side that a generator chooses."""
    r = random.Random(seed)
    target, draft = target_of(seed), draft_of(seed, share)
    board = Drafter(prompt, limit, ENDS, lambda: r.randrange(gamma + 1), draft_context, context, ahead)
    server = Verifier(context, VOCAB)
    up, down = Link(r, loss, doubled), Link(r, loss, doubled)
    quiet = 0
    for _ in range(20_000):
        while board.outbox:
            up.send(board.outbox.pop(0))
        if board.done:
            return board
        what = r.randrange(4)
        if r.random() < restarts:
            server = Verifier(context, VOCAB)
        if what == 0:
            text = board.next()
            if text is not None:
                board.drafted(draft(text))
        elif what == 1 and (message := down.take()) is not None:
            board.received(message)
            quiet = 0
        elif what == 2 and (message := up.take()) is not None:
            found = server.received(message)
            if found is not None and not hasattr(found, "text"):
                down.send(found)
        elif what == 3 and server.work is not None:
            work = server.work
            rows = [
                np.eye(VOCAB, dtype=np.float32)[target([*work.text, *work.drafts[:n]])]
                for n in range(len(work.drafts) + 1)
            ]
            accepted, token = chance.likeliest(rows, work.drafts, ENDS)
            if r.random() < 0.5:  # an exit, mostly wrong
                down.send(Early(work.round, 3, r.randrange(len(work.drafts) + 1), r.randrange(VOCAB)))
            if r.random() < 0.5:
                down.send(Early(work.round, 5, accepted, token))
            down.send(server.verified(accepted, token, token in ENDS))
        quiet += 1
        if quiet > 60:
            board.timeout()
            quiet = 0
    raise AssertionError("it never ended")


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 1 << 30),
    st.floats(0, 1),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
    st.sampled_from([0.0, 0.003, 0.02]),
    st.sampled_from(AHEAD),
    st.integers(0, 5),
    st.integers(1, 24),
    st.lists(st.integers(0, VOCAB - 2), min_size=1, max_size=6),
    st.integers(6, 40),
    st.integers(3, 40),
)
def test_the_text_is_the_targets_whatever_the_link_does(
    seed: int,
    share: float,
    loss: float,
    doubled: float,
    restarts: float,
    ahead: str,
    gamma: int,
    limit: int,
    prompt: list[int],
    context: int,
    draft_context: int,
) -> None:
    board = play(seed, share, loss, doubled, restarts, ahead, gamma, limit, prompt, context, draft_context)
    assert board.answer == alone(target_of(seed), prompt, limit, context)
    c = board.counts
    assert c.tokens == len(board.answer) and c.accepted <= c.drafted and c.kept <= c.ahead
    assert c.rounds <= c.tokens <= c.rounds + c.accepted
    if not loss and not doubled and not restarts:
        assert c.begun == 1


def test_a_draft_that_is_always_right_makes_whole_rounds_and_drafts_ahead() -> None:
    target = target_of(3)
    board = Drafter([1, 2], 21, ENDS, lambda: 4, 100, 100, "own")
    server = Verifier(100, VOCAB)
    while not board.done:
        for message in board.outbox:
            assert server.received(message) is server.work
        board.outbox.clear()
        while (text := board.next()) is not None:  # as much as it will, before the result comes
            board.drafted(target(text))
        if server.work is None:
            continue
        rows = [
            np.eye(VOCAB, dtype=np.float32)[target([*server.work.text, *server.work.drafts[:n]])]
            for n in range(len(server.work.drafts) + 1)
        ]
        accepted, token = chance.likeliest(rows, server.work.drafts, ENDS)
        final = server.verified(accepted, token, token in ENDS)
        assert final is not None
        board.received(final)
    assert board.answer == alone(target, [1, 2], 21, 100)
    assert board.counts.acceptance == 1 and board.counts.rounds == 5 and board.counts.kept == board.counts.drafted


def test_a_server_says_what_is_wrong_with_a_round() -> None:
    server = Verifier(8, VOCAB, most=3)
    for message, words in (
        (Begin(0, ()), "the text is empty"),
        (Begin(0, (1,), (1, 2, 3, 4)), "4 drafts in a round; 3 are taken"),
        (Begin(0, (1,) * 7, (1, 2)), "7 tokens and 2 drafts; the target's context holds 8"),
        (Begin(0, (1, 99)), "token 99 is outside of the target's vocabulary of 11"),
    ):
        with pytest.raises(Broken, match=words):
            server.received(message)
    with pytest.raises(Broken, match="1 drafts come with 0 distributions"):
        Verifier(8, VOCAB, sampling=True).received(Begin(0, (1,), (1,)))
    assert server.received(Propose(1, 0, (1,))) == Lost(1), "nobody began"


def test_what_is_old_doubled_or_of_another_text_is_known_for_it() -> None:
    server = Verifier(20, VOCAB)
    begin = Begin(0, (1, 2))
    assert server.received(begin) is server.work and server.received(begin) is None, "under way"
    final = server.verified(0, 5, False)
    assert server.received(begin) == final, "its result got lost"
    assert server.received(Propose(1, check_of([1, 2, 6]), (3,))) == Lost(1), "another text"
    assert server.received(Propose(1, check_of([1, 2, 5]), (3,))) is server.work
    server.verified(1, 4, False)
    assert server.received(begin) is None and server.received(Propose(1, 0, (3,))) == Final(1, 1, 4)
    assert server.text == (1, 2, 5, 3, 4)
    board = Drafter([1, 2], 9, ENDS, lambda: 1, 20, 20)
    board.received(Final(7, 0, 3))
    board.received(Lost(7))
    assert board.answer == [] and board.under_way
    with pytest.raises(Broken, match="2 of 0 drafts accepted"):
        board.received(Final(0, 2, 3))
    board.received(Refused("no more"))
    assert board.done and board.refused == "no more"


def test_a_result_is_of_the_round_that_was_asked_for_and_no_other() -> None:
    server = Verifier(20, VOCAB)
    old = server.received(Begin(0, (1, 2)))
    new = server.received(Begin(1, (3, 4), (5,)))
    assert isinstance(old, Work) and isinstance(new, Work) and new is server.work
    assert server.verified(0, 9, False, old) is None
    assert server.verified(1, 6, False, new) == Final(1, 1, 6) and server.text == (3, 4, 5, 6)
    assert server.verified(0, 9, False) is None


# -- by chance ----------------------------------------------------------------------------------------------------------


def test_numbers_depend_on_seed_place_and_purpose_alone_and_are_even() -> None:
    assert chance.uniform(1, 2, 0) == chance.uniform(1, 2, 0)
    many = np.array([[chance.uniform(s, n, p) for n in range(2000)] for s in (1, 2) for p in range(3)])
    assert many.min() >= 0 and many.max() < 1 and len(np.unique(many)) == many.size
    assert np.abs(many.mean(axis=1) - 0.5).max() < 0.03


@pytest.mark.parametrize("seed", range(3))
def test_the_choice_keeps_the_targets_distribution(seed: int) -> None:
    """Chi-square over 20,000 draws of the first token after a place, for a draft that is far from the target."""
    r = np.random.default_rng(seed)
    q, wide = r.dirichlet(np.full(60, 0.3)), r.dirichlet(np.full(60, 0.3))
    choice = chance.choice_of(wide)
    after = r.dirichlet(np.full(60, 0.3))
    counts = np.zeros(60)
    accepted = 0
    for n in range(20_000):
        x = chance.draft(choice, 60, n, 5)
        many, token = chance.sampled([q, after], [x], [choice], frozenset(), n, 5)
        counts[x if many else token] += 1
        accepted += many
    p = chance.spread(choice, 60)
    assert abs(accepted / 20_000 - np.minimum(p, q).sum()) < 0.015, "as often as theory says"
    likely = q * 20_000 >= 5
    found, wanted = np.append(counts[likely], counts[~likely].sum()), np.append(q[likely], q[~likely].sum()) * 20_000
    statistic = float(((found - wanted) ** 2 / wanted).sum())
    freedom = len(found) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5, f"chi-square {statistic:.1f} at {freedom} degrees of freedom"


def test_a_distribution_that_is_none_is_refused() -> None:
    good = chance.choice_of(np.array([0.5, 0.25, 0.25]))
    assert good.tokens == (0, 1, 2)
    for bad in (
        replace(good, tokens=(0, 1)),
        replace(good, tokens=(0, 1, 9)),
        replace(good, tokens=(0, 1, 1)),
        Choice((), b""),
        replace(good, halves=np.array([1, np.nan, 1], np.float16).tobytes()),
    ):
        with pytest.raises(ValueError, match="no distribution"):
            chance.spread(bad, 3)
    with pytest.raises(ValueError, match="has probability 0"):
        chance.sampled([np.ones(4) / 4] * 2, [3], [good], frozenset(), 0, 0)
