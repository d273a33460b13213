# SPDX-License-Identifier: Apache-2.0
"""Which device a name stands for; each is opened by its own file, which is imported only then."""

from __future__ import annotations

from pathlib import Path

from meadow.machine.errors import UsageError
from meadow.machine.package.read import Package
from meadow.runtime.devices.device import Device

DEVICES = ("auto", "emulator", "csim", "emulated-pynq", "pynq")
FPGA_MANAGER = Path("/sys/class/fpga_manager/fpga0")


def open_device(name: str, package: Package, fault: str = "") -> Device:
    """The device called `name`; `fault` is injected into an emulated board (emulated_board.FAULTS).

    auto is the board where there is one and the package has its bitstream, else the emulator: it needs nothing installed and
    gives the board's bits.
    """
    if name not in DEVICES:
        raise UsageError(f"device {name!r} is not known; known are {', '.join(DEVICES)}")
    if fault and name != "emulated-pynq":
        raise UsageError(f"faults are injected into the device emulated-pynq, not into {name}")
    if name == "auto" and FPGA_MANAGER.exists() and (package.folder / "overlay" / "meadow.bit").is_file():
        name = "pynq"
    if name == "pynq":
        from meadow.runtime.devices.zynq import Zynq

        return Zynq(package)
    if name == "emulated-pynq":
        from meadow.runtime.devices.emulated_pynq import emulated

        return emulated(package, fault)
    if name == "csim":
        from meadow.runtime.devices.csim import CSim

        return CSim(package)
    from meadow.runtime.devices.emulator import Emulator

    return Emulator(package.design)
