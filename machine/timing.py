# SPDX-License-Identifier: Apache-2.0
"""What the engine's C++ takes in time: one table of operators, one of pipelined loops.  All assumed until a tool says it.

Latencies are cycles at 200 MHz, as high-level synthesis instantiates the floating-point operator (PG060; UG1399, "Operator
latencies").
"""

from __future__ import annotations

from typing import NamedTuple

BUS_LATENCY = 64
"""Cycles from a request on an AXI port to its first beat, or from a burst's last beat to its response: `latency=64` of the pragmas."""
LATENCY = {
    "add": 5,
    "multiply": 4,
    "divide": 16,
    "root": 16,
    "to float": 5,
    "round": 2,
    "exponential": 3,
    "flush": 1,
    "compare": 1,
    "product": 3,
    "bank": 3,
}
"""Cycles of an operator from operands to result, one result a cycle.  product: two INT8 products of one slice; bank: a memory's read, and the turn of its banks."""


class Stage(NamedTuple):
    """A pipelined loop: cycles between iterations, and the operators that an element passes one after another."""

    interval: int
    chain: tuple[str, ...]
    bus: bool = False

    @property
    def depth(self) -> int:
        """Cycles that entering the loop costs beside its iterations."""
        return 2 + BUS_LATENCY * self.bus + sum(LATENCY[name] for name in self.chain)


SILU = ("multiply", "multiply", "round", "exponential", "to float", "add", "divide", "multiply", "multiply", "flush")
STAGES = {
    "fetch": Stage(1, (), bus=True),
    "unpack": Stage(1, ("bank", "bank", "bank")),
    "table": Stage(4, ("bank",), bus=True),
    "chunks": Stage(16, ("bank",), bus=True),
    "load": Stage(1, ("bank",), bus=True),
    "store": Stage(1, ("bank",), bus=True),
    "multiply": Stage(1, ("bank", "product", "product")),
    "rescale": Stage(1, ("bank", "to float", "multiply", "flush", "multiply", "flush")),
    "epilogue": Stage(1, ("bank", *SILU)),
    "norm": Stage(1, ("bank", "multiply", "round", "compare", "compare", "compare")),
    "quantize": Stage(1, ("bank", "multiply", "round", "compare")),
    "scores": Stage(1, ("bank", "product", "product", "to float", "multiply", "flush", "multiply", "flush")),
    "softmax": Stage(1, ("bank", "add", "multiply", "round", "exponential", "to float", "multiply", "round")),
    "mix": Stage(1, ("bank", "product", "to float", "divide", "multiply", "flush")),
    "pacq": Stage(1, ()),
    "feed": Stage(1, ("compare", "compare")),
    "results": Stage(1, ("bank",)),
}
"""By the loop's name in machine/facts.py.  II as the pragmas ask, which `make hls` checks what can be checked of."""

ROOT = sum(LATENCY[name] for name in ("to float", "multiply", "multiply", "add", "root", "divide"))
"""Cycles from a row's squares to what it is multiplied with, once a row."""
