# SPDX-License-Identifier: Apache-2.0
"""Asks the SAT solver of Yosys for a run that breaks a rule: of stream_fifo, of stream_fetch on AXI4, of gemv_registers on AXI4-Lite,
of a lane of prefix_unpack.

`make formal`.  Bounded: every run of so many cycles after a reset, whatever comes and whatever stalls.  A proof by induction holds for
every run: no so many cycles that keep the rules are followed by one that breaks them.
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
    induction: bool = False


FIFO = Proof("formal_fifo", ("stream_fifo.v",), 18, "a FIFO loses, doubles, reorders or changes no word")
PROOFS = (
    FIFO,
    Proof(
        "formal_fetch", ("stream_fifo.v", "stream_fetch.v"), 14, "stream_fetch keeps the rules of an AXI4 read manager"
    ),
    Proof("formal_registers", ("gemv_registers.v",), 12, "gemv_registers keeps the rules of AXI4-Lite"),
    Proof(
        "formal_mux",
        ("mux4.v", "mux8.v", "sim/LUT6.v", "sim/MUXF7.v"),
        1,
        "mux4 and mux8 choose as simulators take them to",
    ),
    Proof("formal_add", ("add_clear.v", "sim/CARRY4.v"), 1, "add_clear adds as simulators take it to"),
    Proof("formal_split", (), 1, "the two sums of a cascade of eight come apart again"),
    Proof(
        "formal_lane",
        ("mux4.v", "mux8.v", "prefix_lane.v", "sim/LUT6.v", "sim/MUXF7.v"),
        12,
        "a lane of prefix_unpack takes no halfword that has not come and loses none",
        induction=True,
    ),
)


def prove(proof: Proof, parameters: dict[str, int] | None = None, folder: Path = RTL) -> None:
    """Ends with an error of Yosys when there is a run that breaks a rule."""
    design = yosys.Design()
    running = " ".join(f"-set-at {n} rst_i 0" for n in range(2, proof.cycles + 1))
    how = f"-set-at 1 rst_i 1 {running} -seq 1 -tempinduct -tempinduct-baseonly -maxsteps {proof.cycles}"
    if proof.induction:
        how = f"-tempinduct -maxsteps {proof.cycles}"
    if proof.cycles == 1:
        how = ""  # no registers
    defined = "-DSYNTHESIS " if proof.cycles == 1 else ""  # what stands for cells is proved against the cells
    files = [HERE / f"{proof.top}.sv", *(folder / name for name in proof.sources)]
    for command in (
        f"read_verilog -sv -formal {defined}{' '.join(map(str, files))}",
        *(f"chparam -set {name} {value} {proof.top}" for name, value in (parameters or {}).items()),
        f"prep -top {proof.top} -flatten",
        "memory_map",
        "async2sync",
        "opt -full",
        f"sat -verify -prove-asserts -set-assumes -set-init-zero {how}",
    ):
        yosys.run_pass(command, design)


if __name__ == "__main__":
    for some in (2, 4):
        prove(FIFO, {"DEPTH": some})
    for one in PROOFS:
        began = time.perf_counter()
        prove(one)
        runs = "every run" if one.induction or one.cycles == 1 else f"every run of {one.cycles} cycles"
        print(f"{one.shown}: {runs} ({time.perf_counter() - began:.1f} s)", file=sys.stderr)
