# SPDX-License-Identifier: Apache-2.0
"""Zynq: a package on a board through pynq.  Loads the overlay, sets clocks, checks ports and memory, starts the
engine and waits for it; fabric.py knows the registers and buffers.py the cache lines.

emulated_pynq.py is a pynq Device whose board is emulated_board.py's, so that this very code runs without hardware.  It has not run
on hardware yet.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import time
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from meadow.machine.errors import DeviceError, ToolMissing
from meadow.machine.package.read import Package
from meadow.machine.registers import BLOCK_BYTES, IDLE, START, engine_registers, offsets
from meadow.runtime.devices.buffers import PAGE, Buffers
from meadow.runtime.devices.control import SLICE, STALL, Control
from meadow.runtime.devices.device import Abilities, Bytes, Counters, Run
from meadow.runtime.devices.fabric import Fabric, claim
from meadow.runtime.devices.interrupt import File, Interrupt

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pynq warns of boards that it does not see
        import pynq
        from pynq.interrupt import get_uio_irq
    from pynq.pl_server.embedded_device import EmbeddedDevice
except ImportError as missing:
    raise ToolMissing(
        f"the device needs {missing.name}: pip install 'meadow-fpga[pynq]' (Python 3.10 to 3.12)"
    ) from None

try:
    import pyxrt

    TO_DEVICE = pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE
    FROM_DEVICE = pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE
except (ImportError, AttributeError):  # no board: the emulated one takes words
    TO_DEVICE, FROM_DEVICE = "to device", "from device"
CLOCK_SLACK = 1.001
LOCK = 1e-3
"""Seconds in which an MMCM follows another clock: 0.1 ms at most (DS925)."""
SPARE = 4 << 20
"""Bytes beside the package's own: the table of chunks, programs and patterns of the self-test."""


