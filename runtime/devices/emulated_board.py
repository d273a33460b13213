# SPDX-License-Identifier: Apache-2.0
"""EmulatedBoard: a Zynq board in software, with registers, DRAM apart from the host's copies, clocks, and the C simulation behind
its registers.  What fails on a board without a word fails here with one.

Knows nothing of pynq: zynq.py puts this behind a pynq Device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from meadow.machine.errors import DeviceError, UsageError
from meadow.machine.instructions import table
from meadow.machine.package.read import Package
from meadow.machine.registers import (
    BLOCK_BYTES,
    DONE,
    GEMV_VERSION,
    IDENTITY_ID,
    IDENTITY_VERSION,
    IDLE,
    READY,
    START,
    engine_registers,
    identity_fields,
    identity_registers,
    offsets,
)
from meadow.machine.storage.rows import padded
from meadow.runtime.devices.csim import build
from meadow.runtime.devices.csim_engine import Engine, SharedMemory
from meadow.runtime.devices.device import Bytes, Run
from meadow.runtime.devices.emulated_processor import Block, Width, processor

FAULTS = {
    "engine-hang": "the engine never says that it is done",
    "corrupted-weights": "a bit of the weights flips in DRAM",
    "wrong-id": "the fabric holds another design than the package is for",
    "no-memory": "contiguous memory is short",
    "stale-lines": "flushes leave a cache line behind",
    "slow-bus": "the memory ports carry a sixteenth of their beats",
    "narrow-port": "a memory port is 32 bits wide, as a boot image leaves it",
}
"""What can be injected, and what it is like on a board."""
HUNG_AT = 3
"""The step at which an engine hangs."""
PAGE = 4096
LINE = 64
LARGE = 4096
"""Bytes of a flush that a fault may spoil: weights and patterns, not a token's activations."""
LOWEST = 0x1000_0000
"""Contiguous memory begins above what the operating system is emulated to hold."""
CMA_BYTES = 1 << 30
"""Contiguous memory of a healthy emulated board."""
SLOWER = 16
"""Times the cycles of a run on a slow bus."""


class EngineBlock:
    """s_axi_control of meadow_engine: ap_ctrl_hs and the arguments, with the C simulation behind, which runs beside the host."""

    def __init__(self, board: EmulatedBoard):
        self.board = board
        self.where = offsets(engine_registers(board.package.design))
        self.values: dict[int, int] = {}
        self.pending = self.done = False

    @property
    def busy(self) -> bool:
        """Whether a run is under way; hung engines are busy for ever."""
        return self.pending and (self.board.fault == "engine-hang" or self.board.engine.busy)

    def wide(self, name: str) -> int:
        at = self.where[name]
        return self.values.get(at, 0) | self.values.get(at + 4, 0) << 32

    def read(self, offset: int) -> int:
        if offset == self.where["CTRL"]:
            if self.pending and not self.busy:
                self._finish()
            word = (DONE | READY if self.done else 0) | (START if self.busy else IDLE)
            self.done = False  # cleared by reading
            return word
        if offset == self.where["progress"]:
            return HUNG_AT if self.pending and self.board.fault == "engine-hang" else self.board.engine.progress
        return self.values.get(offset, 0)

    @property
    def interrupts(self) -> bool:
        """Whether the end of a run is told."""
        return all(self.values.get(self.where[name], 0) & 1 for name in ("GIER", "IP_IER"))

    def write(self, offset: int, value: int) -> None:
        if offset == self.where["IP_ISR"]:
            value ^= self.values.get(offset, 0)  # a bit toggles when 1 is written
        if offset == self.where["abort"]:
            if value and self.board.fault != "engine-hang":
                self.board.engine.abort()
            return
        if self.busy:
            raise DeviceError(f"emulated board: {value:#x} written to register {offset:#x} of the engine while it runs")
        if offset != self.where["CTRL"]:
            self.values[offset] = value
            return
        if value & START:
            run = Run(
                self.wide("instructions"),
                self.wide("bases"),
                self.values.get(self.where["pages"], 0),
                self.values.get(self.where["position"], 0),
                self.values.get(self.where["tokens"], 0),
                self.values.get(self.where["first_logit"], 0),
                self.values.get(self.where["ahead"], 0),
            )
            for port in (name for name in self.where if name.startswith("weights") or name in ("constants", "memory")):
                if self.wide(port):
                    raise DeviceError(f"emulated board: port {port} does not begin at address 0")
            self.pending = True  # first: a run must not be under way that nobody knows of
            if self.board.fault != "engine-hang":
                self.board.begin(run)

    def _finish(self) -> None:
        """Take what a run left.  Raises DeviceError for what the simulation caught."""
        self.done = True
        if self.interrupts:
            self.values[self.where["IP_ISR"]] = 1
        try:
            self.values[self.where["ap_return"]] = self.board.finish()
        finally:
            self.pending = False

    def reset(self) -> None:
        """What downloading a bitstream does."""
        self.board.engine.settle()
        self.values, self.pending, self.done = {}, False, False


