# SPDX-License-Identifier: Apache-2.0
"""Activations of MLPs in the written arithmetic (docs/arithmetic.md): a sigmoid of the EXP table, or none.  hls/activation.hpp is the same.

gelu_tanh is x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), exactly what 0.5 x (1 + tanh(...)) is.  gelu is x sigmoid(x P(x^2)) with the
cubic P that keeps it within 1.2e-5 of x Phi(x), which is less than a step of the table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meadow.machine.arithmetic import int8 as ar
from meadow.machine.isa import Function

Floats = NDArray[np.float32]
QUICK = np.float32(1.702)
CUBIC = (np.float32(1.5957691216057308), np.float32(0.07135481282553853))
"""Of gelu_tanh: 2 sqrt(2 / pi), and that times 0.044715."""
GELU = tuple(np.float32(v) for v in (1.5953802, 7.3461634e-2, -5.1019990e-4, -1.7215205e-5))
GELU_MOST = np.float32(27.04)
"""x^2 is taken as this at most: beyond, the sigmoid is 0 or 1."""


def steepness(function: Function, g: Floats) -> Floats:
    """What the sigmoid is taken of."""
    match function:
        case Function.SILU:
            return g
        case Function.QUICK_GELU:
            return g * QUICK
        case Function.GELU_TANH:
            return g * (CUBIC[0] + CUBIC[1] * (g * g))
    s = np.minimum(g * g, GELU_MOST)
    return g * (GELU[0] + s * (GELU[1] + s * (GELU[2] + s * GELU[3])))


def activated(function: Function, gate: Floats, up: Floats | None = None) -> Floats:
    """function(gate), or that times up."""
    if function is Function.SILU and up is not None:
        return ar.silu_times(gate, up)
    with np.errstate(over="ignore"):
        if function in (Function.RELU, Function.RELU2):
            y = np.maximum(gate, np.float32(0))
            y = y * y if function is Function.RELU2 else y
        else:
            p = ar.probability(np.abs(steepness(function, gate)) * ar.LOG2E)
            one = np.float32(ar.ONE_PROBABILITY)
            y = gate * (np.where(gate >= 0, one, p) / (p + one))
        return ar.flush(y if up is None else y * up)
