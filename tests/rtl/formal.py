# SPDX-License-Identifier: Apache-2.0
"""Asks the SAT solver of Yosys for a run that breaks a rule: of stream_fifo, of pacq_fetch on AXI4, of pacq_registers on AXI4-Lite.

`make formal`.  Bounded: every run of so many cycles after a reset, whatever comes and whatever stalls.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NamedTuple

from pyosys import libyosys as yosys

HERE = Path(__file__).parent
RTL = HERE.parents[1] / "rtl"


class Proof(NamedTuple):
    """A module with assertions, the Verilog that it is about, its cycles, and what is shown."""

    top: str
    sources: tuple[str, ...]
    cycles: int
    shown: str


FIFO = Proof("formal_fifo", ("stream_fifo.v",), 18, "a FIFO loses, doubles, reorders or changes no word")
PROOFS = (
    FIFO,
    Proof("formal_fetch", ("stream_fifo.v", "pacq_fetch.v"), 14, "pacq_fetch keeps the rules of an AXI4 read manager"),
    Proof("formal_registers", ("pacq_registers.v",), 12, "pacq_registers keeps the rules of AXI4-Lite"),
)


def prove(proof: Proof, parameters: dict[str, int] | None = None, folder: Path = RTL) -> None:
    """Ends with an error of Yosys when there is a run that breaks a rule."""
    design = yosys.Design()
    running = " ".join(f"-set-at {n} rst_i 0" for n in range(2, proof.cycles + 1))
    files = [HERE / f"{proof.top}.sv", *(folder / name for name in proof.sources)]
    for command in (
        f"read_verilog -sv -formal {' '.join(map(str, files))}",
        *(f"chparam -set {name} {value} {proof.top}" for name, value in (parameters or {}).items()),
        f"prep -top {proof.top} -flatten",
        "memory_map",
        "async2sync",
        "opt -full",
        "sat -verify -prove-asserts -set-assumes -set-init-zero -set-at 1 rst_i 1 "
        f"{running} -seq 1 -tempinduct -tempinduct-baseonly -maxsteps {proof.cycles}",
    ):
        yosys.run_pass(command, design)


if __name__ == "__main__":
    for some in (2, 4):
        prove(FIFO, {"DEPTH": some})
    for one in PROOFS:
        began = time.perf_counter()
        prove(one)
        print(f"{one.shown}: every run of {one.cycles} cycles ({time.perf_counter() - began:.1f} s)", file=sys.stderr)
