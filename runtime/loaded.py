# SPDX-License-Identifier: Apache-2.0
"""A package on a device: uploaded, checked, and its entries run on tokens that the caller places.

Knows neither conversations nor text; session.py adds those.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from meadow.machine.errors import DeviceError, UsageError
from meadow.machine.guard import guard
from meadow.machine.instructions.next import ENDS
from meadow.machine.isa import INSTRUCTION_BYTES
from meadow.machine.package.read import Package
from meadow.runtime.ahead import Ahead
from meadow.runtime.devices.device import Device, Run
from meadow.runtime.devices.replay import Recorder

UPLOAD_BYTES = 8 << 20
Floats = NDArray[np.float32]


class Loaded:
    """Every entry of a package, ready to run on a device.

    progress  called with (bytes done, bytes in all) while the weights are uploaded
    check     read back what was uploaded to a device with memory of its own, and compare
    Raises DeviceError, and closes the device then.
    """

    def __init__(self, package: Package, device: Device, progress: Callable[[int, int], None], check: bool = True):
        self.package, self.device = package, device
        self.closed = False
        self.lock = threading.RLock()
        self.cached: list[int] = []
        """Tokens whose keys and values the cache holds, from position 0 on.  Who writes weights empties it."""
        self._ahead: Ahead | None = None
        self.starts = 0
        """Runs that the host began."""
        self._scratch: int | None = None
        self._spare: int | None = None
        try:
            self._upload(progress)
            if check:
                self._check_upload()
        except BaseException:
            device.close()
            raise
        with guard(package.folder, DeviceError, "compile the model again"):
            self._embedding = package.embedding()
            self._head = package.head()

    def close(self) -> None:
        """Give the device's memory back.  Safe to call twice."""
        self.closed = True
        with suppress(DeviceError):
            self.settle()
        self.device.close()

    def _upload(self, progress: Callable[[int, int], None]) -> None:
        package = self.package
        total = sum(c.length for c in package.chunks if c.kind in ("weights", "constants"))
        self.addresses: list[int] = []
        done = 0
        for chunk, data in package.chunk_bytes():
            address = self.device.alloc(chunk.length)
            self.addresses.append(address)
            for start in range(0, chunk.length if data is not None else 0, UPLOAD_BYTES):
                assert data is not None
                piece = data[start : start + UPLOAD_BYTES]
                self.device.write(address + start, piece)
                done += piece.size
                progress(done, total)
        self.programs: dict[str, int] = {}
        offset = 0
        for name in package.entries:
            code = np.frombuffer(package.program(name), np.uint8)
            self.device.write(self.addresses[0] + offset, code)
            self.programs[name] = self.addresses[0] + offset
            offset += code.size
        table = np.array(self.addresses, np.uint64).view(np.uint8)
        self.bases = self.device.alloc(table.size)
        self.device.write(self.bases, table)

    def _check_upload(self) -> None:
        """Raise DeviceError unless the device's memory holds the package's weights and programs."""
        device = self.device.device if isinstance(self.device, Recorder) else self.device
        if device.shares_memory:
            return
        wanted = [
            (address, data)
            for address, (_, data) in zip(self.addresses, self.package.chunk_bytes(), strict=True)
            if data is not None
        ]
        wanted += [(self.programs[name], np.frombuffer(self.package.program(name), np.uint8)) for name in self.programs]
        for address, data in wanted:
            for start in range(0, data.size, UPLOAD_BYTES):
                piece = data[start : start + UPLOAD_BYTES]
                different = np.flatnonzero(device.read(address + start, piece.size) != piece)
                if different.size:
                    raise DeviceError(
                        f"{device.name}: memory differs from what was written there, in {different.size} of {piece.size} bytes from "
                        f"{address + start + int(different[0]):#x} on: a cache line that was not flushed, or damaged memory. "
                        f"For more: meadowc selftest {self.package.folder} --device {device.name}"
                    )

    def at(self, name: str) -> int:
        """Address of an input or output of the entries."""
        slot = self.package.slot(name)
        assert isinstance(slot.space, int)
        return int(self.addresses[slot.space] + slot.offset)

    def embed(self, tokens: list[int], position: int) -> None:
        """Write the embeddings of `tokens` from `position` on where the entries read them."""
        x = self.package.tensor("x")
        rows = np.zeros((len(tokens), x.stride), np.float32)
        rows[:, : x.width] = self._embedding.rows(np.array(tokens), position)
        self.device.write(self.at("x"), rows.view(np.uint8))

    def finished(self, logits: Floats) -> Floats:
        """Logits as the model has them, of what the head's matrix computes."""
        return self._head.finished(logits)

    def run(self, entry: str, tokens: list[int], position: int, first_logit: int) -> None:
        """Run an entry on `tokens` after `position` others, to its end; logits are wanted from token `first_logit` on."""
        with self.lock:
            self.run_at(self.programs[entry], tokens, position, first_logit)
            if len(self.cached) == position:
                self.cached += tokens

    def run_at(self, address: int, tokens: list[int], position: int, first_logit: int, embed: bool = True) -> None:
        """Run the program at `address`.

        embed  gather the embeddings of `tokens`; else the activations stay as they are
        """
        if self.closed:
            raise UsageError("this Session is closed; open a new one")
        with self.lock:
            self.settle()
            del self.cached[position:]  # first: a run that is interrupted leaves what nobody knows
            if embed:
                self.embed(tokens, position)
            self.starts += 1
            self.device.start(Run(address, self.bases, len(self.addresses), position, len(tokens), first_logit))
            self.device.wait()

    def goes_ahead(self, ends: Collection[int]) -> bool:
        """Whether the engine may go on by itself, with so many tokens that end an answer, and the host can look at them meanwhile."""
        return "ring" in self.package.manifest["ahead"] and len(ends) <= ENDS and self.device.abilities.beside

    def follow(self, token: int, position: int, count: int, ends: Collection[int]) -> int:
        """The likeliest token after `token`, which is run at `position`: of at most `count` that the engine goes on to by itself, and
        that may be on their way."""
        if self.closed:
            raise UsageError("this Session is closed; open a new one")
        with self.lock:
            ahead = self._ahead
            if ahead is None or ahead.spent or (ahead.token, ahead.position) != (token, position):
                self.settle()
                del self.cached[position:]
                self.starts += 1
                ahead = self._ahead = Ahead(self, token, position, count, ends)
            found = ahead.follow()
            if len(self.cached) == position:
                self.cached.append(token)
            return found

    def settle(self) -> None:
        """End what the engine does by itself: before anything else is asked of it."""
        with self.lock:
            ahead, self._ahead = self._ahead, None
            if ahead is not None:
                ahead.stop()

    def take(self, name: str, first: int, count: int) -> Floats:
        """Rows `first` .. `first + count` of an output, float32 [count, width]."""
        tensor = self.package.tensor(name)
        if not count:
            return np.zeros((0, tensor.width), np.float32)
        data = self.device.read(self.at(name) + first * tensor.stride * 4, count * tensor.stride * 4)
        return np.ascontiguousarray(data.view(np.float32).reshape(-1, tensor.stride)[:, : tensor.width])

    # -- for tests of the device -----------------------------------------------------------------------------------

    def spare(self, length: int) -> int:
        """Address of memory that nothing else uses, the same at each call: for tests of the memory itself."""
        if self._spare is None:
            self._spare = self.device.alloc(length)
        return self._spare

    def run_code(self, code: NDArray[np.uint8], tokens: list[int], position: int = 0, embed: bool = True) -> None:
        """Run the instructions `code` (END is added) on `tokens`, whose logits nobody wants."""
        whole = np.concatenate([code, np.zeros(INSTRUCTION_BYTES, np.uint8)])  # opcode 0 is END
        if self._scratch is None:
            longest = max(entry.bytes for entry in self.package.entries.values())
            self._scratch = self.device.alloc(longest + INSTRUCTION_BYTES)
        self.device.write(self._scratch, whole)
        self.run_at(self._scratch, tokens, position, len(tokens), embed)
