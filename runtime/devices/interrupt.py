# SPDX-License-Identifier: Apache-2.0
"""Interrupt: the end of a run as the kernel tells it (UIO), so that a driver sleeps instead of looking again and again.

Knows nothing of pynq: it is given the kernel's file.  An interrupt that is lost costs one slice, never a hang (control.py).
"""

from __future__ import annotations

import select
from typing import Protocol

from meadow.runtime.devices.fabric import Fabric

ENABLE = (1).to_bytes(4, "little")
"""Written to the file: let the next interrupt through (uio_pdrv_genirq masks it when it comes)."""
ENDED = 1
"""Bit of IP_IER and IP_ISR: ap_done (UG1399, "S_AXILITE Control Register Map")."""


class File(Protocol):
    """What is asked of /dev/uioN, opened without a buffer."""

    def fileno(self) -> int: ...

    def read(self, size: int, /) -> bytes | None: ...

    def write(self, data: bytes, /) -> int | None: ...

    def close(self) -> None: ...


class Interrupt:
    """Of one engine.

    registers  offset of each of its registers by name
    """

    def __init__(self, file: File, fabric: Fabric, registers: dict[str, int]):
        self.file, self.fabric, self.registers = file, fabric, registers
        for name in ("IP_IER", "GIER"):
            fabric.write("meadow_engine", registers[name], ENDED)

    def arm(self) -> None:
        """Forget interrupts of earlier runs and let the next one through.  A bit of IP_ISR toggles when 1 is written, so that only
        those are written that are set."""
        pending = self.fabric.read("meadow_engine", self.registers["IP_ISR"])
        if pending:
            self.fabric.write("meadow_engine", self.registers["IP_ISR"], pending)
        self.file.write(ENABLE)

    def wait(self, seconds: float) -> bool:
        """Whether the interrupt came within so many seconds."""
        if not select.select([self.file], [], [], seconds)[0]:
            return False
        self.file.read(4)
        self.fabric.operations["interrupts"] += 1
        return True

    def close(self) -> None:
        """Give the file back."""
        self.file.close()