class IdentityBlock:
    """meadow_identity: read only."""

    def __init__(self, board: EmulatedBoard):
        self.board = board
        design = board.package.design
        where = offsets(identity_registers(design))
        self.cycles_at = where["CYCLES"]
        fields = identity_fields(design)
        number = int(design.id, 16)
        if board.fault == "wrong-id":
            fields = {**fields, "token_lanes": 2 * fields["token_lanes"]}
            number ^= 0xBAD
        self.values = {
            where["ID"]: IDENTITY_ID,
            where["VERSION"]: IDENTITY_VERSION,
            where["ISA"]: table.VERSION,
            where["FIELDS"]: len(fields),
            where["DESIGN_ID"]: number & 0xFFFFFFFF,
            where["DESIGN_ID"] + 4: number >> 32,
            **{where[name]: value for name, value in fields.items()},
        }

    def read(self, offset: int) -> int:
        if offset - self.cycles_at in (0, 4):
            return self.board.cycles >> 8 * (offset - self.cycles_at) & 0xFFFFFFFF
        return self.values.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        raise DeviceError(
            f"emulated board: {value:#x} written to register {offset:#x} of meadow_identity, which is read only"
        )


class BesideBlock:
    """gemv_registers: who it is, and cycles and beats as the C simulation counts them.  Commands and waits are nobody's to count here, and read as 0; `meadowc cosim` has them."""

    COUNTED: ClassVar[dict[int, str]] = {
        0x40: "cycles",
        **{0x60 + 4 * p: f"beats{p}" for p in range(4)},
    }

    def __init__(self, board: EmulatedBoard):
        self.board = board
        design = board.package.design
        assert design.beside is not None
        name, shape, size = design.beside.identity(design)
        number = int(design.id, 16)
        self.values = {
            0x00: name,
            0x04: GEMV_VERSION,
            0x08: shape,
            0x0C: size,
            0x10: number & 0xFFFFFFFF,
            0x14: number >> 32,
            0x24: 65536,
        }

    def read(self, offset: int) -> int:
        name = self.COUNTED.get(offset)
        return self.board.beside[name] & 0xFFFFFFFF if name else self.values.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        if offset == 0x18 and value & 1:
            self.board.beside.clear()
        elif offset == 0x24:
            self.values[offset] = value


