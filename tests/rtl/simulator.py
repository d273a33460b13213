# SPDX-License-Identifier: Apache-2.0
"""Runs a cocotb test bench on Verilog under Icarus, from pytest.  Knows no module."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from meadow.compiler.emit.verilog import MODELS, ColumnShape, Shape, top

RTL = Path(__file__).parents[2] / "rtl"


def run_test(
    name: str,
    bench: str,
    work: Path,
    sources: list[str],
    parameters: dict[str, int] | None = None,
    environment: dict[str, str] | None = None,
    folder: Path = RTL,
    test: str | None = None,
) -> int:
    """Build the module `name` of `folder` and run tests/rtl/`bench`.py, or one `test` of it; returns how many failed.

    MEADOW_WAVES=1 keeps the waves of the run in `work` (FST).
    """
    runner = pytest.importorskip("cocotb_tools.runner")
    if shutil.which("iverilog") is None:
        pytest.skip("iverilog is not installed: apt-get install iverilog")
    waves = bool(os.environ.get("MEADOW_WAVES"))
    sim = runner.get_runner("icarus")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sim.build(
        sources=[folder / source for source in [*sources, *MODELS]],
        hdl_toplevel=name,
        build_dir=work,
        parameters=parameters or {},
        build_args=["-Wall", "-Wno-timescale"],
        timescale=("1ns", "1ps"),
        waves=waves,
    )
    try:
        results = sim.test(
            test_module=f"rtl.{bench}",
            hdl_toplevel=name,
            build_dir=work,
            test_dir=work,
            waves=waves,
            extra_env=environment or {},
            test_filter=test,
        )
        total, failed = runner.get_results(results)
    except (SystemExit, RuntimeError):  # the runner ends pytest where a cocotb test fails
        try:
            total, failed = runner.get_results(work / "results.xml")
        except RuntimeError:
            return 1
    assert total > 0, f"{bench} has no test {test or ''}"
    return int(failed)


def simulate(
    name: str,
    bench: str,
    work: Path,
    sources: list[str],
    parameters: dict[str, int] | None = None,
    environment: dict[str, str] | None = None,
) -> None:
    """The same; a failing test fails the pytest test that called."""
    failed = run_test(name, bench, work, sources, parameters, environment)
    assert failed == 0, f"{failed} tests of {bench} failed"


def run_shape(shape: Shape | ColumnShape, work: Path, folder: Path = RTL, test: str | None = None) -> int:
    """The bench of an engine of this shape, through its top with named ports; returns how many tests failed."""
    work.mkdir(exist_ok=True)
    text = work / f"{shape.top}.v"
    text.write_text(top(shape, "0123456789abcdef", "For a test."))
    environment = {f"MEADOW_{name.upper()}": str(value) for name, value in vars(shape).items()}
    return run_test(
        shape.top, f"bench_{shape.module}", work, [*shape.files, str(text)], None, environment, folder, test
    )
