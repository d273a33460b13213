# SPDX-License-Identifier: Apache-2.0
"""Whose code is in a package?  The C simulation and co-simulation build what a package holds and run it on this machine.

So C++ and Verilog that this meadow would not emit for the package's design are run only when the user says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from meadow.machine import distribution
from meadow.machine.errors import UsageError
from meadow.machine.package.read import Package

IDENTITY = "rtl/meadow_identity.v"
"""Of the bitstream alone, and of a board: no simulation builds it."""
RUNS_CODE = ("csim", "emulated-pynq")
"""Devices that build and run the C++ of a package."""


def trust_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--trust."""
    return click.option(
        "--trust", is_flag=True, help="Build and run C++ or Verilog of PACKAGE that this meadow did not emit."
    )(command)


def require_trust(package: Package, trust: bool) -> None:
    """Raise UsageError when a package's code is not what this meadow emits for its design, and nobody said that it is trusted."""
    if trust:
        return
    todo = "if you trust whoever made it, add --trust; else compile the model again (seconds)"
    try:
        from meadow.compiler.emit.emit import sources
    except ImportError:  # a board, or a CI job, with the runtime alone
        raise UsageError(
            f"{package.folder}: this installation has no compiler, so it cannot tell whether the package's C++ is meadow's "
            f"own, which would be built and run here; {todo}"
        ) from None
    wanted = sources(package.design, distribution.version())
    found = package.sources("hls") | package.sources("rtl")
    found.pop(IDENTITY, None)
    different = sorted(name for name in wanted.keys() | found.keys() if not _same(found.get(name), wanted.get(name)))
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise UsageError(
            f"{package.folder}: {different[0]}{more} is not what this meadow emits for the design, and would be built and run "
            f"here; {todo}"
        )


def _same(path: Path | None, text: str | None) -> bool:
    return path is not None and text is not None and path.read_bytes() == text.encode()