class EmulatedBoard:
    """One board with one package's engine in its fabric.

    fault  one of FAULTS, or "" for a healthy board
    Raises UsageError for an unknown fault, ToolMissing without g++, DeviceError without address space.
    """

    def __init__(self, package: Package, fault: str = "", cma_bytes: int = CMA_BYTES):
        if fault and fault not in FAULTS:
            raise UsageError(f"fault {fault!r} is not known; known are {', '.join(FAULTS)}")
        self.package, self.fault = package, fault
        self.cma_bytes = 1 << 20 if fault == "no-memory" else cma_bytes
        self.operations: Counter[str] = Counter()
        self.cycles = 0
        self.beside: Counter[str] = Counter()
        self.flipped = False
        halves = [(int(at), int(length)) for at, length in package.manifest["hardware"]["ddr"]]
        top = max(at + length for at, length in halves)
        try:
            self.memory = SharedMemory(top, "meadow-dram")
        except OSError as error:
            raise DeviceError(
                f"the emulated board needs {top >> 30} GiB of address space (not of memory): {error.strerror}; "
                "raise ulimit -v, or use the device csim"
            ) from None
        self.dram: Bytes = self.memory.bytes
        self.engine = self._open_engine()
        self._before = self.engine.counts()
        self.halves = [[max(at, LOWEST), at + length] for at, length in halves]
        self.next = [half[0] for half in self.halves]
        self.used: dict[int, int] = {}
        self.blocks: list[tuple[int, int, Block]] = []
        self.processor: list[tuple[int, int, Block]] = processor()
        for name, address in package.manifest["hardware"]["widths"].items():
            width = 2 if fault == "narrow-port" else 0
            self.processor.append((address, 0x1000, Width(0 if name != "HP0" else width)))

    def _open_engine(self) -> Engine:
        """What stands behind the registers."""
        return Engine(self.package, build(self.package), self.memory)

    # -- fabric ----------------------------------------------------------------------------------------------------

    def program(self, bitstream: Path) -> None:
        """Download a bitstream: the blocks of registers come into being, in the state after a reset."""
        self.operations["bitstreams"] += 1
        for _, _, block in self.blocks:
            if isinstance(block, EngineBlock):
                block.reset()
        makers: dict[str, Callable[[EmulatedBoard], Block]] = {
            "meadow_engine": EngineBlock,
            "meadow_identity": IdentityBlock,
        }
        self.blocks = [
            (int(at), BLOCK_BYTES, makers.get(name, BesideBlock)(self))
            for name, at in self.package.manifest["hardware"]["blocks"].items()
        ]

    def _find(self, address: int) -> tuple[Block, int]:
        for base, length, block in (*self.blocks, *self.processor):
            if base <= address < base + length:
                return block, address - base
        raise DeviceError(f"emulated board: bus error, nothing is at {address:#x}")

    def read_register(self, address: int) -> int:
        """32 bits.  Raises DeviceError where no register is."""
        self.operations["register reads"] += 1
        block, offset = self._find(address)
        return block.read(offset)

    def write_register(self, address: int, value: int) -> None:
        """32 bits.  Raises DeviceError where no register is, or when the engine runs."""
        self.operations["register writes"] += 1
        block, offset = self._find(address)
        block.write(offset, value)

    def begin(self, run: Run) -> None:
        """Start the engine."""
        pools = [(half[0], at) for half, at in zip(self.halves, self.next, strict=True)]
        low, high = pools[0], pools[1] if len(pools) > 1 else (0, 0)
        self._before = self.engine.counts()
        self.engine.start((*low, *high), run)

    def finish(self) -> int:
        """The status of a run that has ended.  Counts cycles: the longest of its ports and loops."""
        status = self.engine.wait()
        counted = self.engine.counters(self._before)
        by_port: Counter[str] = Counter()
        for name, n in counted.bytes.items():
            by_port[name.partition(".")[0]] += n // 16
        loops = sum(n for name, n in counted.cycles.items() if name not in ("fetch", "unpack", "pacq", "columns"))
        self.cycles += max(*by_port.values(), loops) * (SLOWER if self.fault == "slow-bus" else 1)
        self.beside["cycles"] += counted.cycles["pacq"] + counted.cycles["columns"]
        for p in range(4):
            self.beside[f"beats{p}"] += by_port[f"pacq{p}"] + by_port[f"columns{p}"]
        self.operations["runs"] += 1
        return status

    # -- memory ----------------------------------------------------------------------------------------------------

    def meminfo(self) -> tuple[int, int]:
        """Bytes of contiguous memory: in all, and free."""
        return self.cma_bytes, self.cma_bytes - sum(self.used.values())

    def allocate(self, length: int) -> int:
        """Contiguous memory, in the halves of the DRAM in turn, never next to another piece.  Raises MemoryError when short."""
        size = padded(max(length, 1), PAGE)
        if size > self.meminfo()[1]:
            raise MemoryError(f"emulated board: {size} bytes of contiguous memory, {self.meminfo()[1]} are free")
        half = len(self.used) % len(self.halves)
        address = self.next[half]
        if address + size + PAGE > self.halves[half][1]:
            raise MemoryError("emulated board: a half of the DRAM is full")
        self.next[half] = address + size + PAGE
        self.used[address] = size
        self.operations["allocations"] += 1
        return address

    def free(self, address: int) -> None:
        """Give memory back; its addresses are not given out again."""
        self.used.pop(address, None)

    def _inside(self, address: int, length: int) -> Bytes:
        if not any(at <= address and address + length <= at + size for at, size in self.used.items()):
            raise DeviceError(f"emulated board: {length} bytes at {address:#x} are nobody's memory")
        return self.dram[address : address + length]

    def flush(self, address: int, data: Bytes) -> None:
        """Host lines to DRAM."""
        self.operations["flushes"] += 1
        self.operations["flushed bytes"] += data.size
        target = self._inside(address, data.size)
        line = data.size // 2 // LINE * LINE
        kept = target[line : line + LINE].copy()
        target[:] = data
        if data.size >= LARGE and self.fault == "stale-lines":
            target[line : line + LINE] = kept
        if (
            data.size >= LARGE
            and self.fault == "corrupted-weights"
            and not self.flipped
            and data[line : line + LINE].any()
        ):
            target[line] ^= 0x10
            self.flipped = True

    def invalidate(self, address: int, data: Bytes) -> None:
        """DRAM to host lines."""
        self.operations["invalidates"] += 1
        self.operations["invalidated bytes"] += data.size
        data[:] = self._inside(address, data.size)
