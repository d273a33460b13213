# SPDX-License-Identifier: Apache-2.0
"""The tables at both ends of a model, as the host needs them: embeddings by token, and what is done to logits."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.integer[Any]]


class Gathered(Protocol):
    """Rows by their numbers."""

    def __getitem__(self, index: Index, /) -> NDArray[Any]: ...


class Parted:
    """Rows of a table that lies in parts, each of 2^shift rows but the last."""

    def __init__(self, parts: list[NDArray[Any]], shift: int):
        self.parts, self.shift = parts, shift

    def __getitem__(self, index: Index) -> NDArray[Any]:
        found = np.empty((len(index), self.parts[0].shape[1]), self.parts[0].dtype)
        for number, part in enumerate(self.parts):
            here = index >> self.shift == number
            found[here] = part[index[here] - (number << self.shift)]
        return found


class Embedding(NamedTuple):
    """The table of embeddings: row n is (codes[n] - zero) * scale, or codes[n] * scale + minimum, by groups of columns; codes[n] as
    it is where there is no scale."""

    codes: Gathered
    zero: int
    scale: Gathered | None
    minimum: Gathered | None
    group: int
    factor: float = 1.0
    positions: NDArray[np.float32] | None = None
    shift: int = 0

    def rows(self, index: Index, position: int = 0) -> NDArray[np.float32]:
        """FP32 [len(index), dim] of tokens from `position` on, with factor and learned positions; each operation is rounded once."""
        x = self._table(index)
        x = x if self.factor == 1.0 else x * np.float32(self.factor)
        if self.positions is None:
            return x
        first = position + self.shift
        return x + self.positions[first : first + len(index)]

    def _table(self, index: Index) -> NDArray[np.float32]:
        x: NDArray[np.float32] = self.codes[index].astype(np.float32)
        if self.scale is None:
            return x
        if self.zero:
            x -= np.float32(self.zero)
        x *= np.repeat(self.scale[index], self.group, axis=1)[:, : x.shape[1]]
        if self.minimum is not None:
            x += np.repeat(self.minimum[index], self.group, axis=1)[:, : x.shape[1]]
        return x


class Head(NamedTuple):
    """What the host does to the results of the head's matrix: a factor, and a cap where it is not 0."""

    factor: float = 1.0
    softcap: float = 0.0

    def finished(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits, each operation rounded once."""
        logits = logits if self.factor == 1 else logits * np.float32(self.factor)
        cap = np.float32(self.softcap)
        return np.tanh(logits / cap) * cap if cap else logits
