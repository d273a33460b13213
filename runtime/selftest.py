# SPDX-License-Identifier: Apache-2.0
"""selftest: the ladder on one device, from memory to tokens; the first rung that fails tells the likely cause.

The reference of the last rungs is the emulator, which gives the same bits as any healthy device.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from meadow.compiler.errors import DeviceError

if TYPE_CHECKING:
    from meadow.runtime.session import Session

WALK_BYTES = 1 << 20
TOKENS = 32
Rung = tuple[str, bool, str]


def selftest(session: Session) -> list[Rung]:
    """(rung, passed, what was seen) of each rung up to the first that fails.  The session is reset before and after."""
    rungs: list[Rung] = []
    for name, check in (("memory walk", _memory), ("weight checksums", _weights), ("first token", _first_token),
                        (f"{TOKENS} tokens", _tokens)):  # fmt: skip
        session.reset()
        try:
            passed, seen = check(session)
        except DeviceError as error:
            passed, seen = False, str(error)
        rungs.append((name, passed, seen))
        if not passed:
            break
    session.reset()
    return rungs


def _memory(session: Session) -> tuple[bool, str]:
    """Every byte of a fresh buffer keeps an address-dependent pattern and its complement."""
    address = session.device.alloc(WALK_BYTES)
    pattern = (np.arange(WALK_BYTES, dtype=np.uint64) * 2654435761 >> 7).astype(np.uint8)
    for wanted in (pattern, ~pattern):
        session.device.write(address, wanted)
        wrong = np.flatnonzero(session.device.read(address, WALK_BYTES) != wanted)
        if wrong.size:
            return (
                False,
                f"{wrong.size} bytes differ, the first at {address + int(wrong[0]):#x}: memory or its cache handling",
            )
    return True, f"{WALK_BYTES} bytes"


def _weights(session: Session) -> tuple[bool, str]:
    """What lies in the device's memory is what the package holds."""
    total = 0
    for (chunk, data), address in zip(session.package.chunk_bytes(), session.addresses, strict=True):
        if data is None:
            continue
        for start in range(0, chunk.length, 1 << 22):
            wanted = data[start : start + (1 << 22)]
            if zlib.crc32(session.device.read(address + start, wanted.size).data) != zlib.crc32(
                np.ascontiguousarray(wanted).data
            ):
                return (
                    False,
                    f"chunk {chunk.index} differs near byte {start}: the upload, or memory that was overwritten",
                )
        total += chunk.length
    return True, f"{total} bytes"


def _reference(session: Session, count: int) -> tuple[list[int], str]:
    """The tokens that the emulator gives from a fixed prompt, and the digest of its logits."""
    from meadow.runtime.session import Session as Fresh

    with Fresh(session.package.folder, "emulator") as emulator:
        return _generate(emulator, count), emulator.digest


def _generate(session: Session, count: int) -> list[int]:
    vocab = int(session.package.model["vocab"])
    room = min(count, session.context - 8)
    return list(session.generate([(7 * i + 1) % vocab for i in range(5)], room))


def _compare(session: Session, count: int) -> tuple[bool, str]:
    wanted, wanted_digest = _reference(session, count)
    found = _generate(session, count)
    if session.digest == wanted_digest:
        return True, f"digest {session.digest[:16]}"
    place = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), None)
    tokens = "tokens agree, logits do not" if place is None else f"token {place} is {found[place]}, not {wanted[place]}"
    return False, f"{tokens}: the engine's arithmetic, or a bus that drops beats"


def _first_token(session: Session) -> tuple[bool, str]:
    return _compare(session, 1)


def _tokens(session: Session) -> tuple[bool, str]:
    return _compare(session, TOKENS)
