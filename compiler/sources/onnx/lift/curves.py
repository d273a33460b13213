# SPDX-License-Identifier: Apache-2.0
"""Which known function a curve is, told by its values: silu, gelu, relu, tanh with a cap, or a straight line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from meadow.compiler.sources.onnx.lift.form import Array
from meadow.compiler.sources.onnx.numeric import gelu

FAR = np.array([15.0, 30.0, 60.0, 100.0, 300.0, 1e3, 3e3, 1e4])
POINTS = np.concatenate([-FAR, np.linspace(-12, 12, 2401), FAR])
TOLERANCE = 1e-5
"""Of each value, and of 1 near 0: curves are made of FP32 constants."""
KNOWN: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: gelu(x.astype(np.float64)),
    "gelu_tanh": lambda x: gelu(x.astype(np.float64), "tanh"),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.square(np.maximum(x, 0)),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
}


@dataclass(frozen=True)
class Known:
    """kind "line": factor * x + offset; "cap": factor * tanh(x * slope); "zero"; else factor * kind(x)."""

    kind: str
    factor: float = 1.0
    offset: float = 0.0
    slope: float = 1.0


def identify(fn: Callable[[Array], Array]) -> Known | None:
    """The known function that `fn` is; None when it is none of them."""
    with np.errstate(all="ignore"):
        values = np.asarray(fn(POINTS.copy()), np.float64)
        if values.shape != POINTS.shape or not np.isfinite(values).all():
            return None
        for kind, known in KNOWN.items():
            wanted = known(POINTS)
            factor = float(values @ wanted / (wanted @ wanted))
            if abs(factor - 1) < 1e-5:
                factor = 1.0
            if factor and _near(values, factor * wanted):
                return Known(kind, factor)
        offset, one = (float(np.asarray(fn(np.array([v])), np.float64)[0]) for v in (0.0, 1.0))
        slope = one - offset
        if _near(values, slope * POINTS + offset):
            return Known("line", slope, offset if abs(offset) > 1e-9 else 0.0)
        return _cap(fn)


def _near(values: Array, wanted: Array) -> bool:
    return bool((np.abs(values - wanted) <= TOLERANCE * np.maximum(1.0, np.abs(wanted))).all())


def _cap(fn: Callable[[Array], Array]) -> Known | None:
    """factor * tanh(x * slope): the factor is the limit, the slope that at 0."""
    far, close = np.array([1e9]), np.array([1e-6])
    limit = float(np.asarray(fn(far), np.float64)[0])
    if not np.isfinite(limit) or limit == 0:
        return None
    cap = float(np.float32(limit))
    slope = float(np.float32(float(np.asarray(fn(close), np.float64)[0]) / 1e-6 / cap))
    points = POINTS * (1 / slope if slope else 1) / 4
    values = np.asarray(fn(points.copy()), np.float64)
    if not _near(values, cap * np.tanh(points * slope)):
        return None
    return Known("cap", cap, 0.0, slope)
