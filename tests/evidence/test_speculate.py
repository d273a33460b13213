# SPDX-License-Identifier: Apache-2.0
"""bench speculate and bench lookup on the tiny model: the answers, and the virtual clock against sums done by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meadow.evidence.bench.rounds import Play, Result, Times
from meadow.evidence.bench.speculate import acceptance_needed, acceptance_of, expected, lookup_passes
from meadow.speculate.network import Network, parsed
from meadow.speculate.rounds import Drafter, Verifier, Work

pytest.importorskip("msgpack", reason="no msgpack: pip install 'meadow-fpga[serve]'")


def test_every_answer_is_the_targets_and_the_table_has_its_rows(tiny: Path, tiny_package: Path, meadowc: Any) -> None:
    told = meadowc(
        "bench", "speculate", tiny_package, "--target", f"onnx:{tiny}", "--prompts", "4", "-n", "24", "--json",
        "--network", "rtt=120ms,jitter=20ms,loss=10%,reorder=10%,up=1mbps",
    )  # fmt: skip
    assert told.code == 0, told.err
    found = told.json
    assert found["streams"] == found["identical"] == 4 and found["faults"]["begun"] > 4
    assert {"acceptance", "tokens_per_round", "latency_gain", "ahead_gain", "bytes_per_token"} <= set(found)
    names = [row["name"] for row in found["rows"]]
    assert len(names) == 5 and "look-up on the server" in names
    assert abs(found["server_gain"] / found["server_gain_closed_form"] - 1) < 0.1
    for options, words in (
        (("--network", "rtt=fast"), "rtt=NUMBER"),
        (("--network", "loss=95%"), "below 0.9"),
        (("--board", "--draft-ms", "3"), "drop one of them"),
        (("--target", "nothing"), "a kind and a path"),
    ):
        wrong = meadowc("bench", "speculate", tiny_package, *options)
        assert wrong.code == 2 and words in wrong.err


def test_look_up_is_measured_with_the_same_answers(tiny_package: Path, meadowc: Any) -> None:
    told = meadowc("bench", "lookup", tiny_package, "-n", "12", "--json")
    assert told.code == 0, told.err
    assert told.json["same"] and len(told.json["rows"]) == 8 and told.json["tokens_per_pass"] >= 1


def rounds(accept: Sequence[int], gamma: int, ahead: str, network: Network, times: Times) -> Any:
    """An answer whose rounds accept so many of their drafts."""
    script = list(accept)

    def judge(work: Work) -> Result:
        many = min(script.pop(0) if work.drafts else 0, len(work.drafts)) if script else len(work.drafts)
        return Result([], many, 7)

    drafter = Drafter([1, 2], 10_000, frozenset({9}), lambda: gamma, 1 << 20, 1 << 20, ahead)
    play = Play(lambda text: 3, judge, drafter, lambda: Verifier(1 << 20, 100), network, times, (0, 1), 0)

    class Stop(Exception):
        pass

    def stop_after(message: Any) -> None:
        commit(message)
        if drafter.counts.rounds == len(accept) + 1:
            drafter.done = True

    commit = drafter._commit
    drafter._commit = stop_after  # type: ignore[method-assign]
    return play.play()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(1, 4))
def test_a_round_takes_its_drafts_the_way_there_and_back_and_the_target(accept: list[int], gamma: int) -> None:
    times, network = Times(draft=0.07, verify=0.6), Network(rtt=0.12)
    run = rounds([min(a, gamma) for a in accept], gamma, "none", network, times)
    begin = network.rtt + times.verify
    each = gamma * times.draft + network.rtt + times.verify
    assert run.seconds == pytest.approx(begin + len(accept) * each)
    assert run.server_seconds == pytest.approx((1 + len(accept)) * times.verify)


def test_drafting_ahead_hides_drafts_behind_the_round_where_the_guess_is_right() -> None:
    """A draft that always says 3, and a target whose own tokens are 7: the guess (all drafts, then 3) is never right; a target
    that says 3 makes it right, and all drafts of a round are there when the result of the one before comes."""
    times, network = Times(draft=0.07, verify=0.6), Network(rtt=0.12)
    wrong = rounds([2] * 5, 2, "own", network, times)
    each = 2 * times.draft + network.rtt + times.verify
    late = times.draft  # a token under way when the result comes is drafted to its end
    assert begin_of(times, network) + 5 * each <= wrong.seconds + 1e-9 <= begin_of(times, network) + 5 * (each + late)
    assert wrong.counts.kept == 0 < wrong.counts.ahead


def begin_of(times: Times, network: Network) -> float:
    return network.rtt + times.verify


def test_a_description_of_a_network_says_what_it_is() -> None:
    link = parsed("rtt=60ms, jitter=10ms,loss=1%,reorder=2%,up=2Mbps,down=50mbps")
    assert link == Network(0.06, 0.01, 0.01, 0.02, 2e6, 50e6)
    assert parsed(str(link)) == link and parsed("") == Network()
    r = random.Random(0)
    came = [link.seconds(1000, True, r) for _ in range(4000)]
    there = [s for s in came if s is not None]
    assert 0.98 < len(there) / 4000 < 0.997
    assert min(there) >= 0.03 + 0.004 and np.mean(np.array(there) > 0.06) == pytest.approx(0.02, abs=0.01)


def test_sums_by_hand() -> None:
    assert expected(0.5, 2) == 1.75 and acceptance_of([(4, 4), (4, 0), (2, 1)]) == pytest.approx(5 / (4 + 1 + 2))
    needed = acceptance_needed(Times(), 0.12, 4, 0.35)
    assert needed == pytest.approx(0.656, abs=0.002)
    assert acceptance_needed(Times(draft=5.0), 0.12, 4, 0.35) is None
    assert lookup_passes([1, 2, 3, 4], [1, 2, 3, 4, 1, 2], 3) == 3  # 1; 2 and 3 4 1 by "1 2"; 2
