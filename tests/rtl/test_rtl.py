# SPDX-License-Identifier: Apache-2.0
"""The Verilog under cocotb and Icarus.  `make rtl` runs these alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rtl.simulator import simulate

pytestmark = pytest.mark.rtl


def test_the_prefix_decoder_gives_the_weights_back_at_the_rate_of_the_bus(tmp_path: Path) -> None:
    simulate("prefix_unpack", "bench_prefix_unpack", tmp_path, ["prefix_lane.v", "prefix_unpack.v"])


def test_the_prefix_decoder_gives_a_compiled_model_back(tiny_package: Path, tmp_path: Path) -> None:
    """Rung 4: the same weights as the emulator and the C simulation.  MEADOW_PACKAGE takes another package."""
    package = os.environ.get("MEADOW_PACKAGE", str(tiny_package))
    simulate("prefix_unpack", "bench_prefix_model", tmp_path, ["prefix_lane.v", "prefix_unpack.v"],
             environment={"MEADOW_PACKAGE": package})  # fmt: skip
