# SPDX-License-Identifier: Apache-2.0
"""bench traffic: the DRAM bytes that the schedule predicts beside those that the C simulation counts at its ports.

The prediction (compiler/price/traffic.py) reads the program's steps; the count (hls/sim/traffic.hpp) is made at each access.
They share no code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from meadow.machine.engines.table import engine_of
from meadow.machine.instructions.instruction import ROLES, Beats, Fields, Operands, Tokens
from meadow.machine.package.read import Package
from meadow.machine.step import Step
from meadow.machine.units import BEAT_BYTES
from meadow.runtime.devices.emulator import Emulator
from meadow.runtime.session import Session


def measure(
    package: Package, dataflow: str, prompts: list[int], progress: Any = lambda what: None
) -> list[dict[str, Any]]:
    """A row for the prefill of each prompt, and one for the token after it."""
    rows = []
    with Session(package.folder, "csim") as session, live_columns(package) as follow:
        vocabulary = int(package.model["vocab"])
        for length in prompts:
            progress(f"{dataflow}, {length} tokens")
            session.reset()
            follow.reset()
            for phase, tokens in (("prefill", length), ("decode", 1)):
                position = session.position
                before = session.device.counters
                prompt = [(7 * i + 11) % vocabulary for i in range(length)]
                if phase == "prefill":
                    session.prefill(prompt)
                else:
                    session.step(7 % vocabulary)
                live = follow.prefill(prompt) if phase == "prefill" else follow.step(7 % vocabulary)
                after = session.device.counters
                counted = {name: n - before.bytes[name] for name, n in after.bytes.items() if n != before.bytes[name]}
                predicted = predict(package, phase, position, tokens, live)
                rows.append(
                    {
                        "dataflow": dataflow,
                        "prompt": length,
                        "phase": phase,
                        "predicted_bytes": sum(predicted.values()),
                        "counted_bytes": sum(counted.values()),
                        "equal": predicted == counted,
                        "intermediate_bytes": _role(counted, "intermediates"),
                        "by_role": {role: _role(counted, role) for role in ROLES},
                        "bursts": sum(after.bursts.values()) - sum(before.bursts.values()),
                        **_loops(
                            package,
                            phase,
                            position,
                            tokens,
                            live,
                            {
                                k: (n - before.cycles[k], after.entries[k] - before.entries[k])
                                for k, n in after.cycles.items()
                            },
                        ),
                    }
                )
    return rows


class Follower:
    """The emulator on the same tokens: it knows the codes, and so the columns that are live.  Where a package reads all columns it
    does nothing."""

    def __init__(self, session: Session | None):
        self.session = session

    def reset(self) -> None:
        if self.session is not None:
            self.session.reset()

    def prefill(self, tokens: list[int]) -> list[int]:
        """Groups of columns of each step that reads live ones alone, in the order in which they run."""
        return self._seen(lambda session: session.prefill(tokens))

    def step(self, token: int) -> list[int]:
        """The same of a decoded token."""
        return self._seen(lambda session: session.step(token))

    def _seen(self, run: Callable[[Session], object]) -> list[int]:
        if self.session is None:
            return []
        assert isinstance(self.session.device, Emulator)
        found: list[int] = []
        self.session.device.live = found
        run(self.session)
        return found


@contextmanager
def live_columns(package: Package) -> Iterator[Follower]:
    """A Follower of a package."""
    if not any(reads_live_columns(step) for step in package.steps("decode")):
        yield Follower(None)
        return
    with Session(package.folder, "emulator") as session:
        yield Follower(session)


def reads_live_columns(step: Step) -> bool:
    """Whether a step leaves out columns whose code is 0."""
    return "format" in step.numbers and is_live(step.numbers)


def is_live(o: Fields | Operands) -> bool:
    """The same of an instruction's fields."""
    word = int(o["format"])
    return engine_of(word).stored_word(word) != word


def informed(steps: tuple[Step, ...], live: Iterator[int]) -> tuple[Step, ...]:
    """The steps with the groups of columns that they read, where only live ones are."""
    return tuple(replace(s, operands={**s.operands, "live": next(live)}) if reads_live_columns(s) else s for s in steps)


def _loops(
    package: Package, program: str, position: int, tokens: int, live: list[int], counted: dict[str, tuple[int, int]]
) -> dict[str, Any]:
    """Iterations and entries of the pipelined loops, predicted and counted; unpacking prefix codes depends on the codes and is only counted."""
    predicted = predict_loops(package, program, position, tokens, live)
    same = all(counted[loop] == n for loop, n in predicted.items())
    return {"predicted_cycles": predicted, "counted_cycles": counted, "cycles_equal": same}


def _runs(package: Package, program: str, position: int, tokens: int) -> list[tuple[tuple[Step, ...], Tokens]]:
    """The program runs of a prompt or a token; a block of one token is run by the program of decode."""
    from meadow.compiler.price.traffic import blocks

    some = blocks(tokens, package.design.block if program == "prefill" else 1)
    steps = {name: package.steps(name) for name in package.entries}
    return [
        (steps["decode" if one.count == 1 else "prefill"], replace(one, position=position + one.position))
        for one in some
    ]


def predict_loops(
    package: Package, program: str, position: int, tokens: int, live: Sequence[int] = ()
) -> dict[str, tuple[int, int]]:
    """The sum over the steps of all blocks.  A loop that some step cannot predict is left out."""
    from meadow.compiler.price.cost import step_loops

    total: dict[str, tuple[int, int]] = {}
    unknown: set[str] = set()
    groups = iter(live)
    for steps, some in _runs(package, program, position, tokens):
        for step in informed(steps, groups) if live else steps:
            found = step_loops(step, package.design, some)
            for loop, n in found.items():
                had = total.get(loop, (0, 0))
                total[loop] = (had[0] + n.iterations, had[1] + n.entries)
            if "fetch" in found and "unpack" not in found:
                unknown.add("unpack")
    return {loop: n for loop, n in total.items() if loop not in unknown}


def predict(package: Package, program: str, position: int, tokens: int, live: Sequence[int] = ()) -> dict[str, int]:
    """`live`: groups of columns of the steps that read live ones alone; without it all are counted.  Bytes by "PORT.ROLE.read" or ".written": a prompt from the start, or tokens of one run after `position`."""
    from meadow.compiler.price.traffic import run_beats

    beats: Beats = Counter()
    groups = iter(live)
    for steps, some in _runs(package, program, position, tokens):
        beats += run_beats(informed(steps, groups) if live else steps, package.design, some, len(package.chunks))
    return {f"{port}.{role}.{way}": n * BEAT_BYTES for (port, way, role), n in beats.items() if n}


def _role(counted: dict[str, int], role: str) -> int:
    return sum(n for name, n in counted.items() if name.split(".")[1] == role)
