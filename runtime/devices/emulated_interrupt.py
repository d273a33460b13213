# SPDX-License-Identifier: Apache-2.0
"""The kernel's file of an emulated board's interrupt (UIO): readable once a run has ended, if it was enabled in the engine and armed."""

from __future__ import annotations

import os
import select

from meadow.runtime.devices.emulated_board import EmulatedBoard, EngineBlock


class EmulatedInterrupt:
    """interrupt.File on the pipe by which the C simulation says that it has answered."""

    def __init__(self, board: EmulatedBoard):
        self.board, self.count, self.armed = board, 0, False
        self._never, self._other_end = os.pipe()

    def fileno(self) -> int:
        """What can be waited for: a pipe that nobody writes to, while no interrupt could come."""
        told = any(block.interrupts for _, _, block in self.board.blocks if isinstance(block, EngineBlock))
        return self.board.engine.answers if self.armed and told else self._never

    def write(self, data: bytes, /) -> int:
        """Arm: what came before is forgotten."""
        while select.select([self.board.engine.answers], [], [], 0)[0] and os.read(self.board.engine.answers, 4096):
            pass
        self.armed = any(data)
        return len(data)

    def read(self, size: int, /) -> bytes:
        """How many interrupts came since the file was opened; the next must be armed."""
        os.read(self.board.engine.answers, 4096)
        self.count, self.armed = self.count + 1, False
        return self.count.to_bytes(size, "little")

    def close(self) -> None:
        os.close(self._never)
        os.close(self._other_end)
