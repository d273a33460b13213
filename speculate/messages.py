# SPDX-License-Identifier: Apache-2.0
"""What a board that drafts and a server that verifies tell each other.  serve/frames.py has them as bytes.

A round is one proposal and its result.  Every message of a round names it, and a proposal carries a check of the text that it goes on
from, so that what is late, doubled or of another text is known for it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

VERSION = 1
"""Of the messages."""
MOST_DRAFTS = 32
"""Of a round."""


def check_of(tokens: Iterable[int], before: int = 0) -> int:
    """A CRC-32 of a text, going on from that of what stands before.  It finds mistakes, not forgeries."""
    found = before
    for token in tokens:
        found = zlib.crc32(token.to_bytes(4, "little"), found)
    return found


@dataclass(frozen=True)
class Choice:
    """What a draft was drawn from: the likeliest tokens and their probabilities, which are rounded to FP16 and sum up to about 1."""

    tokens: tuple[int, ...]
    halves: bytes


@dataclass(frozen=True)
class Hello:
    """The board's first words.

    vocabulary   digest of its words
    temperature, top_k, top_p, min_p, seed  of the target's choice; temperature 0: the likeliest token
    early        whether it wants to be told what exits of the target say
    """

    version: int
    vocabulary: bytes
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    early: bool = True


@dataclass(frozen=True)
class Welcome:
    """The server's: what its target is.

    context  tokens that it holds
    drafts   of a round, at most
    exits    layers after which it may tell early what is likely, of `layers`
    """

    context: int
    drafts: int
    layers: int
    exits: tuple[int, ...] = ()


@dataclass(frozen=True)
class Begin:
    """A round on a text that is sent whole: the first one, or one after the server lost the text."""

    round: int
    text: tuple[int, ...]
    drafts: tuple[int, ...] = ()
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class Propose:
    """A round on the text that both sides have; `check` is of all of it."""

    round: int
    check: int
    drafts: tuple[int, ...]
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class Early:
    """What an exit after `layer` says of a round: probably so many drafts are accepted, and then this token comes."""

    round: int
    layer: int
    accepted: int
    token: int


@dataclass(frozen=True)
class Final:
    """The result of a round: so many drafts, then `token`.  `done`: it ends the answer."""

    round: int
    accepted: int
    token: int
    done: bool = False


@dataclass(frozen=True)
class Lost:
    """The server has not the text of this round: begin again."""

    round: int


@dataclass(frozen=True)
class Refused:
    """The server will not go on.

    checks  two bytes for each word of its vocabulary, where that is the reason
    """

    words: str
    checks: bytes = b""


ToServer = Hello | Begin | Propose
ToBoard = Welcome | Early | Final | Lost | Refused
