# SPDX-License-Identifier: Apache-2.0
"""Network: a link on a virtual clock, with delay, jitter, bandwidth, loss and reordering, as its description says."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

UNITS = {"ms": 1e-3, "s": 1.0, "%": 1e-2, "": 1.0, "kbps": 1e3, "mbps": 1e6, "gbps": 1e9}
FIELDS = {
    "rtt": ("ms", "s"),
    "jitter": ("ms", "s"),
    "loss": ("%", ""),
    "reorder": ("%", ""),
    "up": ("kbps", "mbps", "gbps"),
    "down": ("kbps", "mbps", "gbps"),
}
"""What a description may say, and in which units."""


@dataclass(frozen=True)
class Network:
    """A link: seconds, shares and bits per second.

    rtt, jitter  of a message and its answer; the most that each way adds by chance
    loss         share of messages that never come
    reorder      share of messages that come a round trip later than they would
    up, down     bits per second from and to the board; 0: any
    """

    rtt: float = 0.12
    jitter: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    up: float = 0.0
    down: float = 0.0

    def seconds(self, size: int, up: bool, chance: random.Random) -> float | None:
        """Until a message of `size` bytes is there; None: it is lost."""
        if chance.random() < self.loss:
            return None
        rate = self.up if up else self.down
        late = self.rtt if chance.random() < self.reorder else 0.0
        return self.rtt / 2 + self.jitter * chance.random() + late + (8 * size / rate if rate else 0.0)

    def clean(self) -> Network:
        """The same without loss and reordering."""
        return Network(self.rtt, self.jitter, 0.0, 0.0, self.up, self.down)

    def __str__(self) -> str:
        parts = [f"rtt={1e3 * self.rtt:g}ms"]
        parts += [f"jitter={1e3 * self.jitter:g}ms"] * (self.jitter > 0)
        parts += [f"{name}={value:.3g}" for name, value in (("loss", self.loss), ("reorder", self.reorder)) if value]
        parts += [f"{name}={value / 1e6:g}mbps" for name, value in (("up", self.up), ("down", self.down)) if value]
        return ",".join(parts)


def parsed(text: str) -> Network:
    """A description such as rtt=60ms,jitter=10ms,loss=1%,reorder=2%,up=2mbps,down=50mbps.  Raises ValueError."""
    found: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        number = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z%]*)", value.strip())
        if name not in FIELDS or number is None or number[2].lower() not in FIELDS[name]:
            raise ValueError(
                f"{part!r}: "
                + "; ".join(f"{n}=NUMBER{' or NUMBER'.join(units)}" for n, units in FIELDS.items())
                + " are possible"
            )
        found[name] = float(number[1]) * UNITS[number[2].lower()]
    for name in ("loss", "reorder"):
        if found.get(name, 0) >= 0.9:
            raise ValueError(f"{name} is {found[name]:g}; below 0.9 is possible")
    return Network(**found)
