# SPDX-License-Identifier: Apache-2.0
"""cocotb: what surrounds an engine with AXI ports of its own: memory, streams, registers, stalls.  Knows no engine."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from cocotb import start_soon
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiRamRead,
    AxiReadBus,
    AxiStreamBus,
    AxiStreamSink,
    AxiStreamSource,
)
from cocotbext.axi.sparse_memory import SparseMemory
from numpy.typing import NDArray

PORTS = int(os.environ.get("MEADOW_PORTS", "4"))
BASE = 0x1_0000_0000
REGISTERS = {
    "id": 0x00,
    "shape": 0x08,
    "size": 0x0C,
    "control": 0x18,
    "status": 0x1C,
    "error": 0x20,
    "watchdog": 0x24,
    "cycles": 0x40,
    "commands": 0x48,
    "waits_weights": 0x4C,
    "waits_activations": 0x50,
    "waits_results": 0x54,
    "waits_multipliers": 0x58,
    "beats": 0x60,
}


class Surroundings:
    """Memory, streams and registers of an engine."""

    def __init__(self, dut: Any):
        self.dut = dut
        start_soon(Clock(dut.clk_i, 4, "ns").start())  # type: ignore[arg-type]
        self.memory = SparseMemory(1 << 40)
        self.rams = [
            AxiRamRead(AxiReadBus.from_prefix(dut, f"m_axi_{p}"), dut.clk_i, dut.rst_i, mem=self.memory)
            for p in range(PORTS)
        ]

        def stream(kind: Any, prefix: str) -> Any:
            return kind(AxiStreamBus.from_prefix(dut, prefix), dut.clk_i, dut.rst_i)

        self.commands = stream(AxiStreamSource, "s_axis_command")
        self.activations = stream(AxiStreamSource, "s_axis_activation")
        self.results = stream(AxiStreamSink, "m_axis_result")
        self.registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk_i, dut.rst_i)
        for part in (
            self.commands,
            self.activations,
            self.results,
            self.registers.write_if,
            self.registers.read_if,
            *self.rams,
        ):
            part.log.setLevel("WARNING")
        self.next = BASE

    async def reset(self) -> None:
        self.dut.rst_i.value = 1
        await ClockCycles(self.dut.clk_i, 4)
        self.dut.rst_i.value = 0
        await RisingEdge(self.dut.clk_i)

    def keep(self, stream: NDArray[np.uint8]) -> int:
        """A stream into memory, at an address that bursts must respect; returns it."""
        at = self.next
        self.memory[at : at + stream.nbytes] = stream.tobytes()
        self.next += stream.nbytes + 16 * random.randrange(1, 300)
        return at

    def stall(self, share: float) -> None:
        """Every stream and port pauses for this share of the cycles."""
        for seed, part in enumerate((self.commands, self.activations, self.results)):
            part.set_pause_generator(pauses(seed, share))
        for seed, ram in enumerate(self.rams):
            ram.r_channel.set_pause_generator(pauses(10 + seed, share))
            ram.ar_channel.set_pause_generator(pauses(20 + seed, share))

    async def order(self, words: list[int]) -> None:
        """A command of so many words."""
        await self.commands.send(b"".join(w.to_bytes(16, "little") for w in words))

    async def register(self, name: str) -> int:
        return int(await self.registers.read_dword(REGISTERS[name]))


def pauses(seed: int, share: float) -> Iterator[bool]:
    chance = random.Random(seed)
    return (chance.random() < share for _ in itertools.count())


async def stopped(bench: Surroundings, error: int) -> None:
    """It says what is wrong, answers with zeros, takes what it is given, and works again when told to."""
    for _ in range(400):
        if await bench.register("status") & 2:
            break
    assert await bench.register("error") == error
    await bench.activations.send(bytes(16 * 500))  # far more than any memory holds
    await with_timeout(bench.activations.wait(), 50, "us")
    bench.dut.m_axis_result_tready.value = 1
    await ClockCycles(bench.dut.clk_i, 5)
    assert int(bench.dut.m_axis_result_tvalid.value) == 1 and int(bench.dut.m_axis_result_tdata.value) == 0
    await bench.registers.write_dword(REGISTERS["control"], 1)
    for _ in range(100):
        if await bench.register("status") & 4 == 0:
            break
    assert await bench.register("error") == 0 and await bench.register("status") == 0
    assert await bench.register("cycles") == 0
    bench.results.clear()
