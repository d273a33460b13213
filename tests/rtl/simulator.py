# SPDX-License-Identifier: Apache-2.0
"""Runs a cocotb test bench on Verilog under Icarus, from pytest.  Knows no module."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from meadow.compiler.verilog import SOURCES, TOP, Shape, top

RTL = Path(__file__).parents[2] / "rtl"


def simulate(top: str, bench: str, folder: Path, sources: list[str], parameters: dict[str, int] | None = None,
             environment: dict[str, str] | None = None) -> None:  # fmt: skip
    """Build `top` and run every test of tests/rtl/`bench`.py; a failing one fails the pytest test that called.

    MEADOW_WAVES=1 keeps the waves of the run in `folder` (FST).
    """
    runner = pytest.importorskip("cocotb_tools.runner")
    if shutil.which("iverilog") is None:
        pytest.skip("iverilog is not installed: apt-get install iverilog")
    waves = bool(os.environ.get("MEADOW_WAVES"))
    sim = runner.get_runner("icarus")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sim.build(sources=[RTL / name for name in sources], hdl_toplevel=top, build_dir=folder, parameters=parameters or {},
              build_args=["-Wall", "-Wno-timescale"], timescale=("1ns", "1ps"), waves=waves)  # fmt: skip
    results = sim.test(test_module=f"rtl.{bench}", hdl_toplevel=top, build_dir=folder, test_dir=folder, waves=waves,
                       extra_env=environment or {})  # fmt: skip
    total, failed = runner.get_results(results)
    assert total > 0 and failed == 0, f"{failed} of {total} tests of {bench} failed"


def simulate_pacq(shape: Shape, bench: str, folder: Path) -> None:
    """The same for pacq_gemv of a shape, through its top with named ports."""
    (folder / TOP).write_text(top(shape, "0123456789abcdef", "For a test."))
    simulate("pacq_top", bench, folder, [*SOURCES, str(folder / TOP)],
             environment={"MEADOW_PORTS": str(shape.ports), "MEADOW_LANES": str(shape.lanes)})  # fmt: skip
