# SPDX-License-Identifier: Apache-2.0
"""Options of drafts: a user says who proposes tokens and how many; `run` says what came of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from meadow.cli.output import options
from meadow.cli.trust import RUNS_CODE, require_trust
from meadow.machine.errors import ResourceExceeded, UsageError
from meadow.machine.package.read import load
from meadow.runtime.drafts import GAMMA, LOOKUP, MOST, Drafts, LookupDrafts, ModelDrafts, can_pay, pass_seconds
from meadow.runtime.session import Session
from meadow.runtime.text.vocabulary import require_same

BOARDS = ("pynq", "emulated-pynq")
"""Devices with one bitstream for all packages."""


draft_options = options(
    click.option(
        "--draft",
        default="",
        metavar="lookup|PACKAGE",
        help="Propose tokens that one run verifies: lookup takes them from the text so far, a package is a smaller model.",
    ),
    click.option(
        "--gamma",
        type=click.IntRange(1, MOST),
        default=None,
        help=f"Drafts of a round at most; fewer where these make more tokens per second [default: {GAMMA}; with --target {MOST}].",
    ),
)
"""--draft and --gamma."""


lookup_option = click.option(
    "--draft",
    type=click.Choice([LOOKUP]),
    default=None,
    help="Propose tokens of the text so far, several of which one run verifies: the same answers.",
)


@contextmanager
def drafting(
    session: Session, draft: str, gamma: int | None, note: Callable[[str], None], trust: bool = False
) -> Iterator[Drafts | None]:
    """Who drafts for a session; None where nobody is asked to.

    trust  whether C++ of the package that drafts may be built and run, though this meadow did not emit it
    note  gets what is to be said before it starts
    Raises UsageError and ResourceExceeded.
    """
    if not draft:
        if gamma is not None:
            raise UsageError("--gamma says how many tokens are drafted, and nobody drafts; add --draft lookup")
        yield None
        return
    costs = pass_seconds(session.package)
    most = min(gamma or GAMMA, len(costs) - 1)
    if gamma is not None and most < gamma:
        raise UsageError(f"--gamma {gamma}: a run of this package verifies {len(costs) - 1} drafts at most")
    if draft == LOOKUP:
        yield LookupDrafts(costs, most)
        return
    with _second(session, Path(draft), note, trust) as second:
        theirs = pass_seconds(second.package)
        if not can_pay(theirs, costs, most):
            note(
                f"{second.package.name} cannot pay as a draft: a token of it takes {theirs[0] * 1e3:.1f} ms and one of "
                f"{session.package.name} {costs[0] * 1e3:.1f} ms (modelled), so even where every draft is right it makes fewer tokens per second"
            )
        yield ModelDrafts(second, costs, most)


@contextmanager
def _second(session: Session, folder: Path, note: Callable[[str], None], trust: bool) -> Iterator[Session]:
    """The package that drafts, on the same kind of device beside the first."""
    if session.device.name in RUNS_CODE:
        require_trust(load(folder), trust)
    second = Session(folder, session.device.name, progress=lambda done, total: None)
    try:
        _check_pair(session, second, note)
        yield second
    finally:
        second.close()


def _check_pair(session: Session, second: Session, note: Callable[[str], None]) -> None:
    first, other = session.package, second.package
    require_same(session.vocabulary, second.vocabulary, first.name, other.name)
    both = sum(c.length for p in (first, other) for c in p.chunks)
    room = first.summary().get("dram_bytes")
    if room and both > room:
        raise ResourceExceeded(
            f"both packages need {both / 1e6:.0f} MB of DRAM; the board has {room / 1e6:.0f} MB; compile them with smaller contexts"
        )
    if first.design.id != other.design.id:
        what = f"{other.name} has design {other.design.id} and {first.name} {first.design.id}, and a board has one bitstream at a time"
        if session.device.name in BOARDS:
            raise UsageError(f"{what}; compile both for one design (--set)")
        note(f"{what}: this pair runs emulated only")


def rounds_line(drafts: Drafts) -> str:
    """What became of the drafts, and what they gain."""
    r = drafts.rounds
    return (
        f"[{r.tokens} tokens in {r.passes} runs, {r.tokens_per_pass:.2f} each; {r.accepted} of {r.drafted} drafts accepted (measured); "
        f"{drafts.gain:.2f} times the tokens/s without drafts (modelled)]"
    )
