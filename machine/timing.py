# SPDX-License-Identifier: Apache-2.0
"""What the engine's C++ takes in time: one table of operators, one of pipelined loops.  All assumed until a tool says it.

Latencies are cycles at 200 MHz, as high-level synthesis instantiates the floating-point operator (PG060; UG1399, "Operator
latencies").  `meadowc report` shows the loops beside what the tool reports.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from meadow.machine.design import Design

BUS_LATENCY = 64
"""Cycles from a request on an AXI port to its first beat, or from a burst's last beat to its response: `latency=64` of the pragmas,
by which loads are scheduled.  At 200 MHz that is 320 ns, within dram.LATENCY_NS."""
CONTROL = 2
"""Cycles of entering and leaving a pipelined loop."""
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


class PipelinedLoop(NamedTuple):
    """A loop of hls/ by its label.

    stage     the counted loop that it is part of (machine/facts.py: LOOPS); "" where its time is in a step's OVERHEAD
    interval  cycles between iterations, as its pragma asks
    chain     the operators that an element passes one after another
    bus       whether its burst is requested, or answered, before its first iteration or after its last
    option    number of the design that adds `more` to the chain
    """

    stage: str
    interval: int
    chain: tuple[str, ...] = ()
    bus: bool = False
    option: str = ""
    more: tuple[str, ...] = ()

    def depth(self, chosen: frozenset[str]) -> int:
        """Cycles of an iteration, in a design with these options."""
        more = self.more if self.option in chosen else ()
        return CONTROL + sum(LATENCY[name] for name in (*self.chain, *more))


class Stage(NamedTuple):
    """A counted loop: cycles between iterations, and what entering it costs beside them."""

    interval: int
    depth: int


ROOT = ("to float", "multiply", "multiply", "add", "root", "divide")
PEAK = ("bank", "compare", "compare", "compare")
SCALED = ("bank", "multiply", "flush", "multiply", "flush")
SILU = ("multiply", "round", "exponential", "to float", "add", "divide", "multiply", "multiply", "flush")
CURVES = ("multiply", "compare", *3 * ("multiply", "add"), "multiply")
CAP = ("multiply", "multiply", "round", "exponential", "to float", "add", "divide", "multiply", "flush")

PIPELINED = {
    "FetchInstruction": PipelinedLoop("", 1, ("bank",), bus=True),
    "LoadBases": PipelinedLoop("", 1, ("bank",), bus=True),
    "Addresses": PipelinedLoop("", 1, ("bank", "add")),
    "NextToken": PipelinedLoop("", 1, ("compare",)),
    # weights
    "LoadStream": PipelinedLoop("fetch", 1, (), bus=True),
    "UnpackRaw": PipelinedLoop("unpack", 2, ("bank",)),
    "UnpackPrefix": PipelinedLoop("unpack", 1, ("bank", "bank", "bank")),
    "UnpackPackets": PipelinedLoop("unpack", 1, ("bank", "bank", "bank")),
    "LoadWeights": PipelinedLoop("table", 4, ("bank",), bus=True),
    "LoadChunks": PipelinedLoop("chunks", 16, ("bank",), bus=True),
    "Multiply": PipelinedLoop("multiply", 1, ("bank", "product", "product")),
    "Rescale": PipelinedLoop("rescale", 1, ("bank", "to float", "multiply", "flush", "multiply", "flush")),
    # rows from the memory and to it
    **{
        label: PipelinedLoop("load", 1, ("bank",), bus=True)
        for label in (
            *("LoadActivations", "LoadRows", "LoadRope", "LoadFloats"),
            *("LoadRow", "LoadScales", "LoadHeader", "LoadWeightRow"),
        )
    },
    **{
        label: PipelinedLoop("store", 1, ("bank",), bus=True)
        for label in ("StoreFloats", "StoreCodes", "StoreHeads", "StoreScoreRow", "StoreWeightRow", "StoreRow")
    },
    "ResultLine": PipelinedLoop("store", 1, ("bank",)),
    # results of linears
    "FinishRows": PipelinedLoop("epilogue", 1, ("bank", *SILU), option="all_activations", more=CURVES),
    "Bias": PipelinedLoop("epilogue", 1, ("bank", "add", "flush")),
    "HeadPeaks": PipelinedLoop("epilogue", 1, (*PEAK, "compare")),
    "HeadSquares": PipelinedLoop("epilogue", 1, ("bank", "round", "product", "product")),
    "HeadRoots": PipelinedLoop("epilogue", 1, ROOT),
    "HeadScale": PipelinedLoop("epilogue", 1, SCALED),
    "Turn": PipelinedLoop("epilogue", 1, ("bank", "to float", "multiply", "add", "flush", "compare", "compare")),
    "HeadLevels": PipelinedLoop("epilogue", 1, ("bank", "divide")),
    "HeadCodes": PipelinedLoop("epilogue", 1, ("bank", "multiply", "round", "compare")),
    # rows of vectors
    "Peak": PipelinedLoop("norm", 1, PEAK),
    "Mean": PipelinedLoop("norm", 1, ("bank", "round", "compare")),
    "Centre": PipelinedLoop("norm", 1, (*PEAK, "add", "flush")),
    "Squares": PipelinedLoop("norm", 1, ("bank", "round", "product", "product")),
    "Scale": PipelinedLoop("norm", 1, (*SCALED, "add", "flush", "add", "flush")),
    "Take": PipelinedLoop("quantize", 1, PEAK),
    "Quantize": PipelinedLoop("quantize", 1, ("bank", "multiply", "round", "compare")),
    # attention
    "LoadQueries": PipelinedLoop("scores", 1, ("bank", "multiply", "flush")),
    "Keys": PipelinedLoop(
        "scores",
        1,
        ("bank", "product", "product", "to float", "multiply", "flush"),
        option="score_cap",
        more=CAP,
    ),
    "SeenLanes": PipelinedLoop("softmax", 1, ("compare", "compare")),
    "Max": PipelinedLoop("softmax", 1, ("bank", "compare", "compare")),
    "Exp": PipelinedLoop("softmax", 1, ("bank", "add", "round", "exponential", "to float", "multiply", "round")),
    "Values": PipelinedLoop("mix", 1, ("bank", "product")),
    "Div": PipelinedLoop("mix", 1, ("to float", "divide", "flush", "flush")),
    # pacq_gemv
    "HalveRows": PipelinedLoop("feed", 1, ("compare", "compare")),
    "Receive": PipelinedLoop("results", 1, ("bank",)),
    "Drop": PipelinedLoop("results", 1, ()),
    # column_gemm
    "LoadRowScales": PipelinedLoop("load", 1, ("bank",), bus=True),
    "ReceiveSums": PipelinedLoop("sums", 1, ("bank", "to float", "multiply", "flush", "multiply", "flush")),
    # the next token
    "Likeliest": PipelinedLoop("next", 1, ("bank", "compare", "compare", "compare"), bus=True),
    "LoadEnds": PipelinedLoop("next", 1, ("bank", "compare"), bus=True),
    "Gather": PipelinedLoop("next", 1, ("bank", "multiply", "add", "multiply")),
}
"""Every pipelined loop of the engine.  `make hls` checks what can be checked of the intervals, and a test that this is all of them."""

ROOT_CYCLES = sum(LATENCY[name] for name in ROOT)
"""From a row's squares to what it is multiplied with, once a row."""


def options(design: Design) -> frozenset[str]:
    """The numbers of a design that make loops longer."""
    return frozenset(loop.option for loop in PIPELINED.values() if loop.option and getattr(design, loop.option))


def stages(design: Design) -> dict[str, Stage]:
    """The counted loops of a design.  Each is priced as the deepest of those that it stands for."""
    return _stages(options(design))


@cache
def _stages(chosen: frozenset[str]) -> dict[str, Stage]:
    found = {name: Stage(1, CONTROL) for name in ("pacq", "columns")}  # cycles of engines in Verilog, which those count
    for loop in PIPELINED.values():
        if loop.stage:
            depth = loop.depth(chosen) + BUS_LATENCY * loop.bus
            had = found.get(loop.stage, Stage(loop.interval, 0))
            found[loop.stage] = Stage(min(had.interval, loop.interval), max(had.depth, depth))
    return found
