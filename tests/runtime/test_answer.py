# SPDX-License-Identifier: Apache-2.0
"""Answers: what the cache holds is not computed again and the bits are the same; where an answer stops, and how likely its tokens were."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meadow.machine.errors import UsageError
from meadow.runtime import Session
from meadow.runtime.text.sampler import Sampler, Sampling, logprobs
from meadow.runtime.text.stop import Stop


@pytest.fixture(scope="module")
def session(talkative: Path) -> Session:
    return Session(talkative)


prompts = st.lists(st.integers(1, 9), min_size=1, max_size=24)


@given(first=prompts, second=prompts, count=st.integers(1, 6))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_prompt_that_is_partly_in_the_cache_gives_the_bits_of_a_fresh_session(
    first: list[int], second: list[int], count: int, session: Session, talkative: Path
) -> None:
    session.answer(first, count).read()
    before, cached = session.stats.prefill_tokens, list(session.loaded.cached)
    answer = session.answer(second, count)
    text, digest = answer.read(), session.digest
    assert answer.reused + session.stats.prefill_tokens - before == len(second)
    assert answer.reused < len(second) and cached[: answer.reused] == second[: answer.reused]
    assert answer.reused in (len(second) - 1, len(cached)) or cached[answer.reused] != second[answer.reused]
    with Session(talkative) as fresh:
        again = fresh.answer(second, count)
        assert (again.read(), fresh.digest, again.tokens) == (text, digest, answer.tokens)
        assert again.reused == 0


def test_a_run_that_was_interrupted_leaves_nothing_to_reuse(talkative: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session(talkative) as session:
        session.answer([1, 2, 3, 4, 5, 6], 2).read()
        run = session.loaded.run

        def interrupted(*arguments: object) -> None:
            run(*arguments)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        monkeypatch.setattr(session.loaded, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.answer([1, 2, 9, 9, 9], 2).read()
        monkeypatch.undo()
        answer = session.answer([1, 2, 3, 4, 5, 6], 2)
        answer.read()
        assert answer.reused == 2


def test_what_others_ran_on_the_device_is_not_taken_for_the_prompt(talkative: Path) -> None:
    with Session(talkative) as session:
        session.answer([1, 2, 3, 4], 2).read()
        session.compare(tokens=[9, 9, 9])  # writes keys and values of its own
        answer = session.answer([1, 2, 3, 4, 5], 4)
        answer.read()
        digest = session.digest
        assert answer.reused == 0
    with Session(talkative) as fresh:
        fresh.answer([1, 2, 3, 4, 5], 4).read()
        assert fresh.digest == digest


def test_every_turn_of_a_chat_prefills_its_own_tokens_alone(talkative: Path) -> None:
    with Session(talkative) as session:
        messages: list[dict[str, str]] = []
        for turn in range(4):
            messages.append({"role": "user", "content": f"s {turn}"})
            held, before = len(session.loaded.cached), session.stats.prefill_tokens
            answer = session.chat(messages, 6)
            messages.append({"role": "assistant", "content": answer.read()})
            assert session.stats.prefill_tokens - before == answer.prompt_tokens - answer.reused
            assert answer.reused == held  # all that was there
        assert answer.prompt[: len(session.loaded.cached)] == session.loaded.cached[: len(answer.prompt)]


def test_an_answer_that_was_cut_or_that_the_template_changes_is_made_into_tokens_again(
    talkative: Path, tmp_path: Path
) -> None:
    trims = tmp_path / "trims"
    shutil.copytree(talkative, trims)
    template = trims / "tokenizer" / "chat_template.jinja"
    template.write_text(template.read_text().replace("m.content", "m.content | upper"))
    for package, how in ((talkative, {"stop": ["e"]}), (trims, {})):
        with Session(package) as session:
            messages = [{"role": "user", "content": "s"}]
            said = session.chat(messages, 8, **how).read()
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "t"}]
            used = session.tokenizer.conversation(messages, session.spoken)
            assert used == session.tokenizer.conversation(messages)


def test_a_prompt_beyond_the_context_is_refused_before_anything_is_forgotten(talkative: Path) -> None:
    with Session(talkative) as session:
        session.answer([1, 2, 3], 2).read()
        with pytest.raises(UsageError, match="129 tokens after 0"):
            session.answer([1] * 129, 2).read()
        assert session.position == 4


@pytest.mark.parametrize(
    "messages", [[], [{}], [{"role": "user"}], [{"role": "user", "content": 3}], "", [["user", "x"]]]
)
def test_what_is_no_conversation_is_refused(messages: object, session: Session) -> None:
    if messages == "":
        assert session.chat("", 2).read() is not None  # a user who says nothing
        return
    with pytest.raises(UsageError, match=r"message 0 is|messages are a list"):
        session.chat(messages, 2)  # type: ignore[arg-type]


# -- where it ends ---------------------------------------------------------------------------------------------------


@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_a_stop_text_is_found_wherever_its_pieces_lie(pieces: list[str], stops: list[str]) -> None:
    stop, shown = Stop(stops), ""
    for piece in pieces:
        shown += stop.push(piece)
        assert not any(text in shown for text in stops)
    shown += "" if stop.found else stop.finish()
    whole = "".join(pieces)
    ends = [whole.find(text) + len(text) for text in stops if text in whole]
    if not ends:
        assert shown == whole and not stop.found
    else:  # the one that was whole first, as the text came
        assert stop.found in stops and whole.startswith(shown + stop.found)


def test_an_answer_says_why_it_ended(session: Session) -> None:
    whole = session.answer("The", 12, raw=True)
    text = whole.read()
    assert whole.finish_reason == "length" and len(whole.tokens) == 12 and str(whole) == text
    stopped = session.answer("The", 12, raw=True, stop=text[4:7])
    assert stopped.read() == text[: text.find(text[4:7])] and stopped.finish_reason == "stop"
    ended = session.answer("The", 12, raw=True)
    ended.end_tokens = frozenset({whole.tokens[3].id})
    ended.read()
    assert ended.finish_reason == "stop" and ended.tokens == whole.tokens[:3]
    assert "12 of answer, length" in repr(whole) and "<div" in whole._repr_html_()


# -- how it is chosen ------------------------------------------------------------------------------------------------


def test_logprobs_are_those_of_the_logits(session: Session) -> None:
    answer = session.answer([5, 6, 7], 4, logprobs=3)
    answer.read()
    session.reset()
    row = session.prefill([5, 6, 7])[0].astype(np.float64)
    wanted = row - np.log(np.exp(row - row.max()).sum()) - row.max()
    first = answer.tokens[0]
    assert first.logprob == pytest.approx(wanted[first.id]) and [n for n, _ in first.top] == list(np.argsort(-row)[:3])
    assert np.exp(logprobs(row.astype(np.float32))).sum() == pytest.approx(1)


def test_settings_out_of_range_are_all_named(session: Session) -> None:
    with pytest.raises(UsageError) as caught:
        session.answer([1], 2, temperature=-1, top_p=0, min_p=2, repeat_penalty=0, seed=-1, top_k=-1)
    for name in ("temperature", "top_p", "min_p", "repeat_penalty", "seed", "top_k"):
        assert name in str(caught.value)
    for wrong in ({"temperature": None}, {"seed": 1.5}, {"top_k": 2.5}, {"foo": 1}, {"logprobs": -1}):
        with pytest.raises(UsageError):
            session.answer([1], 2, **wrong)
    with pytest.raises(UsageError, match="bytes"):
        session.answer(b"x", 2)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="drop temperature"):
        session.answer([1], 2, choose=lambda row: 0, temperature=1.0)


@given(st.integers(0, 1000), st.floats(0.1, 2.0), st.floats(0.05, 1.0))
@settings(max_examples=30)
def test_the_same_seed_chooses_the_same_and_min_p_keeps_the_likely(seed: int, temperature: float, min_p: float) -> None:
    logits = np.random.default_rng(seed).normal(size=50).astype(np.float32) * 3
    sampling = Sampling(temperature=temperature, min_p=min_p, seed=seed)
    first, second = Sampler(sampling), Sampler(sampling)
    chosen = [first(logits) for _ in range(20)]
    assert chosen == [second(logits) for _ in range(20)]
    p = np.exp((logits - logits.max()).astype(np.float64) / temperature)
    assert all(p[token] >= min_p * (1 - 1e-9) for token in chosen)


def test_a_repeat_penalty_turns_away_from_what_was_said() -> None:
    logits = np.array([5.0, 4.9, -1.0], np.float32)
    plain, careful = Sampler(Sampling()), Sampler(Sampling(repeat_penalty=1.3))
    assert [plain(logits) for _ in range(3)] == [0, 0, 0]
    assert [careful(logits) for _ in range(3)] == [0, 1, 0]
    assert logits.tolist() == pytest.approx([5.0, 4.9, -1.0])
