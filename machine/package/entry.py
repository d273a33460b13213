# SPDX-License-Identifier: Apache-2.0
"""Entries and regions of a package: which programs it has, what they take and give, and which memory changes while they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meadow.machine.step import Slot


@dataclass(frozen=True)
class Tensor:
    """An array that the host gives to an entry, or takes from it.

    shape  numbers, or "tokens"; each row lies at `stride` elements from the one before
    """

    name: str
    kind: str
    shape: tuple[int | str, ...]
    stride: int
    slot: Slot

    @classmethod
    def of(cls, row: dict[str, Any]) -> Tensor:
        """Of its row in the manifest.  Raises KeyError, TypeError or ValueError for what is no tensor."""
        shape = tuple(n if n == "tokens" else _count(n) for n in row["shape"])
        if row["kind"] != "float32" or len(shape) != 2 or shape[0] != "tokens":
            raise ValueError(
                f"the tensor {row['name']!r} is {row['kind']} {list(shape)}; float32 rows of tokens are known"
            )
        space, offset, length = (_count(n) for n in row["slot"])
        return cls(str(row["name"]), str(row["kind"]), shape, _count(row["stride"]), Slot(space, offset, length))

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "shape": list(self.shape),
            "stride": self.stride,
            "slot": [self.slot.space, self.slot.offset, self.slot.length],
        }

    @property
    def width(self) -> int:
        """Elements of a row."""
        width = self.shape[1]
        assert isinstance(width, int)
        return width


@dataclass(frozen=True)
class Entry:
    """A program by its name: its bytes in program.bin, the tokens that one run takes, and its tensors."""

    name: str
    offset: int
    bytes: int
    steps: int
    most_tokens: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @classmethod
    def of(cls, name: str, row: dict[str, Any]) -> Entry:
        inputs, outputs = (tuple(Tensor.of(t) for t in row[key]) for key in ("inputs", "outputs"))
        offset, size, steps, most = (_count(row[key]) for key in ("offset", "bytes", "steps", "most_tokens"))
        return cls(name, offset, size, steps, most, inputs, outputs)

    def row(self) -> dict[str, Any]:
        return {
            "offset": self.offset,
            "bytes": self.bytes,
            "steps": self.steps,
            "most_tokens": self.most_tokens,
            "inputs": [t.row() for t in self.inputs],
            "outputs": [t.row() for t in self.outputs],
        }


@dataclass(frozen=True)
class Region:
    """Chunks of memory of one purpose; those that change are outside of what an upload is checked against."""

    name: str
    chunks: tuple[int, ...]
    changes: bool


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
