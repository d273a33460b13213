# SPDX-License-Identifier: Apache-2.0
"""Interrupts anywhere, several threads, damaged memory: the next prompt is right, or there is a sentence; never a wrong digest."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from meadow.machine.errors import DeviceError, UsageError
from meadow.runtime.devices import csim_engine
from meadow.runtime.devices.csim import CSim
from meadow.runtime.devices.device import Run
from meadow.runtime.session import Session

PROMPT = [5, 9, 200, 31, 7, 44, 18]
DEVICES = [
    "emulator",
    pytest.param("csim", marks=pytest.mark.csim),
    pytest.param("emulated-pynq", marks=pytest.mark.csim),
]
RUNTIME = str(Path(csim_engine.__file__).parent)


def answer(session: Session) -> str:
    session.reset()
    session.prefill(PROMPT)
    session.step(3)
    return session.digest


@contextmanager
def interrupt_at_line(count: int) -> Iterator[list[int]]:
    """KeyboardInterrupt at the `count`th line of the runtime that this thread runs; yields [lines seen]."""
    seen = [0]

    def trace(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(RUNTIME):
            return None
        if event == "line":
            seen[0] += 1
            if seen[0] == count:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("device", DEVICES)
def test_an_interrupt_at_any_line_leaves_the_next_prompt_right(device: str, tiny_package: Path) -> None:
    """Every line from the embedding to the logits of a run, and a second interrupt while the first is waited for."""
    with Session(tiny_package, device) as session:
        wanted = answer(session)
        with interrupt_at_line(1 << 30) as seen:
            answer(session)
        lines, random_ = seen[0], random.Random(1)
        step = 1 if lines < 500 else lines // 250
        for count in range(1, lines, step):
            try:
                with interrupt_at_line(count):
                    answer(session)
            except KeyboardInterrupt:
                pass
            if random_.random() < 0.3:
                try:
                    with interrupt_at_line(random_.randint(1, lines)):
                        answer(session)
                except KeyboardInterrupt:
                    pass
            assert answer(session) == wanted, f"after an interrupt at line {count} of {lines}"


@pytest.mark.parametrize("device", DEVICES)
def test_interrupts_at_random_times_leave_the_next_prompt_right(device: str, tiny_package: Path) -> None:
    random_ = random.Random(2)

    def ring(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with Session(tiny_package, device) as session:
            wanted = answer(session)
            for _ in range(60):
                try:
                    signal.setitimer(signal.ITIMER_REAL, random_.uniform(1e-4, 0.03))
                    for _ in range(100):  # until it rings
                        answer(session)
                except KeyboardInterrupt:
                    pass
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                assert answer(session) == wanted
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.csim
@pytest.mark.parametrize("device", ["csim", "emulated-pynq"])
def test_nothing_is_written_while_a_run_is_under_way(device: str, tiny_package: Path) -> None:
    """An interrupt between start and wait leaves a run behind; the next write waits for it."""
    with Session(tiny_package, device) as session:
        wanted = answer(session)
        engine = session.device.engine if isinstance(session.device, CSim) else session.device.device.board.engine  # type: ignore[attr-defined]
        real = session.device.wait

        def interrupted(timeout: float | None = None) -> None:
            raise KeyboardInterrupt

        session.reset()
        os.kill(engine.process.pid, signal.SIGSTOP)  # a run that takes its time
        session.device.wait = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            session.prefill(PROMPT)
        session.device.wait = real  # type: ignore[method-assign]
        threading.Timer(0.3, os.kill, (engine.process.pid, signal.SIGCONT)).start()
        began = time.monotonic()
        session.device.write(session.loaded.at("x"), np.zeros(16, np.uint8))
        assert time.monotonic() - began > 0.25, "the write waited for the end of the run"
        assert not engine.busy and answer(session) == wanted


def test_a_second_thread_is_refused_and_never_mixed_in(tiny_package: Path) -> None:
    with Session(tiny_package) as session:
        wanted = answer(session)
        wrong: list[str] = []
        told: list[str] = []

        def talk() -> None:
            for _ in range(10):
                try:
                    found = answer(session)
                except UsageError as error:
                    told.append(str(error))
                else:
                    if found != wanted:
                        wrong.append(found)

        threads = [threading.Thread(target=talk) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert all("another thread began the conversation" in text for text in told)


def test_streams_of_several_threads_are_whole_or_end_with_a_sentence(tiny_package: Path) -> None:
    with Session(tiny_package) as session:
        wanted = "".join(session.stream("The", 6, raw=True))
        found: list[str] = []

        def talk() -> None:
            for _ in range(5):
                try:
                    found.append("".join(session.stream("The", 6, raw=True)))
                except UsageError as error:
                    assert "another conversation began" in str(error)

        threads = [threading.Thread(target=talk) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found and set(found) == {wanted}


def test_a_generator_may_be_asked_from_another_thread(tiny_package: Path) -> None:
    """As servers do, which hand an iterator from worker to worker."""
    with Session(tiny_package) as session:
        wanted = list(session.generate(PROMPT, 5))
        session.reset()
        answer_, found = session.generate(PROMPT, 5), []
        for _ in range(5):
            thread = threading.Thread(target=lambda: found.append(next(answer_)))
            thread.start()
            thread.join()
        assert found == wanted


@pytest.mark.csim
def test_a_simulation_that_dies_is_a_sentence(tiny_package: Path) -> None:
    session = Session(tiny_package, "csim")
    assert isinstance(session.device, CSim)
    answer(session)
    os.kill(session.device.engine.process.pid, signal.SIGSEGV)
    with pytest.raises(DeviceError, match=r"died by signal 11 \(SIGSEGV\)"):
        answer(session)
    session.close()
    session.close()


@pytest.mark.csim
def test_a_simulation_that_does_not_end_is_given_up_after_the_timeout(tiny_package: Path) -> None:
    with Session(tiny_package, "csim") as session:
        assert isinstance(session.device, CSim)
        os.kill(session.device.engine.process.pid, signal.SIGSTOP)
        session.device.start(
            Run(session.loaded.programs["decode"], session.loaded.bases, len(session.loaded.addresses), 0, 1, 0)
        )
        with pytest.raises(DeviceError, match="did not end within 0.2 s"):
            session.device.wait(0.2)
        os.kill(session.device.engine.process.pid, signal.SIGCONT)
        session.device.wait(10)


@pytest.mark.csim
def test_simulations_end_with_their_session(tiny_package: Path) -> None:
    session = Session(tiny_package, "csim")
    assert isinstance(session.device, CSim)
    process = session.device.engine.process
    assert process.poll() is None
    session.close()
    assert process.poll() is not None


@pytest.mark.csim
@pytest.mark.parametrize("fault", ["corrupted-weights", "stale-lines"])
def test_memory_that_differs_from_the_package_is_found_before_the_first_token(fault: str, tiny_package: Path) -> None:
    with pytest.raises(DeviceError, match=r"memory differs from what was written there, in \d+ of \d+ bytes"):
        Session(tiny_package, "emulated-pynq", fault=fault)
    with Session(tiny_package, "emulated-pynq", fault=fault, check=False) as session:  # as the self-test opens it
        assert session.position == 0
