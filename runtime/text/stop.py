# SPDX-License-Identifier: Apache-2.0
"""Where an answer ends because of what it says: texts that stop it, wherever the borders of its tokens lie."""

from __future__ import annotations

from collections.abc import Sequence


class Stop:
    """Text on its way out.  What may be the beginning of a stop text is held back until it is known to be none.

    texts  those that stop; none is empty
    """

    def __init__(self, texts: Sequence[str] = ()):
        self.texts = tuple(text for text in texts if text)
        self.found = ""
        """The text that stopped."""
        self._held = ""

    def push(self, text: str) -> str:
        """What can be shown; after a stop text nothing can."""
        if self.found:
            return ""
        self._held += text
        places = [(at, stop) for stop in self.texts if (at := self._held.find(stop)) >= 0]
        if places:
            at, self.found = min(places, key=lambda place: (place[0], -len(place[1])))
            shown, self._held = self._held[:at], ""
            return shown
        keep = max((self._overlap(stop) for stop in self.texts), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def finish(self) -> str:
        """What was held back and is no stop text after all."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        """Signs at the end of the held text with which `stop` begins."""
        return next((n for n in range(min(len(stop) - 1, len(self._held)), 0, -1) if self._held.endswith(stop[:n])), 0)
