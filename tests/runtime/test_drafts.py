# SPDX-License-Identifier: Apache-2.0
"""Drafts on one board: the same tokens and the same digest as without, whoever proposes, wherever it runs, however it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meadow.machine.errors import UsageError
from meadow.machine.package.read import load
from meadow.runtime.drafts import Drafts, LookupDrafts, ModelDrafts, can_pay, pass_seconds
from meadow.runtime.session import Session

PROMPT = [1, 17, 300, 5, 17, 300, 5, 17]
DEVICES = ["emulator", "csim", "emulated-pynq"]


class Said(Drafts):
    """Proposes what it is told to."""

    def __init__(self, seconds: list[float], script: list[list[int]]):
        super().__init__(seconds, 7, adaptive=False)
        self.script = list(script)

    def see(self, tokens: Any) -> None:
        pass

    def propose(self, room: int) -> list[int]:
        return self.script.pop(0)[: max(room, 0)] if self.script else []


def seconds(package: Path) -> list[float]:
    return pass_seconds(load(package))


@pytest.fixture(scope="module")
def emulator(tiny_package: Path) -> Any:
    with Session(tiny_package, "emulator") as session:
        yield session


def test_the_package_says_what_a_run_of_several_tokens_costs(tiny_package: Path) -> None:
    found = seconds(tiny_package)
    assert len(found) == 8 and found == sorted(found)
    assert found[3] < 4 * found[0], "the weights are read once for all of them"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12),
    st.integers(1, 24),
    st.integers(0, 3),
    st.floats(0, 1.2),
)
def test_any_drafts_give_the_tokens_and_the_digest_of_none(
    emulator: Session, tiny_package: Path, shape: list[tuple[int, int]], count: int, seed: int, temperature: float
) -> None:
    how: Any = {"temperature": temperature, "seed": seed}
    plain = emulator.answer(PROMPT, count, **how)
    plain.read()
    wanted, digest = [t.id for t in plain.tokens], emulator.digest
    script, at = [], 1
    for right, wrong in shape:  # so many right ones, and behind them wrong ones
        ahead = wanted[at : at + right] + [(t + 1) % 1000 for t in wanted[at + right : at + right + wrong]]
        script.append(ahead[:7])
        at += min(right, 7) + 1
    answer = emulator.answer(PROMPT, count, drafts=Said(seconds(tiny_package), script), **how)
    answer.read()
    assert [t.id for t in answer.tokens] == wanted and answer.text == plain.text
    assert emulator.digest == digest and answer.finish_reason == plain.finish_reason
    assert emulator.position == len(PROMPT) + max(len(wanted) - 1, 0) + (answer.finish_reason == "stop")


@pytest.mark.csim
def test_drafts_are_accepted_alike_on_every_device(tiny_package: Path) -> None:
    found = []
    for device in DEVICES:
        with Session(tiny_package, device) as session:
            drafts = LookupDrafts(seconds(tiny_package), 3)
            answer = session.answer(PROMPT, 40, drafts=drafts)
            answer.read()
            found.append((answer.text, [t.id for t in answer.tokens], drafts.rounds, session.digest))
    assert found[0] == found[1] == found[2]
    with Session(tiny_package, "emulator") as session:
        plain = session.answer(PROMPT, 40)
        assert (plain.read(), session.digest) == (found[0][0], found[0][3])
    rounds = found[0][2]
    assert rounds.passes < rounds.tokens == 39 and rounds.tokens == rounds.passes + rounds.accepted


def test_a_model_that_drafts_for_itself_is_always_right(tiny_package: Path, emulator: Session) -> None:
    with Session(tiny_package, "emulator") as second:
        drafts = ModelDrafts(second, seconds(tiny_package), 3, adaptive=False)
        answer = emulator.answer(PROMPT, 21, drafts=drafts)
        answer.read()
        assert drafts.rounds.acceptance == 1 and drafts.rounds.passes == 5 and drafts.rounds.tokens_per_pass == 4
        assert drafts.gain < 1, "and for all that slower: it is no smaller"
        same = seconds(tiny_package)
        assert not can_pay(same, same, 3) and can_pay([same[0] / 20], same, 3)


def test_a_context_is_filled_to_its_end_and_not_beyond(tiny_package: Path, emulator: Session) -> None:
    prompt = (PROMPT * emulator.context)[: emulator.context - 9]
    emulator.reset()
    wanted = list(emulator.generate(prompt, 50))
    emulator.reset()
    drafts = LookupDrafts(seconds(tiny_package), 7, adaptive=False)
    assert list(emulator.generate(prompt, 50, drafts=drafts)) == wanted
    assert emulator.position == emulator.context and len(wanted) == 10


def test_who_stops_between_two_tokens_goes_on_from_there(tiny_package: Path, emulator: Session) -> None:
    emulator.reset()
    wanted = list(emulator.generate(PROMPT, 12))
    emulator.reset()
    script = [wanted[1:8]]
    answer = emulator.generate(PROMPT, 12, drafts=Said(seconds(tiny_package), script))
    first = [next(answer) for _ in range(4)]
    answer.close()
    assert first == wanted[:4] and emulator.position == len(PROMPT) + 3
    digest = emulator.digest
    emulator.reset()
    stepped = emulator.generate(PROMPT, 4)
    assert list(stepped) == wanted[:4] and emulator.digest == digest and emulator.position == len(PROMPT) + 3
    assert int(emulator.step(wanted[3]).argmax()) == wanted[4]


def test_an_end_token_inside_of_the_drafts_ends_the_answer(tiny_package: Path, emulator: Session) -> None:
    emulator.reset()
    every = list(emulator.generate(PROMPT, 12))
    at = next(n for n in range(3, 12) if every[n] not in every[:n])
    end = frozenset({every[at]})
    emulator.reset()
    wanted = list(emulator.generate(PROMPT, 12, end_tokens=end))
    digest = emulator.digest
    emulator.reset()
    found = list(emulator.generate(PROMPT, 12, end_tokens=end, drafts=Said(seconds(tiny_package), [every[1:8]])))
    assert found == wanted == every[:at] and emulator.digest == digest


def test_bad_input_is_told(tiny_package: Path, emulator: Session, meadowc: Any) -> None:
    drafts = LookupDrafts(seconds(tiny_package), 3)
    with pytest.raises(UsageError, match="drop one"):
        emulator.answer(PROMPT, 4, drafts=drafts, ahead=True)
    with pytest.raises(UsageError, match="gamma is 9; 1 to 7"):
        LookupDrafts(seconds(tiny_package), 9)
    for options, words in (
        (("--gamma", "2"), "nobody drafts; add --draft lookup"),
        (("--draft", "lookup", "--ahead"), "drop one of them"),
        (("--draft", "nowhere"), "nowhere"),
        (("--draft", "lookup", "--gamma", "9"), "9 is not in the range 1<=x<=7"),
    ):
        found = meadowc("run", tiny_package, "-p", "Hello", *options)
        assert found.code == 2 and words in found.err, found.err


def test_run_says_what_the_drafts_came_to(tiny_package: Path, meadowc: Any, tmp_path: Path) -> None:
    plain = meadowc("run", tiny_package, "-p", "Hello", "-n", "24", "--json").json
    found = meadowc("run", tiny_package, "-p", "Hello", "-n", "24", "--draft", "lookup", "--json").json
    assert found["tokens"] == plain["tokens"] and found["digest"] == plain["digest"]
    assert found["tokens_per_pass"] >= 1 and found["gain"] > 0 and found["drafted"] >= found["accepted"]
    spoken = meadowc("run", tiny_package, "-p", "Hello", "-n", "24", "--draft", tiny_package)
    assert spoken.code == 0 and "cannot pay as a draft" in spoken.err and "drafts accepted (measured)" in spoken.err
    other = json.loads((load(tiny_package).folder / "report" / "summary.json").read_text())
    assert other["passes"]["kind"] == "modelled"


def test_chat_and_python_take_drafts_by_name(talkative: Path, meadowc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session(talkative, "emulator") as session:
        plain = session.answer("s 1", 12)
        text, digest = plain.read(), session.digest
        drafted = session.answer("s 1", 12, drafts="lookup")
        assert (drafted.read(), session.digest) == (text, digest)
        assert drafted.drafts is not None and drafted.drafts.rounds.tokens == len(drafted.tokens) - 1 + (
            drafted.finish_reason == "stop"
        )
        with pytest.raises(UsageError, match="'guess' are not known"):
            session.answer("s 1", 4, drafts="guess")
    for options in ((), ("--draft", "lookup")):
        lines = iter(["s 1", None])
        monkeypatch.setattr("meadow.cli.chat._ask", lambda quiet, lines=lines: next(lines))
        found = meadowc("chat", talkative, "-n", "12", "--json", *options)
        assert found.code == 0 and found.json["messages"][-1]["content"] == text
