# SPDX-License-Identifier: Apache-2.0
"""bench: the benchmarks, each number with its kind and its bound.  One module each."""

from __future__ import annotations

import click

from meadow.cli.lazy import Lazy

BENCHMARKS = {
    "packing": (
        "meadow.cli.bench.packing",
        "Bits per weight of every matrix beside the entropy and the published packing.",
    ),
    "traffic": ("meadow.cli.bench.traffic", "DRAM bytes that the schedule predicts beside those the C++ counts."),
    "paper": ("meadow.cli.bench.paper", "The cost model beside the figures of MEADOW, and on boards of today."),
    "emulator": ("meadow.cli.bench.emulator", "Tokens per second of emulator and C simulation beside onnxruntime."),
    "llm": ("meadow.cli.bench.llm", "pp512 and tg128: prompts and answers in tokens per second."),
    "bus": ("meadow.cli.bench.bus", "Beats of pacq_gemv or column_gemm that carry weights, counted in Verilog."),
    "decode": (
        "meadow.cli.bench.decode",
        "Tokens per second of a decoded token: linears simulated, the rest modelled.",
    ),
    "prefill": (
        "meadow.cli.bench.prefill",
        "Tokens per second of a prompt: linears simulated, the rest modelled.",
    ),
    "lookup": (
        "meadow.cli.bench.lookup",
        "Drafts from the text so far on one board: tokens per run, and what they gain.",
    ),
    "speculate": (
        "meadow.cli.bench.speculate",
        "A board that drafts for a server, beside the server alone and its rivals.",
    ),
    "boards": (
        "meadow.cli.bench.boards",
        "Many boards on one server, some of which leave: nothing lost, and how long rounds take.",
    ),
    "quantize": ("meadow.cli.bench.quantize", "One model by many recipes: bits, bytes, perplexity, distance, rate."),
    "prune": (
        "meadow.cli.bench.prune",
        "One model without some of its heads, by several scores, and what a board saves.",
    ),
    "sparsity": ("meadow.cli.bench.sparsity", "What thresholds cost, and how many weights they leave unneeded."),
    "depth": ("meadow.cli.bench.depth", "The slowest path of every Verilog module beside its clock."),
    "rtl": ("meadow.cli.bench.rtl", "What the Verilog costs, by Yosys."),
}


class Benchmarks(Lazy):
    commands_of = BENCHMARKS


@click.group("bench", cls=Benchmarks)
def bench_command() -> None:
    """Benchmarks: measured on this machine, simulated in C++, or modelled; each says which.

    \b
    Examples:
      meadowc bench packing build/smollm2-tensor
      meadowc bench traffic --json
    """
