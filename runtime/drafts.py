# SPDX-License-Identifier: Apache-2.0
"""Drafts: who proposes the tokens that one run of a session verifies: a look-up in the text so far, or a smaller model beside it.

The answer never depends on them, only its time does.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from meadow.machine.errors import UsageError
from meadow.machine.package.read import Package
from meadow.speculate.lookup import Lookup
from meadow.speculate.pace import Pace

if TYPE_CHECKING:
    from meadow.runtime.session import Session

LOOKUP, GAMMA = "lookup", 3
"""Who drafts, and how many tokens of a round at most, where nobody says."""
MOST = 7
"""Drafts of a round at most: a run verifies them and the token before."""


@dataclass
class Rounds:
    """What drafts came to.

    passes    runs of the model's weights, each for a token or several
    drafted   tokens that were proposed
    accepted  of them, those that the model chose too
    tokens    that were chosen in these runs
    seconds   of the board: runs, and drafting where a model drafts; modelled
    """

    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_pass(self) -> float:
        return self.tokens / self.passes if self.passes else 0.0

    @property
    def acceptance(self) -> float:
        """Share of the proposed tokens that were chosen."""
        return self.accepted / self.drafted if self.drafted else 0.0


def pass_seconds(package: Package) -> list[float]:
    """Modelled seconds of a run of 1, 2, ... tokens whose logits are all wanted.  Raises UsageError for a package without them."""
    found = package.summary().get("passes")
    if not found:
        raise UsageError(
            f"{package.folder} does not say what a run of several tokens costs, so nobody can tell whether drafts pay; compile the model again"
        )
    return [float(n) for n in found["seconds"]]


class Drafts:
    """Proposes tokens, and sees which were right.

    seconds   modelled, of a run of 1, 2, ... tokens
    most      drafts of a round
    adaptive  whether a round may have fewer, where these make more tokens per second
    """

    def __init__(self, seconds: Sequence[float], most: int, adaptive: bool = True):
        if not 1 <= most < len(seconds):
            raise UsageError(
                f"gamma is {most}; 1 to {len(seconds) - 1} drafts can be verified in a run of this package"
            )
        self.pass_seconds, self.most, self.adaptive = list(seconds), most, adaptive
        self.rounds = Rounds()
        self.pace = Pace(lambda n: self.pass_seconds[n] + n * self.draft_seconds, most)

    draft_seconds = 0.0
    """Of the board, for a draft; modelled."""

    @property
    def gain(self) -> float:
        """Tokens per second of the board over those without drafts; modelled."""
        r = self.rounds
        return r.tokens * self.pass_seconds[0] / r.seconds if r.seconds else 1.0

    def see(self, tokens: Sequence[int]) -> None:
        """The text so far: prompt, and the first token of the answer."""
        raise NotImplementedError

    def propose(self, room: int) -> list[int]:
        """At most `room` tokens that may come next."""
        raise NotImplementedError

    def verified(self, found: Sequence[int], proposed: int) -> None:
        """What the model chose, after `proposed` drafts: all but its last are drafts, and the last may be."""
        accepted = len(found) - 1
        self.rounds.passes += 1
        self.rounds.drafted += proposed
        self.rounds.accepted += accepted
        self.rounds.tokens += len(found)
        self.rounds.seconds += self.pass_seconds[proposed] + proposed * self.draft_seconds
        self.pace.saw(accepted, proposed, self.kind)

    @property
    def kind(self) -> Hashable:
        """Of the last proposal: those of one kind are about as often right."""
        return None

    def _count(self, room: int) -> int:
        most = min(self.most, room)
        return self.pace.drafts(most, self.kind) if self.adaptive else most


class LookupDrafts(Drafts):
    """What followed where the last tokens stood before in prompt and answer."""

    def __init__(self, seconds: Sequence[float], most: int, adaptive: bool = True):
        super().__init__(seconds, most, adaptive)
        self.lookup = Lookup()

    @property
    def kind(self) -> Hashable:
        return self.lookup.matched

    def see(self, tokens: Sequence[int]) -> None:
        self.lookup = Lookup()
        self.lookup.see(tokens)

    def propose(self, room: int) -> list[int]:
        found = self.lookup.draft(self.most)
        return found[: self._count(room)]

    def verified(self, found: Sequence[int], proposed: int) -> None:
        super().verified(found, proposed)
        self.lookup.see(found)


class ModelDrafts(Drafts):
    """What a smaller model on the same board would say: another package, whose cache follows the text."""

    def __init__(self, session: Session, seconds: Sequence[float], most: int, adaptive: bool = True):
        self.session = session
        self.draft_seconds = pass_seconds(session.package)[0]
        super().__init__(seconds, most, adaptive)
        self.text: list[int] = []

    def see(self, tokens: Sequence[int]) -> None:
        self.text = list(tokens)

    def propose(self, room: int) -> list[int]:
        made: list[int] = []
        for _ in range(min(self._count(room), self.session.context - len(self.text))):
            made.append(likeliest_after(self.session, [*self.text, *made]))
        return made

    def verified(self, found: Sequence[int], proposed: int) -> None:
        super().verified(found, proposed)
        self.text += found


def likeliest_after(session: Session, text: list[int]) -> int:
    """The token that a session's model puts after a text, of which its cache may have a part."""
    start = session.resume(text)
    return int(np.argmax(session.prefill(text[start:])[-1]))


def drafts_by_name(name: str, package: Package, most: int = GAMMA) -> Drafts:
    """Raises UsageError for a name that is not known, and for a package that does not say what runs cost."""
    if name != LOOKUP:
        raise UsageError(f"drafts by {name!r} are not known; {LOOKUP!r} is")
    seconds = pass_seconds(package)
    return LookupDrafts(seconds, min(most, len(seconds) - 1))


def can_pay(draft: Sequence[float], model: Sequence[float], most: int) -> bool:
    """Whether any number of drafts makes more tokens per second even where all are right: seconds of runs of both, modelled."""
    return any((n * draft[0] + model[n]) / (n + 1) < model[0] for n in range(1, most + 1))


def figures(drafts: Drafts) -> dict[str, Any]:
    """For JSON."""
    r = drafts.rounds
    return {
        "passes": r.passes,
        "drafted": r.drafted,
        "accepted": r.accepted,
        "acceptance": r.acceptance,
        "tokens_per_pass": r.tokens_per_pass,
        "gain": drafts.gain,
        "kind": "tokens measured, seconds of the board modelled",
    }