class Zynq:
    """The engine of a board.  Implements Device.

    package  a package; its overlay is overlay/meadow.bit unless `bitstream` says otherwise
    device   a pynq Device; the board's own when None
    stall    seconds without progress after which a run is given up
    Raises DeviceError when the fabric, its clocks, ports or memory are not what the package needs.
    """

    name = "pynq"
    emulated = False
    shares_memory = False

    def __init__(self, package: Package, bitstream: Path | None = None, device: Any = None, stall: float = STALL):
        self.package = package
        self.abilities = Abilities(cycles=self.cycles, beside=True)
        self._closed = True  # until there is something to close
        file = bitstream or package.folder / "overlay" / "meadow.bit"
        if not file.is_file():
            raise DeviceError(
                f"{package.folder} has no bitstream ({file.name} in {file.parent}); build one with: meadowc build {package.folder}, "
                "or run on an emulated board: --device emulated-pynq"
            )
        self.device = device if device is not None else _board()
        self.emulated = bool(getattr(self.device, "emulated", False))
        target = self.device  # and not self, which could never be dropped then
        self.buffers = Buffers(
            lambda length: pynq.allocate((length,), np.uint8, target=target, cacheable=1),
            sync,
            self.abilities.operations,
        )
        self.registers: dict[str, int] = {}
        self.name = "emulated-pynq" if self.emulated else "pynq"
        self._lock = claim(str(getattr(self.device, "tag", "board")), str(package.folder))
        self._closed = False
        atexit.register(_close, weakref.ref(self))
        try:
            self._quiet(stall)
            self.overlay = self._load(file)
            blocks = package.manifest["hardware"]["blocks"]
            self.fabric = Fabric(
                package,
                {name: pynq.MMIO(int(at), BLOCK_BYTES, device=self.device) for name, at in blocks.items()},
                self.abilities.operations,
            )
            self.registers = self._offsets()
            self.control = Control(self.fabric, self.registers, stall)
            self.fabric.check_identity()
            self._set_clocks()
            self._check_widths()
            self._check_memory()
            self.control.interrupt = self._open_interrupt()
        except BaseException:
            self.close()
            raise

    # -- the fabric ------------------------------------------------------------------------------------------------

    def _load(self, file: Path) -> Any:
        """Download the overlay.  pynq's clocks remember the first device they met, so they are given this one."""
        pynq.Device.active_device = self.device
        if hasattr(pynq.Clocks, "set_device"):  # before 3.1 there was one device
            pynq.Clocks.set_device(self.device)
        if hasattr(pynq.Clocks, "_real_instance"):
            del pynq.Clocks._real_instance
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of clocks that are only near: _set_clocks reads them back
                overlay = pynq.Overlay(str(file), device=self.device)
        except PermissionError as error:
            raise DeviceError(
                f"loading {file.name} needs root ({error}); run as root, as PYNQ's notebooks do"
            ) from None
        except Exception as error:  # pynq raises what its parsers and drivers raise
            raise DeviceError(
                f"pynq {pynq.__version__} could not load {file}: {type(error).__name__}: {error}"
            ) from None
        # Without board files Vivado may have mapped the lower half of the DRAM alone.
        self.buffers.limit = 1 << 40 if "DDR_HIGH" in file.with_suffix(".hwh").read_text(errors="replace") else 1 << 31
        self._check_sources(file)
        missing = [name for name in self.package.manifest["hardware"]["blocks"] if name not in overlay.ip_dict]
        if missing:
            raise DeviceError(f"{file} has no {', '.join(missing)}: it is not an overlay of this package")
        for name, at in self.package.manifest["hardware"]["blocks"].items():
            found = int(overlay.ip_dict[name]["phys_addr"])
            if found != at:
                raise DeviceError(f"{name} is at {found:#x} in {file.name}, the package says {at:#x}; build again")
        return overlay

    def _quiet(self, stall: float) -> None:
        """End what the engine that is in the fabric still runs, for example one of a process that was killed.

        Raises DeviceError when it does not end: loading the fabric over reads that are under way can stop the processor's port.
        """
        try:
            known = self.device.ip_dict["meadow_engine"]
        except (AttributeError, KeyError, TypeError, RuntimeError):
            return  # nothing is loaded, or something else
        engine = pynq.MMIO(int(known["phys_addr"]), BLOCK_BYTES, device=self.device)
        if engine.read(0) & (START | IDLE) == IDLE:
            return
        told = (known.get("registers") or {}).get("abort")
        if told:
            engine.write(told["address_offset"], 1)
        ends = time.monotonic() + stall
        while engine.read(0) & (START | IDLE) != IDLE:
            if time.monotonic() > ends:
                raise DeviceError(
                    "the engine in the fabric still runs, and does not end; loading over it can stop the processor's memory port. "
                    "Switch the board off and on"
                )
            time.sleep(SLICE)

    def _check_sources(self, file: Path) -> None:
        """Say when the bitstream was made of other sources than the package's, though of the same design."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            built = json.loads(file.with_name("reports.json").read_text())["hardware_digest"]
            if built != self.package.manifest["hardware_digest"]:
                self.abilities.notes.append(
                    "the bitstream was built from other sources of this design; selftest tells whether it still agrees"
                )

    def _offsets(self) -> dict[str, int]:
        """Offsets of the engine's registers: as the overlay's metadata names them, else by the table of the package."""
        wanted = offsets(engine_registers(self.package.design))
        told = self.overlay.ip_dict["meadow_engine"].get("registers") or {}
        found = {name: told[key]["address_offset"] for name in wanted for key in (name, f"{name}_1") if key in told}
        moved = [f"{name} at {at:#x}, not {wanted[name]:#x}" for name, at in found.items() if at != wanted[name]]
        if moved:
            self.abilities.notes.append(f"registers lie where the overlay says: {', '.join(moved)}")
        return {**wanted, **found}

    def _set_clocks(self) -> None:
        """Read the clock that the fabric's MMCM multiplies, and lower it where it runs faster than the bitstream was built for: never
        raise it.  The engines' clocks keep their ratio to it."""
        hardware, clocks = self.package.manifest["hardware"], self.abilities.clocks_mhz
        wanted = float(hardware["source_mhz"])
        built = (getattr(self.overlay, "clock_dict", None) or {}).get(0, {}).get("frequency")
        ceiling = min(wanted, float(built)) if built else wanted
        found, asked = self._clock(), ceiling
        while found > ceiling * CLOCK_SLACK:
            if asked < ceiling / 2:
                raise DeviceError(f"PL clock 0 runs at {found} MHz and cannot be set to {ceiling:g} MHz or less")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is read back below
                pynq.Clocks.fclk0_mhz = asked
            time.sleep(LOCK)  # until the MMCM has the new clock the fabric answers nothing
            self.abilities.operations["clocks set"] += 1
            found, asked = self._clock(), asked - ceiling / 100  # the nearest was above
        clocks[:] = [round(found * mhz / wanted, 3) for mhz in hardware["clocks_mhz"]]
        if found < wanted * 0.999:
            self.abilities.notes.append(
                f"PL clock 0 is {found:g} MHz and not {wanted:g}, so the engine runs at {clocks[0]:g} MHz, not {hardware['clocks_mhz'][0]}"
            )

    def _clock(self) -> float:
        """MHz of PL clock 0, from its divider and its PLL.  Raises DeviceError for a pynq that cannot tell."""
        try:
            return float(pynq.Clocks.fclk0_mhz)
        except (TypeError, AttributeError):
            raise DeviceError(
                f"pynq {pynq.__version__} does not tell the clocks of this board; install a newer one"
            ) from None

    def _open_interrupt(self) -> Interrupt | None:
        """The end of a run as the kernel tells it; None, and a note, where it does not."""
        number = int(self.package.manifest["hardware"]["interrupt"])
        opened = getattr(self.device, "open_interrupt", _uio)
        try:
            return Interrupt(opened(number), self.fabric, self.registers)
        except OSError as error:
            self.abilities.notes.append(
                f"the engine is looked at until it has ended, for its interrupt cannot be waited for ({error}); PYNQ's images have a UIO device for it"
            )
            return None

    def _check_widths(self) -> None:
        """Memory ports must be 128 bits wide: at 32 or 64 every second word is wrong (AR 66295)."""
        narrow = []
        for port, address in self.package.manifest["hardware"]["widths"].items():
            registers = pynq.MMIO(int(address), 0x1000, device=self.device)
            for offset in (0x0, 0x14):
                self.abilities.operations["register reads"] += 1
                code = int(registers.read(offset)) & 3
                if code:
                    narrow.append(f"{port} ({'reads' if offset == 0 else 'writes'}: {128 >> code} bits)")
        if narrow:
            raise DeviceError(
                f"memory ports are not 128 bits wide: {', '.join(narrow)}. The overlay's .hwh sets them when pynq loads "
                "it; use the .hwh that was built with this .bit"
            )

    def _check_memory(self) -> None:
        needed = sum(-(-c.length // PAGE) * PAGE for c in self.package.chunks) + SPARE
        total, free = self._contiguous()
        if total and free < needed:
            grown = -(-(total + needed - free) // (64 << 20)) * 64
            raise DeviceError(
                f"the package needs {needed >> 20} MB of contiguous memory, {free >> 20} MB of {total >> 20} MB are free. "
                f"Close what holds it (another Session, a kernel), or add cma={grown}M to the kernel's boot arguments"
            )

    def _contiguous(self) -> tuple[int, int]:
        """Bytes of contiguous memory, in all and free; zeros where nothing tells."""
        if bool(getattr(self.device, "emulated", False)):
            return self.device.board.meminfo()
        found = {}
        with contextlib.suppress(OSError, ValueError):
            for line in Path("/proc/meminfo").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in ("CmaTotal", "CmaFree"):
                    found[name] = int(rest.split()[0]) << 10
        return found.get("CmaTotal", 0), found.get("CmaFree", 0)

    # -- memory ----------------------------------------------------------------------------------------------------

    def alloc(self, length: int) -> int:
        return self.buffers.alloc(length)

    def write(self, address: int, data: Bytes) -> None:
        self.control.settle()  # while a run goes on its memory is the engine's
        self.buffers.write(address, data)

    def read(self, address: int, length: int) -> Bytes:
        self.control.settle()
        return self.buffers.read(address, length)

    def peek(self, address: int, length: int) -> Bytes:
        return self.buffers.read(address, length)

    # -- runs ------------------------------------------------------------------------------------------------------

    def start(self, run: Run) -> None:
        self.control.settle()
        self.buffers.hand_over()
        self.control.start(run)

    def wait(self, timeout: float | None = None) -> None:
        self.control.wait(timeout)

    def ended(self) -> bool:
        return self.control.ended()

    def stop(self) -> None:
        self.control.settle()

    def state(self) -> str:
        """Where the engine is, in words: for errors and people."""
        return self.control.state()

    def cycles(self) -> int:
        """The engine's clock since the bitstream was loaded."""
        return self.fabric.cycles()

    @property
    def counters(self) -> Counters:
        """Counts of registers and buffers are in `abilities.operations`; the fabric counts no bytes."""
        return Counters(seconds=self.control.seconds, runs=self.control.runs)

    def close(self) -> None:
        """Give memory and fabric back.  Safe to call twice; called when nobody holds the device and when the interpreter ends.

        While the engine runs its memory is not given back: it would write into what is somebody else's then.
        """
        if self._closed:
            return
        self._closed = True
        if self.registers and not self.control.settled():
            warnings.warn(
                "the engine still runs; its memory is kept until this process ends", ResourceWarning, stacklevel=2
            )
        else:
            self.buffers.close()
        if self.registers and self.control.interrupt is not None:
            self.control.interrupt.close()
        self._lock.close()
        if self.emulated:  # a board of its own, which nobody else can want
            Path(self._lock.name).unlink(missing_ok=True)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()


def sync(memory: Any, begin: int, end: int, to_device: bool) -> None:
    """Move the cache lines [begin, end) of a PynqBuffer.  By XRT's own call, since pynq's flush and invalidate move the whole buffer
    whatever view they are asked of."""
    try:
        memory.bo.sync(TO_DEVICE if to_device else FROM_DEVICE, end - begin, begin)
    except (AttributeError, TypeError):  # a pynq whose buffers have no XRT behind them
        view = memory[begin:end]
        view.flush() if to_device else view.invalidate()


def _uio(number: int) -> File:
    """The kernel's file of an interrupt line.  Raises OSError where it has none."""
    path = get_uio_irq(number)
    if path is None:
        raise FileNotFoundError(f"no UIO device has interrupt {number}")
    return Path(path).open("r+b", buffering=0)


def _close(reference: weakref.ref[Zynq]) -> None:
    if (device := reference()) is not None:
        device.close()


def _board() -> Any:
    """The board's own device."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an XRT that is not there, which is said below
            found = [d for d in pynq.Device.devices if isinstance(d, EmbeddedDevice)]
    except Exception as error:  # pynq raises what its drivers raise
        raise DeviceError(f"pynq found no board: {error}") from None
    if not found:
        raise DeviceError("pynq found no board here; run on the board, or use --device emulated-pynq")
    return found[0]


def opened(package: Package, fault: str) -> Zynq:
    """The board that this runs on; its faults are its own."""
    return Zynq(package)
