# SPDX-License-Identifier: Apache-2.0
"""Registers: what the processor reads and writes in the fabric, block by block, with their offsets.

One table for the runtime, the block design's metadata and the tests of the Verilog.  Moves no data itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from meadow.machine.design import IDENTITY, Design
from meadow.machine.engines.array import Array

IDENTITY_ID = 0x574F444D  # "MDOW"
IDENTITY_VERSION = 1
GEMV_VERSION = 1
BLOCK_BYTES = 0x10000
"""Of each block's window in the address map."""
START, DONE, IDLE, READY = 1, 2, 4, 8
"""Bits of CTRL (UG1399, "S_AXILITE Control Register Map")."""


@dataclass(frozen=True)
class Register:
    """One 32-bit register, or the lower of two that make 64 bits.

    access  "read", "write" or "both", as the processor sees it
    """

    name: str
    offset: int
    access: str
    what: str
    bits: int = 32


def engine_registers(design: Design) -> tuple[Register, ...]:
    """s_axi_control of meadow_engine, as Vitis HLS lays it out: control, the return value at 0x10, then the arguments in their
    order, each with a reserved word behind it (UG1399)."""
    found = [
        Register("CTRL", 0x00, "both", "start, done (cleared by reading), idle, ready"),
        Register("GIER", 0x04, "both", "interrupts on"),
        Register("IP_IER", 0x08, "both", "which interrupts"),
        Register("IP_ISR", 0x0C, "both", "which came; written 1 to clear"),
        Register("ap_return", 0x10, "read", "how the run ended"),
    ]
    at = 0x18
    for port in (*(f"weights{p}" for p in range(design.engine(Array).ports)), "constants", "memory"):
        found.append(
            Register(port, at, "write", "address 0 of the port: 0, since programs hold physical addresses", 64)
        )
        at += 12
    for name, bits, what in (
        ("instructions", 64, "address of the program"),
        ("bases", 64, "address of the table of chunks"),
        ("pages", 32, "entries of that table"),
        ("position", 32, "tokens in the cache"),
        ("tokens", 32, "tokens of the run"),
        ("first_logit", 32, "first token whose logits are wanted"),
        ("ahead", 32, "tokens that the engine goes on to by itself, 0 for a run of its own"),
    ):
        found.append(Register(name, at, "write", what, bits))
        at += 12 if bits == 64 else 8
    found.append(
        Register("abort", at, "write", "1 ends the run before its next instruction, with nothing under way on the bus")
    )
    found.append(Register("progress", at + 8, "read", "instruction that runs, counted from 1"))
    return tuple(found)


def identity_fields(design: Design) -> dict[str, int]:
    """The numbers of a design that the fabric tells, in the order of their registers."""
    return {name: design.number(name) for name in design.told}


def identity_registers(design: Design) -> tuple[Register, ...]:
    """Of rtl/meadow_identity.v."""
    head = (
        Register("ID", 0x00, "read", '"MDOW"'),
        Register("VERSION", 0x04, "read", "of this table"),
        Register("ISA", 0x08, "read", "version of the instructions"),
        Register("FIELDS", 0x0C, "read", "how many numbers of the design follow"),
        Register("DESIGN_ID", 0x10, "read", "digest of the design", 64),
        Register("CYCLES", 0x18, "read", "of the engine's clock since the reset; reading it holds the upper half", 64),
    )
    return head + tuple(
        Register(name, identity_offset(name), "read", "of the design") for name in identity_fields(design)
    )


def identity_offset(number: str) -> int:
    """Where the fabric tells a number of IDENTITY."""
    return 0x40 + 4 * IDENTITY.index(number)


GEMV_REGISTERS = (
    Register("ID", 0x00, "read", '"PACQ" or "COLS"'),
    Register("VERSION", 0x04, "read", "of commands and registers"),
    Register("SHAPE", 0x08, "read", "ports | lanes << 8 | token lanes << 16"),
    Register("SIZE", 0x0C, "read", "most tokens | words of activations / 128, or of codes / 8, << 16"),
    Register("DESIGN_ID", 0x10, "read", "digest of the design", 64),
    Register("CONTROL", 0x18, "write", "1: forget everything, counters too"),
    Register("STATUS", 0x1C, "read", "busy | stopped << 1 | draining << 2"),
    Register("ERROR", 0x20, "read", "0 none, 1 command, 2 bus, 3 watchdog | port << 8 | response << 16"),
    Register("WATCHDOG", 0x24, "both", "cycles that a read may take"),
    Register("CYCLES", 0x40, "read", "while busy", 64),
    Register("COMMANDS", 0x48, "read", "taken"),
    Register("WAITS_WEIGHTS", 0x4C, "read", "cycles"),
    Register("WAITS_ACTIVATIONS", 0x50, "read", "cycles"),
    Register("WAITS_RESULTS", 0x54, "read", "cycles"),
    Register("WAITS_MULTIPLIERS", 0x58, "read", "cycles in which a beat waited for them"),
    Register("BEATS0", 0x60, "read", "of port 0"),
    Register("BEATS1", 0x64, "read", "of port 1"),
    Register("BEATS2", 0x68, "read", "of port 2"),
    Register("BEATS3", 0x6C, "read", "of port 3"),
)
"""Of rtl/gemv_registers.v."""


def offsets(registers: tuple[Register, ...]) -> dict[str, int]:
    """Offset by name."""
    return {r.name: r.offset for r in registers}
