# SPDX-License-Identifier: Apache-2.0
"""bench speculate: a board that drafts and a server that verifies, beside the server alone and its rivals.

Tokens, acceptance and bytes are measured on real models; every second is a stated or modelled one, on a virtual clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from meadow.evidence.bench.rounds import Draft, Judge, Play, Result, Run, Times
from meadow.speculate.lookup import Lookup
from meadow.speculate.messages import MOST_DRAFTS
from meadow.speculate.network import Network
from meadow.speculate.pace import Pace
from meadow.speculate.rounds import Drafter, Verifier, Work

ROWS = {
    "none": "drafts on the board, nothing ahead",
    "own": "drafts ahead on its own guess (as PicoSpec does)",
    "exits": "drafts ahead on what exits say",
    "both": "drafts ahead on the guess that was right more often",
}
PAPER_LATENCY = 0.35
PAPER = {"latency_gain": PAPER_LATENCY, "ahead_gain": 0.11, "kind": "reported", "what": "arXiv 2505.21594"}
WATTS = 5.0
"""Of a board that drafts; assumed."""


@dataclass(frozen=True)
class Setting:
    """What is played.

    prompts   token ids
    gamma     drafts of a round: so many at most, as many as pay
    network   the faulty one; times are compared on it without loss and reordering
    """

    prompts: Sequence[Sequence[int]]
    limit: int
    gamma: int
    network: Network
    times: Times
    context: int  # of the draft


def fifty() -> list[str]:
    """The bundled prompts."""
    found: list[str] = json.loads((resources.files(__package__) / "prompts.json").read_text())
    return found


def measure(
    draft: Draft, judge: Judge, setting: Setting, progress: Callable[[str, str], None] = lambda stage, what: None
) -> dict[str, Any]:
    """All rows of the table; of `streams` answers `identical` are the target's own, on the faulty network with a restart in the third round
    and in every row of the table."""
    alone = []
    for number, prompt in enumerate(setting.prompts):
        progress("alone", f"prompt {number + 1} of {len(setting.prompts)}")
        alone.append(judge.alone(prompt, setting.limit))
    faulty = []
    for number in range(len(setting.prompts)):
        progress("faults", f"prompt {number + 1} of {len(setting.prompts)}")
        faulty.append(play(draft, judge, setting, number, setting.network, "both", restart=2))
    runs: dict[str, list[Run]] = {}
    kinds = tuple(ROWS) if judge.target.exits else ("none", "own")
    for number in range(len(setting.prompts)):
        progress("comparing", f"prompt {number + 1} of {len(setting.prompts)}")
        for ahead in kinds:
            runs.setdefault(ahead, []).append(play(draft, judge, setting, number, setting.network.clean(), ahead))
    every = zip(faulty, *runs.values(), strict=True)
    identical = sum(all(run.tokens == wanted for run in some) for some, wanted in zip(every, alone, strict=True))
    return summary(setting, alone, faulty, runs, identical)


def play(
    draft: Draft, judge: Judge, setting: Setting, number: int, network: Network, ahead: str, restart: int = -1
) -> Run:
    """The answer to a prompt on the virtual clock."""
    t, target = setting.times, judge.target
    pace = Pace(lambda n: n * t.draft + t.verify + network.rtt, setting.gamma)
    drafter = Drafter(
        setting.prompts[number],
        setting.limit,
        target.ends,
        lambda: pace.drafts(MOST_DRAFTS),
        setting.context,
        target.context,
        ahead,
    )
    exits = len(target.exits) if ahead in ("exits", "both") else 0

    def judged(work: Work) -> Result:
        found = judge(number, work)
        pace.saw(found.accepted, len(work.drafts))
        return found if exits else Result([], found.accepted, found.token)

    verifier = lambda: Verifier(target.context, target.vocab)  # noqa: E731
    return Play(draft, judged, drafter, verifier, network, t, (exits, target.layers), number, restart).play()


def summary(
    setting: Setting,
    alone: Sequence[Sequence[int]],
    faulty: Sequence[Run],
    runs: dict[str, list[Run]],
    identical: int,
) -> dict[str, Any]:
    """Everything that is told; `alone` are the target's own answers."""
    t, tokens = setting.times, sum(map(len, alone))
    every = [r for run in runs["none"] for r in run.rounds]
    alpha, drafts = acceptance_of(every), sum(d for d, _ in every) / len(every)
    own = {ahead: {"name": ROWS[ahead], "ahead": ahead, **row_of(some)} for ahead, some in runs.items()}
    rivals = rivals_of(setting, alone, drafts, tokens / len(every))
    cloud, plain = float(rivals[0]["seconds_per_token"]), own["none"]
    best = min((row for ahead, row in own.items() if ahead != "none"), key=lambda r: float(r["seconds_per_token"]))
    return {
        "streams": len(alone),
        "identical": identical,
        "tokens": tokens,
        "network": str(setting.network),
        "times_ms": {k: 1e3 * getattr(t, k) for k in ("draft", "verify", "server_draft")},
        "acceptance": alpha,
        "tokens_per_round": tokens / len(every),
        "drafts_per_round": drafts,
        "latency_gain": 1 - plain["seconds_per_token"] / cloud,
        "ahead_gain": 1 - best["seconds_per_token"] / plain["seconds_per_token"],
        "gain_with_ahead": 1 - best["seconds_per_token"] / cloud,
        "ahead_by": best["ahead"],
        "server_seconds_per_token": plain["server_seconds_per_token"],
        "closed_form": t.verify / (sum(expected(alpha, d) for d, _ in every) / len(every)),
        "server_gain": rivals[1]["server_seconds_per_token"] / plain["server_seconds_per_token"],
        "server_gain_closed_form": 1 + drafts * t.server_draft / t.verify,
        "bytes_per_token": plain["bytes_per_token"],
        "bytes_per_token_with_exits": own["exits"]["bytes_per_token"] if "exits" in own else None,
        "acceptance_for_35_percent": acceptance_needed(t, setting.network.rtt, setting.gamma, PAPER_LATENCY),
        "faults": {
            "restarts": sum(r.restarts for r in faulty),
            **{name: sum(getattr(r.counts, name) for r in faulty) for name in ("sent_again", "begun", "rounds")},
        },
        "published": PAPER,
        "rows": [*rivals, *own.values()],
        "kind": "tokens, acceptance and bytes measured; seconds on a virtual clock of stated times",
    }


