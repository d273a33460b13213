# SPDX-License-Identifier: Apache-2.0
"""bench prefill: tokens per second of a prompt.  Two layers of a block in the middle of it are simulated, pacq_gemv or column_gemm in
Verilog and every other step modelled; the second is what a layer takes.  Layers x blocks + the head is the prompt."""

from __future__ import annotations

from typing import Any

from meadow.boards import Board
from meadow.compiler.price.run import prompt_estimate
from meadow.evidence.bench.decode import Engine, simulate
from meadow.evidence.ladder.beside import Side, require_side
from meadow.machine.instructions.instruction import OVERHEAD
from meadow.machine.instructions.projection import streamed_rows
from meadow.machine.package.read import Package
from meadow.machine.step import Step

WATTS = 5.0
"""Of a board that runs, assumed; no source says it of this design."""
PUBLISHED = {"tokens_per_s": 73.6, "what": "Torch2RISCV, KV260 at 100 MHz, INT8, SmolLM2-135M", "kind": "reported"}


def measure(package: Package, board: Board, prompt: int = 512) -> dict[str, Any]:
    """A prompt of so many tokens on the package's own design."""
    design, side = package.design, require_side(package)
    steps = package.steps("prefill")
    layers = int(package.model["layers"])
    blocks = -(-prompt // design.block)
    position = blocks // 2 * design.block
    one, two = (
        _cycles(package, board, side, position, [s for s in steps if s.layer is not None and s.layer < n])
        for n in (1, 2)
    )
    layer = {name: two[name] - one[name] for name in two}  # as it follows another
    last = _cycles(package, board, side, prompt - 1, [s for s in steps if s.layer is None], 1, 1)
    clock = side.engine.clock(design) * 1e6
    start = OVERHEAD * side.engine.clock(design) / design.clock_mhz
    total = {name: blocks * layers * layer[name] + last.get(name, 0.0) for name in layer}
    total["latency"] = total.get("latency", 0.0) + blocks * start
    cycles = sum(total.values())
    seconds = cycles / clock
    products = prompt * sum(_products(s) for s in steps if s.layer is not None)
    products += sum(_products(s) for s in steps if s.layer is None)
    predicted = prompt_estimate(steps, design, prompt, board.bandwidth_gb_s, len(package.chunks)).seconds
    return {
        "board": board.name,
        "prompt": prompt,
        "block": design.block,
        "tokens_per_s": prompt / seconds,
        "seconds": seconds,
        "cycles": round(cycles),
        "predicted_cycles": round(predicted * clock),
        "predicted_tokens_per_s": prompt / predicted,
        "share_of_array": products / seconds / design.products_per_second,
        "share_of_fabric": products / seconds / (2 * board.dsp * clock),
        "energy_mj_per_token": 1e3 * WATTS * seconds / prompt,
        "parts": [
            {"part": name, "seconds": n / clock, "kind": "simulated" if name == LINEARS else "modelled"}
            for name, n in sorted(total.items(), key=lambda row: -row[1])
        ],
        "clock_mhz": design.clock_mhz,
        "stream_clock_mhz": side.engine.clock(design),
        "published": PUBLISHED,
        "kind": f"linears of a layer and of the head simulated (Verilog, DDR4-like memory), the rest modelled; {layers} layers x {blocks} blocks + head; "
        f"clocks assumed, energy at {WATTS:g} W assumed, the host not counted",
    }


LINEARS = "linears, what the rest does not hide"


def _cycles(
    package: Package, board: Board, side: Side, position: int, steps: list[Step], count: int = 0, logits: int = 0
) -> dict[str, float]:
    """Cycles of the engine in Verilog by part, for a block of tokens after `position`; what is modelled waits for nothing."""
    engine = Engine(package.design, side, position, count or package.design.block, logits)
    found = simulate(package, board, engine, steps)
    parts = {name: cycles * engine.ratio for name, cycles in engine.parts.items()}
    return {LINEARS: found.cycles - sum(parts.values()), **parts}


def _products(step: Step) -> int:
    """Of a weight and an activation, per token."""
    return streamed_rows(step) * int(step.numbers["cols"]) if "format" in step.numbers else 0
