# SPDX-License-Identifier: Apache-2.0
"""Boards: parts, memories, ports and clocks, each a TOML file.  A new board is a file, never a branch.

Knows nothing of designs; fit.py decides what to build on a board.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from meadow.boards import clocks
from meadow.machine.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Board:
    """One board.

    bandwidth_gb_s  peak of the processor's DRAM, in 10^9 bytes per second
    ddr_bytes       the processor's DRAM; what passes 2 GB lies at 0x8_0000_0000
    dram_bytes      what of it the model may use, after the operating system
    ports           names of the 128-bit slave ports, in the order in which designs take them
    clock_mhz       fabric clock that designs for this board assume (not closed by us); clocks.py says which are made exactly
    board_part      wildcard of its board files in Vivado; "" when there are none
    image           PYNQ image: "official", "installer" (a script on Ubuntu) or "none"
    pynq            where the image comes from
    pacq_clock_mhz  clock that designs assume for pacq_gemv; clock_mhz where the file does not say
    """

    name: str
    title: str
    part: str
    lut: int
    ff: int
    dsp: int
    bram36: int
    uram: int
    bandwidth_gb_s: float
    ddr_bytes: int
    dram_bytes: int
    ports: tuple[str, ...]
    port_bits: int
    clock_mhz: int
    board_part: str
    image: str
    pynq: str
    pacq_clock_mhz: int


FIELDS = {
    "name": str,
    "title": str,
    "part": str,
    "lut": int,
    "ff": int,
    "dsp": int,
    "bram36": int,
    "uram": int,
    "bandwidth_gb_s": float,
    "ddr_bytes": int,
    "dram_bytes": int,
    "ports": list,
    "port_bits": int,
    "clock_mhz": int,
    "board_part": str,
    "image": str,
    "pynq": str,
    "pacq_clock_mhz": int,
}


PORTS = ("HP0", "HP1", "HP2", "HP3", "HPC0", "HPC1")
"""Memory ports of the processor that a design can take (UG1085, chapter 35)."""
IMAGES = ("official", "installer", "none")
MAY_BE_ZERO = {"uram"}
LARGEST = {"clock_mhz": 600, "pacq_clock_mhz": 600, "bandwidth_gb_s": 2000, "port_bits": 1024}
"""Larger values are rejected as typing errors."""


def names() -> list[str]:
    """The boards that come with meadow."""
    folder = resources.files("meadow.boards")
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def clock_problems(clock: object, second: object = None, name: str = "pacq_clock_mhz") -> list[str]:
    """What is wrong with the clock of a design, and with that of its second engine beside it, a number of this name: each must be made exactly."""
    if not isinstance(clock, int) or not 1 <= clock <= LARGEST["clock_mhz"]:
        return []  # said elsewhere
    if clocks.mmcm((clock,)) is None:
        return [f"clock_mhz is {clock}, which no MMCM makes of {clocks.SOURCE_MHZ} MHz; 7 and more are possible"]
    if not isinstance(second, int) or not 1 <= second <= LARGEST["pacq_clock_mhz"] or clocks.mmcm((clock, second)):
        return []
    near = clocks.nearest(second, (clock,))
    return [f"{name} is {second}, which no MMCM makes beside {clock} MHz; {near} is the nearest below"]


def load(name: str) -> Board:
    """The board called `name`, or described by the TOML file of that path.  Raises UsageError with all its problems."""
    if name in names():
        text = resources.files("meadow.boards").joinpath(f"{name}.toml").read_text()
    elif name.endswith(".toml") and Path(name).is_file():
        text = Path(name).read_bytes().decode(errors="replace")
    elif name.endswith(".toml"):
        raise UsageError(f"{name} is not there; a board's file, or one of {', '.join(names())}, is expected")
    else:
        raise UsageError(
            f"board {name!r} is not known; known are {', '.join(names())}, or give the path of a .toml file"
        )
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name} is not TOML: {error}") from None
    table.setdefault("pacq_clock_mhz", table.get("clock_mhz"))
    table.setdefault("board_part", "")
    problems = [f"{key} is missing" for key in FIELDS if key not in table]
    problems += [f"{key} is not a known field" for key in table if key not in FIELDS]
    for key, kind in FIELDS.items():
        value = table.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            problems.append(f"{key} is {value!r}, not a {kind.__name__}")
        elif isinstance(value, (int, float)):
            low = 0 if key in MAY_BE_ZERO else 1e-3
            if not low <= float(value) <= LARGEST.get(key, 1 << 40):
                problems.append(f"{key} is {value}, outside of {low:g} to {LARGEST.get(key, 1 << 40):g}")
    if (
        isinstance(table.get("ddr_bytes"), int)
        and isinstance(table.get("dram_bytes"), int)
        and table["dram_bytes"] > table["ddr_bytes"]
    ):
        problems.append(f"dram_bytes is {table['dram_bytes']}, more than ddr_bytes, {table['ddr_bytes']}")
    ports = table.get("ports")
    if isinstance(ports, list) and (
        len(set(map(str, ports))) != len(ports) or len(ports) < 3 or not all(isinstance(p, str) for p in ports)
    ):
        problems.append("ports must be at least three different names")
    elif isinstance(ports, list) and not set(ports) <= set(PORTS):
        problems.append(f"ports are {', '.join(ports)}; {', '.join(PORTS)} are possible")
    if table.get("image") not in (None, *IMAGES):
        problems.append(f"image is {table['image']!r}; {', '.join(IMAGES)} are possible")
    if not re.fullmatch(r"[\w.:*-]*", str(table["board_part"])):
        problems.append(
            f"board_part is {table['board_part']!r}; a wildcard such as xilinx.com:zcu102:part0:* is possible"
        )
    if not re.fullmatch(r"[\w-]+", str(table.get("part", "x"))):
        problems.append(f"part is {table['part']!r}; letters, digits, - and _ are allowed")
    if isinstance(table.get("name"), str) and not re.fullmatch(r"[a-z0-9_]+", table["name"]):
        problems.append(f"name is {table['name']!r}; lower-case letters, digits and _ are allowed")
    problems += clock_problems(table.get("clock_mhz"), table.get("pacq_clock_mhz"))
    if problems:
        raise UsageError(f"board {name}: {'; '.join(problems)}")
    return Board(**{**table, "ports": tuple(table["ports"]), "bandwidth_gb_s": float(table["bandwidth_gb_s"])})
