# SPDX-License-Identifier: Apache-2.0
"""Fabric: the blocks of registers of a loaded overlay, and whether they are those of the package's design.

Knows nothing of pynq: it is given something that reads and writes 32 bits for each block.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import IO, Protocol

from meadow.machine.design import IDENTITY, SETTABLE, untold_number
from meadow.machine.engines.engine import Engine
from meadow.machine.engines.table import engines
from meadow.machine.errors import DeviceError
from meadow.machine.instructions import table
from meadow.machine.package.read import Package
from meadow.machine.registers import (
    GEMV_REGISTERS,
    GEMV_VERSION,
    IDENTITY_ID,
    IDENTITY_VERSION,
    identity_offset,
    identity_registers,
    offsets,
)


class Window(Protocol):
    """The registers of a block, such as a pynq MMIO."""

    def read(self, offset: int) -> int: ...

    def write(self, offset: int, value: int) -> None: ...


class Fabric:
    """blocks: the registers of each block by its cell's name.  operations: where reads and writes are counted."""

    def __init__(self, package: Package, blocks: dict[str, Window], operations: Counter[str]):
        self.package, self.blocks, self.operations = package, blocks, operations

    def read(self, block: str, offset: int) -> int:
        self.operations["register reads"] += 1
        return int(self.blocks[block].read(offset))

    def read_wide(self, block: str, offset: int) -> int:
        return self.read(block, offset) | self.read(block, offset + 4) << 32

    def write(self, block: str, offset: int, value: int) -> None:
        self.operations["register writes"] += 1
        self.blocks[block].write(offset, int(value))

    def check_identity(self) -> None:
        """The fabric must hold the package's design: every number of it, not its digest alone."""
        design = self.package.design
        where = offsets(identity_registers(design))
        found = self.read("meadow_identity", where["ID"])
        if found != IDENTITY_ID:
            raise DeviceError(
                f"the fabric answers {found:#x} where meadow's identity is: no overlay of meadow is loaded"
            )
        version = self.read("meadow_identity", where["VERSION"])
        if version != IDENTITY_VERSION:
            raise DeviceError(
                f"the fabric's registers are of version {version}, this meadow reads {IDENTITY_VERSION}; "
                "synthesize again (hours): meadowc build"
            )
        instructions = self.read("meadow_identity", where["ISA"])
        if instructions != table.VERSION:
            raise DeviceError(
                f"the fabric runs programs of version {instructions}, the package has version {table.VERSION}; "
                "synthesize again (hours): meadowc build"
            )
        told = IDENTITY[: self.read("meadow_identity", where["FIELDS"])]
        wrong = []
        for name in IDENTITY:
            wanted = design.number(name)
            found = self.read("meadow_identity", identity_offset(name)) if name in told else untold_number(name)
            if found != wanted:
                wrong.append((name, found, wanted))
        if wrong:
            raise DeviceError(self._other_design(wrong))
        number = self.read_wide("meadow_identity", where["DESIGN_ID"])
        if number != int(design.id, 16):
            raise DeviceError(
                f"the fabric's design is {number:016x}, the package's {design.id}: it was made for another board or part; "
                "compile for that board (seconds) or build (hours)"
            )
        if self.package.design.beside is not None:
            self._check_beside(self.package.design.beside)

    def _other_design(self, wrong: list[tuple[str, int, int]]) -> str:
        """What differs, and the whole command that compiles for the fabric as it is; or why none can."""
        listed = ", ".join(
            f"{name} is {found} in the fabric and {wanted} in the package" for name, found, wanted in wrong
        )
        text = f"the bitstream is of another design: {listed}. "
        there = {kind for kind in engines() if self.read("meadow_identity", identity_offset(kind.ports_name()))}
        mine = {type(engine) for engine in self.package.design.engines}
        for name, found, wanted in wrong:
            kind = next((kind for kind in engines() if kind.ports_name() == name), None)
            other = kind is not None and any(k.weights == kind.weights for k in (mine if found else there))
            if kind is not None and not (found and wanted) and not other:
                engine = kind.weights
                has, lacks = ("bitstream", "package") if found else ("package", "bitstream")
                text += f"The {has} has the engine for {engine}, the {lacks} has not: quantize the model otherwise (seconds), or build "
                return text + f"this design's bitstream (hours): meadowc build {self.package.folder}"
        absent = {name for kind in engines() if kind not in there for name in kind.numbers}
        settings = " ".join(
            f"--set {name}={self.read('meadow_identity', identity_offset(name))}"
            for name in SETTABLE
            if name not in absent
        )
        source = (self.package.folder / str(self.package.manifest["source"].get("path", "MODEL"))).resolve()
        return text + (
            f"Compile the model for it (seconds): meadowc compile {source} --board {self.package.manifest['board']} {settings}; or build this "
            f"design's bitstream (hours): meadowc build {self.package.folder}"
        )

    def _check_beside(self, engine: Engine) -> None:
        where = offsets(GEMV_REGISTERS)
        number, shape, size = engine.identity(self.package.design)
        for name, wanted in (("ID", number), ("VERSION", GEMV_VERSION), ("SHAPE", shape), ("SIZE", size)):
            found = self.read(engine.name, where[name])
            if found != wanted:
                raise DeviceError(
                    f"{engine.name}: {name} is {found:#x} in the fabric and {wanted:#x} in the package; build again (hours)"
                )

    def clear(self) -> None:
        """Let the engine in Verilog forget the commands of a run that was aborted; reads under way are waited for there."""
        if (engine := self.package.design.beside) is not None:
            self.write(engine.name, offsets(GEMV_REGISTERS)["CONTROL"], 1)

    def state(self, registers: dict[str, int]) -> str:
        """Where the engine is, in words: for errors and people."""
        progress = self.read("meadow_engine", registers["progress"])
        parts = [f"instruction {progress}", f"CTRL {self.read('meadow_engine', registers['CTRL']):#x}"]
        if (engine := self.package.design.beside) is not None:
            counters = self.beside_counters(engine)
            parts.append(
                f"{engine.name} "
                + ", ".join(f"{k} {v:#x}" if k == "ERROR" else f"{k} {v}" for k, v in counters.items())
            )
        return "; ".join(parts)

    def beside_counters(self, engine: Engine) -> dict[str, int]:
        """Registers of the engine in Verilog that tell how it is and what it counted."""
        named = [r for r in GEMV_REGISTERS if r.access == "read" and r.offset >= 0x1C]
        wide = {r.name: self.read_wide if r.bits == 64 else self.read for r in named}
        return {r.name: wide[r.name](engine.name, r.offset) for r in named}

    def cycles(self) -> int:
        """The engine's clock since the bitstream was loaded."""
        at = offsets(identity_registers(self.package.design))["CYCLES"]
        return self.read_wide("meadow_identity", at)


def _opened(path: str, flags: int) -> int:
    """For everybody: a lock that root made must not stop others from reading who holds it."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def claim(tag: str, what: str) -> IO[str]:
    """A lock that ends with its process: a kernel that restarts gives the fabric back.  Raises DeviceError with the holder."""
    folder = Path("/run/lock") if os.access("/run/lock", os.W_OK) else Path(tempfile.gettempdir())
    name = "".join(c if c.isalnum() else "-" for c in tag)
    path = folder / f"meadow-{name}.lock"
    try:
        file = open(path, "r+", opener=_opened)  # noqa: SIM115
    except OSError as error:
        raise DeviceError(
            f"the lock of the fabric, {path}, cannot be opened ({error.strerror}); run as the user that made it, or as root"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = file.read().strip() or "somebody"
        file.close()
        mine = holder.startswith(f"process {os.getpid()} ")
        todo = (
            "it is this very process: close() that Session, or drop it"
            if mine
            else "close that Session (or restart its kernel) first"
        )
        raise DeviceError(f"the fabric is in use by {holder}; {todo}") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} with {what}")
    file.flush()
    return file
