# SPDX-License-Identifier: Apache-2.0
"""Packed weights on their way to the package: kept in a file without a name, so that memory holds a few matrices and not the model."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.machine.errors import ResourceExceeded


class Spool:
    """A file that vanishes with the process.  `keep` may be called from several threads."""

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by __exit__
        except OSError as error:
            raise ResourceExceeded(f"cannot write in {folder}: {error.strerror or error}") from None
        self._folder, self._end, self._lock = folder, 0, threading.Lock()
        self._maps: list[mmap.mmap] = []

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._maps.clear()
        self._file.close()

    def keep(self, values: NDArray[Any]) -> NDArray[Any]:
        """The same values, read-only, out of the file.  Raises ResourceExceeded when the disk is full."""
        if not values.nbytes:
            return values
        with self._lock:
            start = self._end
            self._end += -(-values.nbytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._file.fileno(), data[written:], start + written)
            found = mmap.mmap(self._file.fileno(), len(data), access=mmap.ACCESS_READ, offset=start)
        except OSError as error:
            raise ResourceExceeded(f"packing needs room in {self._folder}: {error.strerror or error}") from None
        with self._lock:
            self._maps.append(found)
        return np.frombuffer(found, values.dtype).reshape(values.shape)

    def release(self) -> None:
        """Give back the memory of what was read; it is read again from the file when it is asked for."""
        for found in self._maps:
            found.madvise(mmap.MADV_DONTNEED)
