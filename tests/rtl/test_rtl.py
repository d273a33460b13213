# SPDX-License-Identifier: Apache-2.0
"""The Verilog under cocotb and Icarus.  `make rtl` runs these alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from rtl.simulator import simulate

pytestmark = pytest.mark.rtl


def test_the_prefix_decoder_gives_the_weights_back_at_the_rate_of_the_bus(tmp_path: Path) -> None:
    simulate("prefix_unpack", "bench_prefix_unpack", tmp_path, ["prefix_lane.v", "prefix_unpack.v"])
