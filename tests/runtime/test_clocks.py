# SPDX-License-Identifier: Apache-2.0
"""Clocks are what an MMCM makes exactly, or are refused; the driver reads what the board gives and says so."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meadow import boards
from meadow.boards import clocks
from meadow.compiler.pipeline import Options, compile_model
from meadow.machine.errors import UsageError
from meadow.machine.package.read import load

# DS925, "MMCM switching characteristics", the narrowest of all speed grades.
LOWEST_MHZ, HIGHEST_MHZ = 800, 1600


@given(st.tuples(st.integers(1, 600)) | st.tuples(st.integers(1, 600), st.integers(1, 600)))
def test_an_mmcm_makes_what_is_asked_for_exactly_within_its_limits(wanted: tuple[int, ...]) -> None:
    made = clocks.mmcm(wanted)
    if made is None:
        return
    oscillator = 100 * made.multiply / made.input_divider
    assert LOWEST_MHZ <= oscillator <= HIGHEST_MHZ and 1 <= made.input_divider <= 10
    assert tuple(oscillator / by for by in made.divide) == made.clocks_mhz == wanted
    assert (made.divide[0] * 8).denominator == 1 and all(by.denominator == 1 for by in made.divide[1:])
    assert (
        (made.multiply * 8).denominator == 1 and 2 <= made.multiply <= 128 and all(1 <= by <= 128 for by in made.divide)
    )


def test_every_clock_that_settings_of_eighths_reach_is_found() -> None:
    reached = {
        Fraction(100 * multiply, divider * by)
        for divider in range(1, 11)
        for multiply in range(16, 1025)
        if LOWEST_MHZ * 8 * divider <= 100 * multiply <= HIGHEST_MHZ * 8 * divider
        for by in range(8, 1025)
    }
    for mhz in range(1, 601):
        assert (clocks.mmcm((mhz,)) is not None) == (Fraction(mhz) in reached)
    assert clocks.mmcm((200, 300)) == clocks.Mmcm(1, Fraction(12), (Fraction(6), Fraction(4)))
    assert clocks.mmcm((150, 250)) == clocks.Mmcm(1, Fraction(15), (Fraction(10), Fraction(6)))


@pytest.mark.parametrize("name", boards.names())
def test_the_boards_clocks_are_made_exactly(name: str) -> None:
    board = boards.load(name)
    assert clocks.mmcm((board.clock_mhz, board.pacq_clock_mhz)) and not boards.clock_problems(
        board.clock_mhz, board.pacq_clock_mhz
    )


def test_a_clock_that_no_mmcm_makes_is_refused_with_the_nearest(tmp_path: Path, tiny_int4: Path) -> None:
    text = (Path(boards.__file__).parent / "zcu102.toml").read_text().replace("clock_mhz = 200", "clock_mhz = 5")
    (tmp_path / "slow.toml").write_text(text)
    with pytest.raises(UsageError, match="clock_mhz is 5, which no MMCM makes of 100 MHz; 7 and more"):
        boards.load(str(tmp_path / "slow.toml"))
    options = Options(settings=(("block", 16), ("clock_mhz", 233)))
    with pytest.raises(
        UsageError, match="pacq_clock_mhz is 250, which no MMCM makes beside 233 MHz; 233 is the nearest"
    ):
        compile_model(tiny_int4, boards.load("kv260"), tmp_path / "none", options)
    assert not (tmp_path / "none").exists()


@pytest.mark.csim
def test_a_board_whose_pll_is_fast_gets_its_clock_lowered_and_says_what_runs(tiny_package: Path) -> None:
    pytest.importorskip("pynq", reason="no pynq: pip install 'meadow-fpga[pynq]'")
    from meadow.runtime.devices import emulated_board, emulated_processor, emulated_pynq, zynq

    package: Any = load(tiny_package)
    with emulated_pynq.emulated_overlay(package) as bit:
        board = emulated_board.EmulatedBoard(package)
        for base, _, block in board.processor:
            if base == 0xFF5E_0000:
                assert isinstance(block, emulated_processor.Plain)
                block.values |= dict.fromkeys((0x20, 0x24, 0x2C, 0x30, 0x38), 46 << 8)
        device = zynq.Zynq(package, bit, emulated_pynq.EmulatedDevice(board))
    try:
        assert device.abilities.clocks_mhz[0] == pytest.approx(191.67, abs=0.01)
        assert "the engine runs at 191.6" in device.abilities.notes[0] and "not 200" in device.abilities.notes[0]
    finally:
        device.close()
