# SPDX-License-Identifier: Apache-2.0
"""Which device a name stands for.  Each is one file with a function `opened`, which is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from meadow.machine.errors import UsageError
from meadow.machine.package.read import Package
from meadow.runtime.devices.device import Device

FILES = {"emulator": "emulator", "csim": "csim", "emulated-pynq": "emulated_pynq", "pynq": "zynq"}
"""The file of each device in this folder.  `opened(package, fault)` in it returns the Device."""
DEVICES = ("auto", *FILES)
FAULTY = ("emulated-pynq",)
"""Devices into which a fault can be injected."""
FPGA_MANAGER = Path("/sys/class/fpga_manager/fpga0")


def open_device(name: str, package: Package, fault: str = "") -> Device:
    """The device called `name`; `fault` is injected into an emulated board (emulated_board.FAULTS).

    auto is the board where there is one and the package has its bitstream, else the emulator: it needs nothing installed and
    gives the board's bits.
    Raises UsageError for another name, ToolMissing and DeviceError where the device cannot be opened.
    """
    if name not in DEVICES:
        raise UsageError(f"device {name!r} is not known; known are {', '.join(DEVICES)}")
    if fault and name not in FAULTY:
        raise UsageError(f"faults are injected into the device {', '.join(FAULTY)}, not into {name}")
    if name == "auto":
        on_board = FPGA_MANAGER.exists() and (package.folder / "overlay" / "meadow.bit").is_file()
        name = "pynq" if on_board else "emulator"
    made: Device = import_module(f"meadow.runtime.devices.{FILES[name]}").opened(package, fault)
    return made
