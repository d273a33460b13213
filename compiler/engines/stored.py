# SPDX-License-Identifier: Apache-2.0
"""One matrix, or a part of it, as it lies in memory, whatever engine takes it; and the entropy of its codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

COUNTED = 1 << 20
"""Weights that are counted at a time."""


class Streamed(Protocol):
    """How the rows of a matrix are laid over the ports of its engine."""

    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def ports(self) -> int: ...
    @property
    def operand_cols(self) -> int:
        """Input features as an instruction has them."""
        ...


@dataclass(frozen=True)
class Part:
    """Some rows of one weight matrix: what one LINEAR step streams.  Split so that no port's stream passes a chunk.

    number  among the parts of its matrix; None when it is the whole
    """

    matrix: str
    first_row: int
    layout: Streamed
    number: int | None = None

    @property
    def name(self) -> str:
        return self.matrix if self.number is None else f"{self.matrix}#{self.number}"


class Stored(Protocol):
    """One matrix, or a part of it, as it lies in memory: what placing, saving and lowering ask of any way of storing one.

    Buffers go by a suffix to the part's name: "0" to "3" are the ports' streams.
    """

    @property
    def layout(self) -> Streamed: ...
    @property
    def streams(self) -> Sequence[NDArray[np.uint8]]: ...
    @property
    def entropy(self) -> float: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def bits_per_weight(self) -> float: ...
    @property
    def bus_cycles(self) -> int: ...
    @property
    def kind(self) -> str:
        """raw, packed or grouped."""
        ...

    @property
    def gatherable(self) -> bool:
        """Whether a host can take single rows out of the streams."""
        ...

    def lengths(self) -> dict[str, int]:
        """Bytes of each buffer, by suffix."""
        ...

    def kept(self, keep: Callable[[NDArray[Any]], NDArray[Any]]) -> Stored:
        """The same with its streams where `keep` puts them."""
        ...

    def contents(self, scale: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What each buffer holds, by suffix; `scale` of the rows, where they are not in the streams."""
        ...

    def operands(self) -> dict[str, str | int]:
        """The fields of an instruction that name the matrix: a suffix of a buffer, or a number."""
        ...

    def row(self, where: Callable[[str], list[int] | None]) -> dict[str, Any]:
        """What is its own in its row of packing.json; where(suffix) is the place of a buffer."""
        ...


def entropy_bits(codes: NDArray[np.int8]) -> float:
    """Order-0 entropy of the codes, in bits per weight."""
    return entropy_of(counts_of(codes))


def counts_of(codes: NDArray[np.int8]) -> NDArray[np.int64]:
    """How often each byte value occurs [256].  Bytes are counted in pairs, which halves the work, and in pieces, since bincount
    copies what it counts to eight bytes each."""
    flat = codes.reshape(-1).view(np.uint8)
    counts = np.bincount(flat[flat.size // 2 * 2 :], minlength=256)
    pairs = flat[: flat.size // 2 * 2].view(np.uint16)
    both = np.zeros(1 << 16, np.int64)
    for start in range(0, pairs.size, COUNTED):
        both += np.bincount(pairs[start : start + COUNTED], minlength=1 << 16)
    square = both.reshape(256, 256)
    return counts + square.sum(axis=0) + square.sum(axis=1)


def entropy_of(counts: NDArray[np.int64]) -> float:
    """Order-0 entropy in bits of what was counted."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def zeros(count: int, kind: type) -> NDArray[Any]:
    """An array that has a length and no memory."""
    return np.broadcast_to(kind(0), (count,))
