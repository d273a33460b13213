# SPDX-License-Identifier: Apache-2.0
"""cocotb: meadow_identity tells every number of its design, whatever the reader's pauses, and cannot be written."""

from __future__ import annotations

import itertools
import json
import os
import random
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from meadow.machine.design import Design
from meadow.machine.instructions import table
from meadow.machine.registers import IDENTITY_ID, IDENTITY_VERSION, identity_fields, identity_registers, offsets


@cocotb.test()
async def the_registers_are_the_design(dut: Any) -> None:
    design = Design.of(json.loads(Path(os.environ["MEADOW_PACKAGE"], "manifest.json").read_text())["design"])
    cocotb.start_soon(Clock(dut.clk_i, 5, unit="ns").start())  # type: ignore[arg-type]
    dut.rst_i.value = 1
    bus = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk_i, dut.rst_i)
    rng = random.Random(1)
    for channel in (
        bus.read_if.ar_channel,
        bus.read_if.r_channel,
        bus.write_if.aw_channel,
        bus.write_if.w_channel,
        bus.write_if.b_channel,
    ):
        channel.set_pause_generator(itertools.cycle([rng.random() < 0.4 for _ in range(97)]))
    await ClockCycles(dut.clk_i, 5)
    dut.rst_i.value = 0
    await ClockCycles(dut.clk_i, 5)

    async def word(offset: int) -> int:
        return int.from_bytes((await bus.read(offset, 4)).data, "little")

    where = offsets(identity_registers(design))
    wanted = {
        "ID": IDENTITY_ID,
        "VERSION": IDENTITY_VERSION,
        "ISA": table.VERSION,
        "FIELDS": len(identity_fields(design)),
        **identity_fields(design),
    }
    for name, value in wanted.items():
        assert await word(where[name]) == value, name
    assert f"{await word(where['DESIGN_ID'] + 4):08x}{await word(where['DESIGN_ID']):08x}" == design.id
    assert await word(0xFC) == 0
    first = await word(where["CYCLES"])
    await ClockCycles(dut.clk_i, 1000)
    assert 1000 <= await word(where["CYCLES"]) - first < 1100 and await word(where["CYCLES"] + 4) == 0
    answer = await bus.write(where["ID"], b"\0\0\0\0")
    assert answer.resp == AxiResp.SLVERR and await word(where["ID"]) == IDENTITY_ID
