# SPDX-License-Identifier: Apache-2.0
"""What operators that move elements do to shapes: for arrays (numeric.py) and for forms (lift/views.py) alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MOST_ELEMENTS = 1 << 31
"""Of one constant: a file that makes more is hostile."""


class NotEvaluated(Exception):
    """An operator that cannot be computed; the message says which, and why."""


def bounded(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape.  Raises NotEvaluated for one of too many elements."""
    if math.prod(max(int(n), 0) for n in shape) > MOST_ELEMENTS:
        raise NotEvaluated(f"a constant of {list(shape)} elements")
    return tuple(int(n) for n in shape)


def axes_of(attributes: dict[str, Any], given: Array | None) -> tuple[int, ...] | None:
    """Axes, which older operators have as an attribute and newer ones as an input; None for all."""
    if given is not None:
        return tuple(int(a) for a in np.asarray(given).reshape(-1))
    found = attributes.get("axes")
    return None if found is None else tuple(int(a) for a in found)


def reshaped(x_shape: Sequence[int], wanted: Array, allow_zero: int = 0) -> tuple[int, ...]:
    """The shape that Reshape gives: 0 copies, -1 is what is left."""
    shape = [
        int(x_shape[i]) if n == 0 and not allow_zero else int(n) for i, n in enumerate(np.asarray(wanted).reshape(-1))
    ]
    if -1 in shape:
        rest = math.prod(n for n in shape if n != -1)
        shape[shape.index(-1)] = math.prod(x_shape) // rest if rest else 0
    return tuple(shape)


def sliced(rank: int, shape: Sequence[int], starts: Array, ends: Array, axes: Array | None, steps: Array | None) -> Any:
    """The index that Slice means."""
    count = np.asarray(starts).size
    axis = list(range(count)) if axes is None else [int(a) % rank for a in np.asarray(axes).reshape(-1)]
    step = [1] * count if steps is None else [int(s) for s in np.asarray(steps).reshape(-1)]
    index = [slice(None)] * rank
    for a, s, e, by in zip(axis, np.asarray(starts).reshape(-1), np.asarray(ends).reshape(-1), step, strict=True):
        start, end, size = int(s), int(e), int(shape[a])
        if by < 0 and end < -size:
            index[a] = slice(start, None, by)
        else:
            index[a] = slice(start, end, by)
    return tuple(index)


def parts_of(attributes: dict[str, Any], size: int, outputs: int, sizes: Array | None) -> list[int]:
    """The sizes that Split cuts an axis into."""
    if sizes is None and "split" in attributes:
        sizes = np.asarray(attributes["split"])
    if sizes is not None:
        return [int(n) for n in np.asarray(sizes).reshape(-1)]
    count = int(attributes.get("num_outputs", outputs))
    each = -(-size // count)
    return [min(each, size - each * n) for n in range(count)]


def unsqueezed(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """The shape after Unsqueeze."""
    rank = len(shape) + len(axes)
    where, left = {x % rank for x in axes}, iter(shape)
    return tuple(1 if n in where else next(left) for n in range(rank))
