# SPDX-License-Identifier: Apache-2.0
"""Registers of an emulated board's processor: clocks, and the widths of its ports.  What a block of registers is."""

from __future__ import annotations

from typing import Any, Protocol

PL_CLOCKS = 0xC0
"""Offset of PL0_REF_CTRL in CRL_APB (UG1087)."""


class Block(Protocol):
    """Something with 32-bit registers."""

    def read(self, offset: int) -> int: ...

    def write(self, offset: int, value: int) -> None: ...


class Plain:
    """Registers that keep what was written: clocks and port widths of the processor."""

    def __init__(self, values: dict[int, int] | None = None):
        self.values = dict(values or {})

    def read(self, offset: int) -> int:
        return self.values.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        self.values[offset] = value


class Width(Plain):
    """AFIFM registers of a port.  A value that sticks is how a port that nothing widens is emulated."""

    def __init__(self, sticks: int):
        super().__init__({0x0: 2, 0x14: 2})
        self.sticks = sticks

    def read(self, offset: int) -> int:
        return super().read(offset) | self.sticks


def processor() -> list[tuple[int, int, Block]]:
    """CRL_APB and CRF_APB with IOPLL at 1500 MHz and clocks of 100 MHz, and the width of the control port."""
    pll = 45 << 8  # times 33.333 MHz
    clocks: dict[int, Any] = dict.fromkeys((0x20, 0x24, 0x2C, 0x30, 0x38), pll)
    clocks |= {PL_CLOCKS + 4 * n: 0x0101_0F00 for n in range(4)} | {0x60: 0x0300_0100}
    return [
        (0xFF5E_0000, 0x10000, Plain(clocks)),
        (0xFD1A_0000, 0x10000, Plain(clocks)),
        (0xFD61_5000, 0x1000, Plain()),
    ]
