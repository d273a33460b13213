# SPDX-License-Identifier: Apache-2.0
"""Ahead: one start of the engine for many tokens, which it chooses and goes on to by itself; the host reads them as they come.

The engine writes token and number into a ring as one beat, so that who sees the number sees the token (machine/instructions/next.py).
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from meadow.machine.errors import DeviceError
from meadow.machine.instructions.next import ENDS, NO_TOKEN
from meadow.machine.units import BEAT_BYTES
from meadow.runtime.devices.device import Run

if TYPE_CHECKING:
    from meadow.runtime.loaded import Loaded

SOONEST, LATEST = 1e-4, 1e-3
"""Seconds between two looks into the ring: a token of a board takes some milliseconds."""
LOOKS = 4
"""After so many of them without a token, the registers are asked whether the engine still runs."""


class Ahead:
    """Tokens after `token`, which is run at `position`: at most `count`, and none behind one of `ends`.  Begins at once.

    token, position  of what is run next, by what was given out
    """

    def __init__(self, loaded: Loaded, token: int, position: int, count: int, ends: Collection[int]):
        self.loaded, self.token, self.position = loaded, token, position
        self._given, self._count, self._over = 0, count, False
        where = loaded.package.manifest["ahead"]
        ring, listed = (loaded.addresses[chunk] + offset for chunk, offset, _ in (where["ring"], where["ends"]))
        self._ring = ring
        words = np.full(ENDS, NO_TOKEN, np.uint32)
        words[: len(ends)] = sorted(ends)
        device = loaded.device
        device.write(listed, words.view(np.uint8))
        device.write(ring, np.zeros(count * BEAT_BYTES, np.uint8))
        loaded.embed([token], position)
        device.start(Run(loaded.programs["decode"], loaded.bases, len(loaded.addresses), position, 1, 0, count))

    def follow(self) -> int:
        """The next token, as soon as it is there.  Raises DeviceError where the engine ends without it."""
        device, pause, looks = self.loaded.device, SOONEST, 0
        while (found := self._told()) is None:
            looks += 1
            if looks % LOOKS == 0 and device.ended():
                self._over = True
                device.wait()
                found = self._told()
                if found is None:
                    raise DeviceError(
                        f"the engine ended after {self._given} of {self._count} tokens, and none of them ends the answer"
                    )
                break
            time.sleep(pause)
            pause = min(LATEST, 1.5 * pause)
        self._given += 1
        self.token = found
        self.position += 1
        return found

    def _told(self) -> int | None:
        """The next token, if it is in the ring."""
        beat = self.loaded.device.peek(self._ring + self._given * BEAT_BYTES, BEAT_BYTES).view(np.uint32)
        return int(beat[0]) if int(beat[1]) == self._given + 1 else None

    @property
    def spent(self) -> bool:
        """Whether nothing comes any more."""
        return self._given == self._count

    def stop(self) -> None:
        """End the run.  What the engine made and nobody took is forgotten: the cache is written over."""
        if not self._over:
            self._over = True
            if self.loaded.device.ended():
                self.loaded.device.wait()
            else:
                self.loaded.device.stop()
