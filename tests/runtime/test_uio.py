# SPDX-License-Identifier: Apache-2.0
"""The driver sleeps until the kernel tells that a run has ended; an interrupt that is lost or missing costs time and never a result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from meadow.machine.package.read import load
from meadow.runtime import Session

pytest.importorskip("pynq", reason="no pynq: pip install 'meadow-fpga[pynq]'")
from meadow.runtime.devices import emulated_pynq, zynq
from meadow.runtime.devices.emulated_interrupt import EmulatedInterrupt

pytestmark = pytest.mark.csim
PROMPT = [1, 8, 15, 22, 29, 36, 43]


@pytest.fixture
def board(tiny_package: Path) -> Iterator[zynq.Zynq]:
    made = emulated_pynq.emulated(load(tiny_package))
    yield made
    made.close()


def test_a_run_takes_one_interrupt_and_no_looking(board: zynq.Zynq, tiny_package: Path) -> None:
    with Session(tiny_package, board) as session:
        tokens = list(session.generate(PROMPT, 5))
        runs, counted = board.counters.runs, session.operations
        assert runs == 5 and counted.get("interrupts", 0) <= runs  # a run that ended before the first look needs none
        # CTRL before the start, at the first look and at the end, IP_ISR and ap_return; slow machines look once a slice
        opened = counted["register reads"] - 5 * runs
        assert board.control.interrupt is not None and opened < 80 + 2 * board.counters.seconds / 0.02
    with Session(tiny_package, "emulator") as session:
        assert list(session.generate(PROMPT, 5)) == tokens


def test_an_interrupt_that_is_lost_costs_a_slice(
    board: zynq.Zynq, tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmulatedInterrupt, "fileno", lambda self: self._never)
    with Session(tiny_package, board) as session:
        tokens = list(session.generate(PROMPT, 3))
        assert "interrupts" not in session.operations
    with Session(tiny_package, "emulator") as session:
        assert list(session.generate(PROMPT, 3)) == tokens


def test_interrupts_that_the_engine_does_not_send_are_not_waited_for(board: zynq.Zynq) -> None:
    assert board.control.interrupt is not None
    file = board.control.interrupt.file
    board.fabric.write("meadow_engine", board.registers["GIER"], 0)
    board.control.interrupt.arm()
    assert file.fileno() == file._never  # type: ignore[attr-defined]
    board.fabric.write("meadow_engine", board.registers["GIER"], 1)
    assert file.fileno() != file._never  # type: ignore[attr-defined]


def test_an_old_interrupt_is_cleared_and_a_clear_one_is_left(board: zynq.Zynq) -> None:
    """IP_ISR toggles: writing 1 to a bit that is not set would set it, and the line would never fall."""
    interrupt, status = board.control.interrupt, board.registers["IP_ISR"]
    assert interrupt is not None
    for _ in range(2):
        interrupt.arm()
        assert board.fabric.read("meadow_engine", status) == 0
        board.fabric.write("meadow_engine", status, 1)
        assert board.fabric.read("meadow_engine", status) == 1


def test_without_a_uio_device_the_engine_is_looked_at_and_a_note_says_so(
    tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(emulated_pynq.EmulatedDevice, "open_interrupt")
    board = emulated_pynq.emulated(load(tiny_package))
    try:
        assert board.control.interrupt is None and "interrupt cannot be waited for" in board.abilities.notes[0]
        with Session(tiny_package, board) as session:
            assert len(list(session.generate(PROMPT, 2))) == 2
    finally:
        board.close()