def rivals_of(
    setting: Setting, alone: Sequence[Sequence[int]], drafts: float, per_round: float
) -> list[dict[str, Any]]:
    """The server alone, the same drafts made on the server, and look-up there: they stream, so that the network counts once."""
    t, tokens = setting.times, sum(map(len, alone))
    once = setting.network.rtt * len(alone) / tokens
    passes = sum(lookup_passes(p, a, setting.gamma) for p, a in zip(setting.prompts, alone, strict=True))
    found = (
        ("the server alone, streaming", t.verify, None),
        ("drafts on the server", (drafts * t.server_draft + t.verify) / per_round, per_round),
        ("look-up on the server", t.verify * passes / tokens, tokens / passes),
    )
    return [
        {
            "name": name,
            "seconds_per_token": seconds + once,
            "server_seconds_per_token": seconds,
            **({} if each is None else {"tokens_per_round": each}),
        }
        for name, seconds, each in found
    ]


def row_of(runs: Sequence[Run]) -> dict[str, Any]:
    tokens, rounds = sum(len(r.tokens) for r in runs), sum(r.counts.rounds for r in runs)
    c = [r.counts for r in runs]
    early = sum(x.early_rounds for x in c)
    return {
        "seconds_per_token": sum(r.seconds for r in runs) / tokens,
        "server_seconds_per_token": sum(r.server_seconds for r in runs) / tokens,
        "tokens_per_round": tokens / rounds,
        "drafted_ahead": sum(x.ahead for x in c),
        "kept": sum(x.kept for x in c),
        "early_rounds": early,
        "early_right": sum(x.early_right for x in c) / early if early else None,
        "bytes_per_token": sum(r.sent + r.received for r in runs) / tokens,
        "board_mj_per_token": 1e3 * WATTS * sum(r.board_seconds for r in runs) / tokens,
        "rounds": rounds,
    }


def acceptance_of(rounds: Sequence[tuple[int, int]]) -> float:
    """The likeliest probability that a draft is right where those before it were: right ones over tried ones."""
    tried = sum(min(accepted + 1, drafts) for drafts, accepted in rounds)
    return sum(accepted for _, accepted in rounds) / tried if tried else 0.0


def expected(alpha: float, drafts: int) -> float:
    """Tokens of a round with so many drafts: 1 + a + a^2 + ..."""
    return float(sum(alpha**n for n in range(drafts + 1)))


def acceptance_needed(t: Times, rtt: float, gamma: int, gain: float) -> float | None:
    """The acceptance at which drafts on the board, nothing ahead, take `gain` less than the server alone; None: none does."""
    for step in range(1001):
        a = step / 1000
        best = min((n * t.draft + t.verify + rtt) / expected(a, n) for n in range(gamma + 1))
        if best <= (1 - gain) * t.verify:
            return a
    return None


def lookup_passes(prompt: Sequence[int], answer: Sequence[int], gamma: int) -> int:
    """Passes in which a target says `answer` where a look-up in the text drafts for it."""
    lookup, at, passes = Lookup(), 0, 0
    lookup.see(prompt)
    while at < len(answer):
        drafts = lookup.draft(min(gamma, len(answer) - at - 1))
        right = next((n for n, d in enumerate(drafts) if d != answer[at + n]), len(drafts))
        new = answer[at : at + right + 1]
        lookup.see(new)
        at += len(new)
        passes += 1
    return passes
