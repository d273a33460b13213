# SPDX-License-Identifier: Apache-2.0
"""selftest: the ladder on one device, from memory to tokens; the first rung that fails tells the likely cause.

The reference of the last rungs is the emulator, which gives the same bits as any healthy device.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.errors import DeviceError
from meadow.compiler.isa import INSTRUCTION_BYTES, Opcode, decode

if TYPE_CHECKING:
    from meadow.runtime.session import Session

WALK_BYTES = 1 << 20
TOKENS = 32
PROMPT = 5
"""Tokens: several, because a softmax over one key hides every mistake before it."""
Rung = tuple[str, bool, str]
Check = Callable[["Session", "Session"], tuple[bool, str]]


def selftest(session: Session) -> list[Rung]:
    """(rung, passed, what was seen) of each rung up to the first that fails.  The session is reset before and after."""
    from meadow.runtime.session import Session as Fresh

    checks: tuple[tuple[str, Check], ...] = (
        ("memory walk", _memory), ("weight checksums", _weights), ("one step", _one_step), ("one layer", _one_layer),
        ("first token", _first_token), (f"{TOKENS} tokens", _tokens),
    )  # fmt: skip
    rungs: list[Rung] = []
    with Fresh(session.package.folder, "emulator") as healthy:
        for name, check in checks:
            session.reset()
            healthy.reset()
            try:
                passed, seen = check(session, healthy)
            except DeviceError as error:
                passed, seen = False, str(error)
            rungs.append((name, passed, seen))
            if not passed:
                break
    session.reset()
    return rungs


def _memory(session: Session, healthy: Session) -> tuple[bool, str]:
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


def _weights(session: Session, healthy: Session) -> tuple[bool, str]:
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


def _prompt(session: Session) -> list[int]:
    return [(7 * i + 1) % int(session.package.model["vocab"]) for i in range(PROMPT)]


def _prefix(session: Session, count: int) -> list[NDArray[np.uint8]]:
    """Run the first `count` steps of the prefill program; the bytes (up to a limit) of every memory that steps write."""
    code = np.frombuffer(session.package.program("prefill"), np.uint8)[: count * INSTRUCTION_BYTES]
    code = np.concatenate([code, np.zeros(INSTRUCTION_BYTES, np.uint8)])  # opcode 0 is END
    address = session.device.alloc(code.size)
    session.device.write(address, code)
    session.run_program(address, _prompt(session), first_logit=PROMPT)
    kinds = ("activations", "kv", "pinned")
    return [
        session.device.read(address, min(chunk.length, WALK_BYTES))
        for chunk, address in zip(session.package.chunks, session.addresses, strict=True) if chunk.kind in kinds
    ]  # fmt: skip


def _compare_prefix(session: Session, healthy: Session, count: int) -> tuple[bool, str]:
    for mine, theirs in zip(_prefix(session, count), _prefix(healthy, count), strict=True):
        wrong = np.flatnonzero(mine != theirs)
        if wrong.size:
            return (
                False,
                f"{wrong.size} bytes differ after {count} steps: the engine's arithmetic, or a bus that drops beats",
            )
    return True, f"{count} steps"


def _one_step(session: Session, healthy: Session) -> tuple[bool, str]:
    """The first norm with its quantization."""
    return _compare_prefix(session, healthy, 1)


def _one_layer(session: Session, healthy: Session) -> tuple[bool, str]:
    """Everything up to the third norm, which begins the second layer (or ends a model of one)."""
    opcodes = [op for op, _ in decode(session.package.program("prefill"))]
    norms = [i for i, op in enumerate(opcodes) if op is Opcode.NORM]
    return _compare_prefix(session, healthy, norms[2])


def _generate(session: Session, count: int) -> list[int]:
    return list(session.generate(_prompt(session), min(count, session.context - PROMPT)))


def _compare(session: Session, healthy: Session, count: int) -> tuple[bool, str]:
    wanted, found = _generate(healthy, count), _generate(session, count)
    if session.digest == healthy.digest:
        return True, f"digest {session.digest[:16]}"
    place = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), None)
    tokens = "tokens agree, logits do not" if place is None else f"token {place} is {found[place]}, not {wanted[place]}"
    return False, f"{tokens}: the engine's arithmetic, or a bus that drops beats"


def _first_token(session: Session, healthy: Session) -> tuple[bool, str]:
    return _compare(session, healthy, 1)


def _tokens(session: Session, healthy: Session) -> tuple[bool, str]:
    return _compare(session, healthy, TOKENS)
