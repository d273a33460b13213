# SPDX-License-Identifier: Apache-2.0
"""Coded streams: what a way of storing INT8 weights must say of itself.  Each way is one file here, with a FORMATS of its own.

A port streams its rows in tiles (rows.py); a coded tile begins at a beat, and a directory has the beats of each.  The way is
named by the format word of an instruction, whose bits below 24 are the array's: chunk size 0..7, packets 8..15, prefix codes 16.

A module with FORMATS is found here.  It may have

    candidates(streams [ports, rows, cols], layout, counts [256], room, scheme) -> [(format, coded)]
        what the compiler may store a matrix as; scheme is "auto" or one of the formats' own, room the entries of the unit's table
    CONSTANTS
        (C++ type, name, value, what it is) of what its unit in hls/weights.hpp needs
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from meadow.machine.storage.rows import Layout
from meadow.machine.units import BEAT_BYTES

Bytes = NDArray[np.uint8]


class Units(Protocol):
    """What a Design says of the units that unpack weights."""

    @property
    def prefix_codes(self) -> int: ...
    @property
    def lookup_entries(self) -> int: ...


class Coded(NamedTuple):
    """One coded matrix: the beats of each port as bytes, the directory [tiles, ports] in beats, its table of `entries`."""

    streams: Sequence[Bytes]
    directory: NDArray[np.uint32]
    table: Bytes
    entries: int

    def check(self, form: Format, tiles: int) -> None:
        """Raise ValueError when streams, directory and table do not go together."""
        if self.directory.shape != (tiles, len(self.streams)):
            raise ValueError(f"the directory is {self.directory.shape}, not {tiles} tiles of {len(self.streams)} ports")
        if self.entries < 1 or self.table.nbytes < form.table_bytes(self.entries):
            raise ValueError(f"a table of {self.table.nbytes} bytes for {self.entries} entries")
        for port, stream in enumerate(self.streams):
            beats = int(self.directory[:, port].sum(dtype=np.int64))
            if beats * BEAT_BYTES != stream.nbytes:
                raise ValueError(f"the stream of port {port} has {stream.nbytes} bytes, its tiles {beats} beats")


@dataclass(frozen=True)
class Format:
    """One way of storing INT8 weights.

    schemes   names under which `--packing` chooses it
    packed    whether it has a table and a directory; raw weights have neither
    together  whether decoding several matrices of one shape at once is faster
    """

    schemes: ClassVar[tuple[str, ...]] = ()
    packed: ClassVar[bool] = True
    together: ClassVar[bool] = False

    @property
    def word(self) -> int:
        """The `format` field of an instruction."""
        raise NotImplementedError

    def room(self, units: Units) -> int:
        """Entries that the table of the array's unit holds, 1 for a unit without a table; 0 when it has no such unit."""
        return 0

    def table_bytes(self, entries: int) -> int:
        """Bytes of a table of `entries`."""
        return 0

    def table_beats(self, entries: int) -> int:
        """Beats that loading the table reads."""
        return -(-self.table_bytes(entries) // BEAT_BYTES)

    def table_loops(self, entries: int) -> list[tuple[str, int]]:
        """Loops of the engine that load it, and their iterations."""
        return []

    def unpack_words(self, words: int, beats: int) -> int | None:
        """Iterations of the look-up units for `words` words of all ports that come in `beats` beats; None: the codes decide."""
        return beats

    def unpack_cycles(self, layout: Layout, directory: NDArray[np.uint32]) -> int:
        """Cycles of the look-up unit of the slowest port, were the bus infinitely fast."""
        raise NotImplementedError

    def expected_bytes(self, layout: Layout, bits: float, entries: int) -> int | None:
        """Bytes of a port when a weight takes `bits` on average; None when it would be stored raw."""
        raise NotImplementedError

    def decode(self, several: Sequence[Coded], layout: Layout) -> list[NDArray[np.int8]]:
        """The weights of every port, [ports, weights], of matrices of one shape.  Raises ValueError for damaged streams."""
        raise NotImplementedError


def unpack(form: Format, coded: Coded, layout: Layout) -> NDArray[np.int8]:
    """The weights of every port, [ports, weights].  A tile starts at a beat; what its last beat holds beyond is padding.

    Raises ValueError when the beats hold less than the tiles need, or a code or id is not in the table.
    """
    return unpack_alike(form, [coded], layout)[0]


def unpack_alike(form: Format, several: Sequence[Coded], layout: Layout) -> list[NDArray[np.int8]]:
    """unpack of several matrices of one format and one shape."""
    for coded in several:
        coded.check(form, layout.tiles)
    return form.decode(several, layout)


@lru_cache
def storage_modules() -> tuple[Any, ...]:
    """The modules of this folder that have FORMATS, in the order of their names."""
    package = __name__.rpartition(".")[0]
    names = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
    found = [importlib.import_module(f"{package}.{name}") for name in names]
    return tuple(module for module in found if hasattr(module, "FORMATS"))


@lru_cache
def formats() -> dict[int, Format]:
    """Every format, by its word."""
    return {form.word: form for module in storage_modules() for form in module.FORMATS}


def schemes() -> tuple[str, ...]:
    """The names by which `--packing` chooses: auto, and those of every format."""
    return ("auto", *dict.fromkeys(name for form in formats().values() for name in form.schemes))


def format_of(word: int) -> Format:
    """The format of an instruction's word.  Raises ValueError for one that does not exist."""
    found = formats().get(word)
    if found is None:
        raise ValueError(f"packing format {word:#x} is not known")
    return found
