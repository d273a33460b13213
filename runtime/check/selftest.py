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

from meadow.machine.errors import DeviceError
from meadow.machine.instructions.table import decode
from meadow.machine.isa import INSTRUCTION_BYTES, pack_slot, unpack_slot
from meadow.machine.storage.rows import padded
from meadow.machine.units import LANE_COLS
from meadow.runtime.display import Shown

if TYPE_CHECKING:
    from meadow.runtime.session import Session

WALK_BYTES = 1 << 20
TOKENS = 32
SLOWEST = 2
"""Times the modelled cycles that a decoded token may take."""
PROMPT = 5
"""Tokens: several, because a softmax over one key hides every mistake before it."""
Rung = tuple[str, bool, str]
Check = Callable[["Session", "Session"], tuple[bool, str]]


def selftest(session: Session, healthy: Session) -> Shown[Rung]:
    """(rung, passed, what was seen) of each rung up to the first that fails, beside `healthy`, a Session on the emulator.

    The session is reset before and after.
    """
    checks: tuple[tuple[str, Check], ...] = (
        ("memory walk", _memory),
        ("weight checksums", _weights),
        ("one step", _one_step),
        ("one layer", _one_layer),
        ("first token", _first_token),
        (f"{TOKENS} tokens", _tokens),
        ("speed", _speed),
    )
    rungs: list[Rung] = []
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
    return Shown(rungs, ("rung", "", "seen"), lambda r: (r[0], "ok" if r[1] else "FAILED", r[2]))


def _memory(session: Session, healthy: Session) -> tuple[bool, str]:
    """Every byte of a fresh buffer keeps an address-dependent pattern and its complement."""
    address = session.loaded.spare(WALK_BYTES)
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
    """The device's memory holds what the package holds."""
    total = 0
    for (chunk, data), address in zip(session.package.chunk_bytes(), session.loaded.addresses, strict=True):
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


def _prefix(session: Session, count: int) -> None:
    """Run the first `count` steps of the prefill program on the prompt."""
    code = np.frombuffer(session.package.program("prefill"), np.uint8)[: count * INSTRUCTION_BYTES]
    session.loaded.run_code(code, _prompt(session))


def _read(session: Session, word: int, length: int) -> NDArray[np.uint8]:
    chunk, offset = unpack_slot(word)
    return session.device.read(session.loaded.addresses[chunk] + offset, length)


def _same_bytes(session: Session, healthy: Session, word: int, length: int, what: str) -> tuple[bool, str]:
    wrong = np.flatnonzero(_read(session, word, length) != _read(healthy, word, length))
    if wrong.size:
        return False, f"{wrong.size} bytes of {what} differ: the engine's arithmetic, or a bus that drops beats"
    return True, f"{length} bytes of {what}"


def _one_step(session: Session, healthy: Session) -> tuple[bool, str]:
    """The first norm with its quantization."""
    _, fields = decode(session.package.program("prefill"))[0]
    for each in (session, healthy):
        _prefix(each, 1)
    if fields["floats"]:
        return _same_bytes(
            session, healthy, int(fields["codes"]), PROMPT * padded(int(fields["cols"]), 4) * 4, "rows of the norm"
        )
    length = PROMPT * padded(int(fields["cols"]), LANE_COLS)
    same, seen = _same_bytes(session, healthy, int(fields["codes"]), length, "INT8 codes")
    return _same_bytes(session, healthy, int(fields["scale"]), 4 * PROMPT, "their scales") if same else (same, seen)


def _one_layer(session: Session, healthy: Session) -> tuple[bool, str]:
    """Every step of the first layer: the residual stream after it."""
    package = session.package
    for each in (session, healthy):
        _prefix(each, package.layer_ends("prefill")[0])
    length = PROMPT * padded(int(package.model["dim"]), 4) * 4
    stream = package.slot("x")
    return _same_bytes(session, healthy, pack_slot(int(stream.space), stream.offset), length, "the residual stream")


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


def _speed(session: Session, healthy: Session) -> tuple[bool, str]:
    """Cycles of a decoded token, where the fabric counts them, beside what the compiler modelled for a long context."""
    cycles = session.device.abilities.cycles
    modelled = session.package.summary().get("decode", {}).get("tokens_per_s")
    if cycles is None or not modelled:
        return True, "nothing counts cycles here"
    session.prefill(_prompt(session))
    before = cycles()
    session.step(_prompt(session)[0])
    counted, expected = cycles() - before, session.package.design.clock_mhz * 1e6 / modelled
    seen = f"{counted:,} cycles per token, {expected:,.0f} modelled for a context of {session.package.summary()['decode']['context']}"
    if counted > SLOWEST * expected:
        return False, f"{seen}: a memory port that is too narrow or shared, or another master on the DRAM"
    return True, seen


def _tokens(session: Session, healthy: Session) -> tuple[bool, str]:
    return _compare(session, healthy, TOKENS)
