# SPDX-License-Identifier: Apache-2.0
"""The floating-point operators that the engine's units are built of, and what each costs.

How many follows from the C++: within a pipelined loop every operator is an instance; `make hls` counts them on the emitted text through
the call graph, and they are these.  What each costs is assumed until a tool says it: the order of PG060's tables for single precision
on UltraScale+.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from meadow.machine.units import COLUMN_SUMS

if TYPE_CHECKING:
    from meadow.machine.design import Design


class Cells(NamedTuple):
    """Of one operator, one result a cycle."""

    dsp: int
    lut: int


OPERATORS = {
    "add": Cells(2, 220),
    "multiply": Cells(2, 115),
    "divide": Cells(0, 780),
    "root": Cells(0, 460),
    "to float": Cells(0, 210),
    "compare": Cells(0, 70),
}
"""PG060, "Performance and Resource Utilization": additions and multiplications take two DSP slices ("full usage", which the scripts ask for), the others are logic."""


def units(design: Design) -> dict[str, Counter[str]]:
    """By unit of hls/: its operators.  Loops of a unit that run one after another share theirs."""
    f, t, ports = design.float_lanes, design.token_lanes, design.number("weight_ports")
    sums = COLUMN_SUMS * (design.number("column_ports") > 0)
    cap, curve = t * design.score_cap, f * design.all_activations
    found: dict[str, dict[str, int]] = {
        "add_bias": {"add": f},
        "attention_of": {"compare": 2 * design.score_cap, "divide": 2 * design.score_cap},
        "centre_row": {"add": f, "multiply": 2, "to float": 1},
        "finish_heads": {"add": 2 * f, "multiply": 4 * f, "to float": 2 * f, "divide": 2, "compare": 1},
        "finish_rows": {"add": 2 * f + 3 * curve, "multiply": 3 * f + 5 * curve, "to float": f, "divide": f},
        "gather_row": {"add": 1, "multiply": 2},
        "mix_group": {"to float": t, "divide": t},
        "norm_heads": {"add": 1, "multiply": 2 * f, "to float": 1, "divide": 1, "root": 1},
        "norm_rows": {"add": 2 * f, "multiply": 2 * f, "to float": 1, "divide": 1, "root": 1},
        "quantize_rows": {"multiply": f, "divide": 2, "compare": 1},
        "receive_sums": {"multiply": 2 * sums, "to float": sums},
        "rescale_tile": {"multiply": 2 * ports, "to float": ports},
        "score_group": {
            "add": 4 * cap,
            "multiply": 2 * t + 7 * cap,
            "to float": t + cap,
            "divide": cap,
            "compare": 3 * cap,
        },
        "softmax_group": {"add": t, "multiply": t, "to float": t},
    }
    return {name: Counter({op: n for op, n in of.items() if n}) for name, of in found.items()}


def cells(design: Design) -> Cells:
    """What all operators of a design take."""
    whole: Counter[str] = sum(units(design).values(), Counter())
    return Cells(
        sum(n * OPERATORS[name].dsp for name, n in whole.items()),
        sum(n * OPERATORS[name].lut for name, n in whole.items()),
    )
