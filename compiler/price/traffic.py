# SPDX-License-Identifier: Apache-2.0
"""traffic: the DRAM bytes of whole runs, exactly, by port, direction and role.

Each instruction knows its own beats (machine/instructions/); the C simulation counts the same at its ports, and shares no code
with this (`meadowc bench traffic` compares them).  Knows nothing of time; that is cost.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from meadow.machine.design import Design
from meadow.machine.instructions.instruction import ROLES, Beats, Tokens, beats_of
from meadow.machine.instructions.table import TABLE
from meadow.machine.isa import INSTRUCTION_BYTES
from meadow.machine.step import Slot, Step
from meadow.machine.units import BEAT_BYTES


def step_beats(step: Step, design: Design, tokens: Tokens) -> Beats:
    """Beats of one step, its instruction included."""
    moved = TABLE[step.opcode].beats(step, design, tokens)
    moved["constants", "read", "program"] += INSTRUCTION_BYTES // BEAT_BYTES
    return moved


def run_beats(steps: Iterable[Step], design: Design, tokens: Tokens, chunks: int) -> Beats:
    """Beats of a whole program run, with its END and the table of `chunks` chunks."""
    moved: Beats = Counter()
    for step in steps:
        moved += step_beats(step, design, tokens)
    moved["constants", "read", "program"] += INSTRUCTION_BYTES // BEAT_BYTES + beats_of(chunks, 2)
    return moved


def blocks(tokens: int, block: int) -> list[Tokens]:
    """The runs that serve a prompt: only the last gives logits, one row."""
    starts = range(0, tokens, block)
    return [Tokens(min(block, tokens - start), start, int(start == starts[-1])) for start in starts]


def prompts_beats(steps: Iterable[Step], design: Design, lengths: Sequence[int], chunks: int) -> list[Beats]:
    """Beats of prompts of several lengths, served block after block; the last block gives one row of logits.  Steps that are alike are
    counted once."""
    alike: dict[tuple[object, ...], list[Step]] = {}
    for step in steps:
        alike.setdefault(step_key(step), []).append(step)
    return [_prompt_beats(list(alike.values()), design, tokens, chunks) for tokens in lengths]


def _prompt_beats(alike: list[list[Step]], design: Design, tokens: int, chunks: int) -> Beats:
    moved: Beats = Counter()
    for some in blocks(tokens, design.block):
        moved += run_beats((), design, some, chunks)
        for group in alike:
            for what, n in step_beats(group[0], design, some).items():
                moved[what] += n * len(group)
    return moved


def step_key(step: Step) -> tuple[object, ...]:
    """What two steps have alike that move and cost the same."""
    streams = tuple(s.length for n in range(4) if isinstance(s := step.operands.get(f"weights{n}"), Slot))
    return (step.opcode, tuple(sorted(step.numbers.items())), streams)


def by_role(moved: Beats) -> dict[str, int]:
    """Bytes of each role, both directions."""
    found = dict.fromkeys(ROLES, 0)
    for (_, _, role), beats in moved.items():
        found[role] += beats * BEAT_BYTES
    return found
