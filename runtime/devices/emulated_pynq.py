# SPDX-License-Identifier: Apache-2.0
"""A pynq Device whose board is emulated_board.py's: the driver in zynq.py and pynq itself run on it without hardware."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from meadow.machine.package.read import Package
from meadow.runtime.devices.control import STALL
from meadow.runtime.devices.device import Bytes
from meadow.runtime.devices.emulated_board import EmulatedBoard
from meadow.runtime.devices.emulated_interrupt import EmulatedInterrupt
from meadow.runtime.devices.zynq import (  # first: it says what to install when pynq is missing
    FROM_DEVICE,
    TO_DEVICE,
    Zynq,
)

import pynq  # isort: skip
from pynq.pl_server.embedded_device import EmbeddedDevice  # isort: skip


class EmulatedBo:
    """What a pyxrt.bo is to a PynqBuffer: memory that the device sees at `address` and the host as `host`."""

    def __init__(self, board: EmulatedBoard, address: int, host: Bytes):
        self.board, self.address, self.host = board, address, host

    def sync(self, direction: str, size: int, offset: int) -> None:
        move = self.board.flush if direction == TO_DEVICE else self.board.invalidate
        move(self.address + offset, self.host[offset : offset + size])


class EmulatedDevice(pynq.Device):  # type: ignore[misc]
    """A pynq Device that is an EmulatedBoard: Overlay, MMIO, register_map, allocate and Clocks work on it as on a board."""

    emulated = True

    def __init__(self, board: EmulatedBoard):
        super().__init__(f"emulated{id(board):x}")
        self.board = board
        self.name, self.arch = f"emulated {board.package.design.board}", "aarch64"
        self.capabilities = {"REGISTER_RW": True, "MEMORY_MAPPED": False, "CALLABLE": False}
        self.timestamp = self.bitfile_name = ""

    # pynq asks a device for its memory, and the memory for buffers.
    @property
    def default_memory(self) -> EmulatedDevice:
        return self

    def get_memory(self, description: Any) -> EmulatedDevice:
        return self

    def allocate(self, shape: Any, dtype: Any = "u4", cacheable: int = 0, **_: Any) -> Any:
        length = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self.board.allocate(length)
        host = np.zeros(length, np.uint8)
        made = pynq.buffer.PynqBuffer(
            shape,
            dtype,
            buffer=host.data,
            device=self,
            device_address=address,
            bo=EmulatedBo(self.board, address, host),
            coherent=False,
        )
        # freebuffer() would unmap host memory unless it is told where to return it, and runs once more when the object dies.
        made.memory, made.pointer, made.return_to, made.freed = self, address, self, True
        return made

    def open_interrupt(self, number: int) -> EmulatedInterrupt:
        """The kernel's file of the interrupt line.  Raises OSError for another line than the engine's."""
        if number != self.board.package.manifest["hardware"]["interrupt"]:
            raise FileNotFoundError(f"nothing is at interrupt {number}")
        return EmulatedInterrupt(self.board)

    def return_pointer(self, address: int) -> None:
        self.board.free(address)

    # A flush of a view moves what the host wrote there; an invalidate moves all of the buffer, as pynq's own device does.
    def flush(self, bo: EmulatedBo, offset: int, virtual: int, length: int) -> None:
        bo.sync(TO_DEVICE, length, offset)

    def invalidate(self, bo: EmulatedBo, offset: int, virtual: int, length: int) -> None:
        bo.sync(FROM_DEVICE, bo.host.size, 0)

    def read_registers(self, address: int, length: int) -> bytes:
        words = (self.board.read_register(address + n) for n in range(0, length, 4))
        return b"".join((word & 0xFFFFFFFF).to_bytes(4, "little") for word in words)

    def write_registers(self, address: int, data: bytes) -> None:
        raw = bytes(data)
        for n in range(0, len(raw), 4):
            self.board.write_register(address + n, int.from_bytes(raw[n : n + 4], "little"))

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        from pynqmetadata.frontends import Metadata
        from pynqmetadata.views.runtime import RuntimeMetadataParser

        file = Path(bitfile_name).with_suffix(".hwh")
        if not file.is_file():
            raise RuntimeError(f"no {file}")
        return RuntimeMetadataParser(Metadata(input=str(file)))

    def gen_cache(self, bitstream: Any, parser: Any = None) -> None:
        """pynq's own writes into its installation."""

    def download(self, bitstream: Any, parser: Any = None) -> None:
        self.board.program(Path(bitstream.bitfile_name))
        EmbeddedDevice.set_axi_port_width(self, parser)
        self.post_download(bitstream, parser)


@contextlib.contextmanager
def emulated_overlay(package: Package) -> Iterator[Path]:
    """The path of a .bit beside the package's own metadata, as long as it is needed: what an emulated board is programmed with."""
    with tempfile.TemporaryDirectory(prefix="meadow-overlay-") as work:
        bit = Path(work) / "meadow.bit"
        bit.write_bytes(f"emulated {package.design.id}".encode())
        bit.with_suffix(".hwh").write_bytes(package.file("vivado/emulated.hwh").read_bytes())
        yield bit


def emulated(package: Package, fault: str = "", stall: float = STALL) -> Zynq:
    """The driver on an emulated board, with a fault of emulated_board.FAULTS or none."""
    with emulated_overlay(package) as bit:
        return Zynq(package, bit, EmulatedDevice(EmulatedBoard(package, fault)), stall)


def opened(package: Package, fault: str) -> Zynq:
    """The driver on an emulated board, with a fault of emulated_board.FAULTS or none."""
    return emulated(package, fault)
