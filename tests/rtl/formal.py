# SPDX-License-Identifier: Apache-2.0
"""Asks the SAT solver of Yosys for a run of stream_fifo that loses, doubles, reorders or changes a word: there is none.

`make formal`.  Bounded: every run of CYCLES cycles after a reset, whatever comes and whatever stalls.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pyosys import libyosys as yosys

CYCLES = 18
HERE = Path(__file__).parent
RTL = HERE.parents[1] / "rtl"


def prove(depth: int, fifo: Path = RTL / "stream_fifo.v") -> None:
    """Ends with an error of Yosys when there is such a run."""
    design = yosys.Design()
    running = " ".join(f"-set-at {n} rst_i 0" for n in range(2, CYCLES + 1))
    for command in (
        f"read_verilog -sv -formal {HERE / 'formal_fifo.sv'} {fifo}",
        f"chparam -set DEPTH {depth} formal_fifo",
        "prep -top formal_fifo -flatten",
        "memory_map",
        "async2sync",
        "opt -full",
        f"sat -verify -prove-asserts -set-init-zero -set-at 1 rst_i 1 {running} -seq 1 -tempinduct -tempinduct-baseonly -maxsteps {CYCLES}",
    ):
        yosys.run_pass(command, design)


if __name__ == "__main__":
    for some in (2, 4):
        began = time.perf_counter()
        prove(some)
        print(
            f"stream_fifo of {some}: no run of {CYCLES} cycles loses, doubles, reorders or changes a word "
            f"({time.perf_counter() - began:.1f} s)",
            file=sys.stderr,
        )
