# SPDX-License-Identifier: Apache-2.0
"""Record and replay: what was said to a device and what it answered, so that a run on a board can be repeated where there is none.

A recording is lines of JSON: writes by their digest, reads with their bytes.  Computes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from meadow.machine.errors import DeviceError, UsageError
from meadow.machine.package.read import Package
from meadow.runtime.devices.device import Abilities, Bytes, Counters, Device, Run

FORMAT = "meadow recording 2"
LONGEST_LINE = 256 << 20
LONGEST_READ = 128 << 20


def _digest(data: Bytes) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data).hexdigest()[:32]


def _plain(text: object) -> str:
    """Text of a file from outside, short and without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:300])


class Recorder:
    """A device whose transactions are written down.  Implements Device; everything else is asked of the device itself."""

    def __init__(self, device: Device, package: Package, path: Path):
        self.device, self.path = device, path
        self.name, self.emulated, self.shares_memory = device.name, device.emulated, device.shares_memory
        self.abilities = device.abilities
        try:
            self.file: IO[str] = path.open("w")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
        self._say(
            {
                "format": FORMAT,
                "package": package.manifest["digest"],
                "device": device.name,
                "emulated": device.emulated,
                "beside": device.abilities.beside,
            }
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)

    def _say(self, row: dict[str, Any]) -> None:
        self.file.write(json.dumps(row, separators=(",", ":")) + "\n")

    def alloc(self, length: int) -> int:
        address = self.device.alloc(length)
        self._say({"alloc": length, "address": address})
        return address

    def write(self, address: int, data: Bytes) -> None:
        self._say({"write": address, "length": data.nbytes, "sha256": _digest(data)})
        self.device.write(address, data)

    def read(self, address: int, length: int) -> Bytes:
        data = self.device.read(address, length)
        self._say(
            {"read": address, "length": length, "data": base64.b64encode(zlib.compress(data.tobytes(), 1)).decode()}
        )
        return data

    def peek(self, address: int, length: int) -> Bytes:
        data = self.device.peek(address, length)
        self._say({"peek": address, "length": length, "data": data.tobytes().hex()})
        return data

    def ended(self) -> bool:
        ended = self.device.ended()
        self._say({"ended": ended})
        return ended

    def stop(self) -> None:
        self._say({"stop": True})
        self.device.stop()

    def start(self, run: Run) -> None:
        self._say({"start": asdict(run)})
        self.device.start(run)

    def wait(self, timeout: float | None = None) -> None:
        try:
            self.device.wait(timeout)
        except DeviceError as error:
            self._say({"wait": str(error)})
            raise
        self._say({"wait": ""})

    @property
    def counters(self) -> Counters:
        return self.device.counters

    def close(self) -> None:
        self.device.close()
        self.file.close()


class Replay:
    """A device that answers as a recorded one did, and raises DeviceError where it is asked something else."""

    name = "replay"
    emulated = True
    shares_memory = True

    def __init__(self, package: Package, path: Path):
        try:
            self.file: IO[bytes] = path.open("rb")
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        self.path, self.line, self._runs = path, 0, 0
        self.abilities = Abilities()
        head = self._next()
        if head.get("format") != FORMAT:
            raise UsageError(
                f"{path} is no recording of this version ({FORMAT!r}); record it again: meadowc run --record"
            )
        if head.get("package") != package.manifest["digest"]:
            raise DeviceError(f"{path} was recorded with another package than {package.folder}; record it again")
        self.abilities.beside = head.get("beside") is True
        self.name = f"replay of {_plain(head.get('device'))}"

    def _next(self) -> dict[str, Any]:
        text = self.file.readline(LONGEST_LINE)
        self.line += 1
        if not text:
            raise DeviceError(f"{self.path} ends at line {self.line}: the run is longer than the recording")
        try:
            row = json.loads(text.decode())
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DeviceError(f"{self.path}:{self.line} is damaged; record it again")
        return row

    def _expect(self, **asked: Any) -> dict[str, Any]:
        row = self._next()
        for key, value in asked.items():
            if row.get(key) != value:
                raise DeviceError(
                    f"{self.path}:{self.line}: {key} is {value} now and {_plain(row.get(key))} in the recording; "
                    "the runtime or the prompt changed, so record it again"
                )
        return row

    def alloc(self, length: int) -> int:
        address = self._expect(alloc=length).get("address")
        if not isinstance(address, int) or isinstance(address, bool) or not 0 <= address < 1 << 48:
            raise DeviceError(f"{self.path}:{self.line} is damaged; record it again")
        return address

    def write(self, address: int, data: Bytes) -> None:
        self._expect(write=address, length=data.nbytes, sha256=_digest(data))

    def read(self, address: int, length: int) -> Bytes:
        row = self._expect(read=address, length=length)
        if length > LONGEST_READ:
            raise DeviceError(f"{self.path}:{self.line}: a read of {length} bytes; at most {LONGEST_READ} are replayed")
        try:
            raw = zlib.decompressobj().decompress(base64.b64decode(str(row.get("data")), validate=True), length + 1)
        except (ValueError, zlib.error):
            raw = b""
        if len(raw) != length:
            raise DeviceError(f"{self.path}:{self.line} is damaged; record it again")
        return np.frombuffer(raw, np.uint8).copy()

    def peek(self, address: int, length: int) -> Bytes:
        row = self._expect(peek=address, length=length)
        try:
            raw = bytes.fromhex(str(row.get("data"))[: 2 * length + 2])
        except ValueError:
            raw = b""
        if len(raw) != length:
            raise DeviceError(f"{self.path}:{self.line} is damaged; record it again")
        return np.frombuffer(raw, np.uint8).copy()

    def ended(self) -> bool:
        return self._expect().get("ended") is True

    def stop(self) -> None:
        self._expect(stop=True)

    def start(self, run: Run) -> None:
        self._expect(start=asdict(run))

    def wait(self, timeout: float | None = None) -> None:
        said = self._expect().get("wait")
        if not isinstance(said, str):
            raise DeviceError(f"{self.path}:{self.line}: the recording has no end of a run here; record it again")
        if said:
            raise DeviceError(_plain(said))
        self._runs += 1

    @property
    def counters(self) -> Counters:
        return Counters(runs=self._runs)

    def close(self) -> None:
        self.file.close()
