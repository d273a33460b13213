# SPDX-License-Identifier: Apache-2.0
"""A first walk over a GGUF file's header: every length must lie within the file before a parser believes it.

Reads nothing of use.  The `gguf` package loops over whatever count the file claims; a hostile one would loop for years.
Layout: the GGUF specification, version 2 and 3 (ggml/docs/gguf.md).
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from meadow.machine.errors import UsageError

STRING, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of each scalar type of gguf_metadata_value_type."""
MOST_DIMENSIONS = 4


class _Walk:
    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.data, self.at = path, data, 4

    def take(self, kind: str) -> int:
        size = struct.calcsize(kind)
        self.skip(size)
        return int(struct.unpack_from(f"<{kind}", self.data, self.at - size)[0])

    def skip(self, count: int) -> None:
        if count > len(self.data) - self.at:
            raise UsageError(
                f"{self.path} is not a whole GGUF file: at byte {self.at} it claims {count} more, {len(self.data)} are there"
            )
        self.at += count

    def string(self) -> None:
        self.skip(self.take("Q"))

    def value(self, kind: int, depth: int = 0) -> None:
        if kind in SIZES:
            self.skip(SIZES[kind])
        elif kind == STRING:
            self.string()
        elif kind == ARRAY and depth == 0:
            element, count = self.take("I"), self.take("Q")
            if element in SIZES:
                self.skip(SIZES[element] * count)
                return
            if count > len(self.data) // 8:
                raise UsageError(
                    f"{self.path} is not a whole GGUF file: an array of {count} strings in {len(self.data)} bytes"
                )
            for _ in range(count):
                self.value(element, depth + 1)
        else:
            raise UsageError(f"{self.path} has metadata of an unknown type {kind} at byte {self.at}")


def scan(path: Path) -> None:
    """Raise UsageError unless the header of `path` lies within the file as its own lengths say."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        walk = _Walk(path, data)
        version = walk.take("I")
        if int.from_bytes(version.to_bytes(4, "big"), "little") in (2, 3):
            raise UsageError(
                f"{path} is big-endian, as for IBM Z; little-endian files are read: convert it with gguf-convert-endian, or get the other"
            )
        if version not in (2, 3):
            raise UsageError(f"{path} is GGUF version {version}; 2 and 3 are read")
        tensors, fields = walk.take("Q"), walk.take("Q")
        if tensors + fields > len(data) // 8:
            raise UsageError(
                f"{path} is not a whole GGUF file: {fields} fields and {tensors} tensors in {len(data)} bytes"
            )
        for _ in range(fields):
            walk.string()
            walk.value(walk.take("I"))
        for _ in range(tensors):
            walk.string()
            dimensions = walk.take("I")
            if dimensions > MOST_DIMENSIONS:
                raise UsageError(
                    f"{path} has a tensor of {dimensions} dimensions; at most {MOST_DIMENSIONS} are possible"
                )
            walk.skip(8 * dimensions + 4 + 8)
