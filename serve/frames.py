# SPDX-License-Identifier: Apache-2.0
"""Messages of speculative decoding as bytes: msgpack lists of a number for the kind and the fields, those that have their default and
stand at the end left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import msgpack

from meadow.speculate.messages import (
    MOST_DRAFTS,
    Begin,
    Choice,
    Early,
    Final,
    Hello,
    Lost,
    Propose,
    Refused,
    ToBoard,
    ToServer,
    Welcome,
)

KINDS: tuple[type[Any], ...] = (Hello, Welcome, Begin, Propose, Early, Final, Lost, Refused)
BOARD_KINDS = (Hello, Begin, Propose)
"""That a board says."""
MOST_TEXT = 1 << 18
"""Tokens of a text."""
MOST_NUMBER = 1 << 32


class Unreadable(Exception):
    """Bytes that are no message."""


def _number(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_NUMBER


def _seed(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 64


def _real(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e9


def _numbers(most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(_number, value))


def _choices(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MOST_DRAFTS
        and all(
            isinstance(c, list) and len(c) == 2 and _numbers(64)(c[0]) and isinstance(c[1], bytes) and len(c[1]) <= 128
            for c in value
        )
    )


CHECKS: dict[str, Callable[[Any], bool]] = {
    "text": _numbers(MOST_TEXT),
    "drafts": _numbers(MOST_DRAFTS),
    "exits": _numbers(1024),
    "choices": _choices,
    "seed": _seed,
    **dict.fromkeys(("temperature", "top_p", "min_p"), _real),
    **dict.fromkeys(("early", "done"), lambda value: isinstance(value, bool)),
    **dict.fromkeys(("vocabulary", "checks"), lambda value: isinstance(value, bytes) and len(value) <= 1 << 22),
    "words": lambda value: isinstance(value, str) and len(value) <= 4096,
}
"""By field; the others are numbers.  A Welcome has `drafts` too, which is one."""


def encode(message: ToServer | ToBoard) -> bytes:
    """A message as bytes."""
    values = []
    for field in fields(message):
        value = getattr(message, field.name)
        values.append([[c.tokens, c.halves] for c in value] if field.name == "choices" else value)
    rest = list(fields(message))
    while rest and rest[-1].default is not MISSING and getattr(message, rest[-1].name) == rest[-1].default:
        rest.pop()
        values.pop()
    packed: bytes = msgpack.packb([KINDS.index(type(message)), *values], use_single_float=False)
    return packed


def decode(data: bytes) -> Any:
    """The message that bytes are.  Raises Unreadable."""
    try:
        found = msgpack.unpackb(data, max_array_len=MOST_TEXT, max_map_len=0, max_ext_len=0)
    except Exception as wrong:  # msgpack raises its own kinds, ValueError and more
        raise Unreadable(f"a frame of {len(data)} bytes is no msgpack: {type(wrong).__name__}") from None
    if not isinstance(found, list) or not found or type(found[0]) is not int or not 0 <= found[0] < len(KINDS):
        raise Unreadable("a frame is a list that begins with the kind of message")
    kind = KINDS[found[0]]
    known, values = fields(kind), found[1:]
    least = sum(f.default is MISSING for f in known)
    if not least <= len(values) <= len(known):
        raise Unreadable(f"{kind.__name__} has {len(values)} fields; {least} to {len(known)} are expected")
    made = {}
    for field, value in zip(known, values, strict=False):
        check = _number if (kind, field.name) == (Welcome, "drafts") else CHECKS.get(field.name, _number)
        if not check(value):
            raise Unreadable(f"{kind.__name__}.{field.name} is not what is expected there")
        if field.name == "choices":
            value = tuple(Choice(tuple(tokens), halves) for tokens, halves in value)
        made[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**made)
