# SPDX-License-Identifier: Apache-2.0
"""place: every buffer gets an address.  Weights in chunks, the KV cache in chunks, activations by liveness.

Changes no step but for its slots.
"""

from __future__ import annotations

from dataclasses import replace

from meadow.boards import Board
from meadow.machine.errors import ResourceExceeded
from meadow.machine.isa import CHUNK_SHIFT
from meadow.machine.program import ALIGN, CHUNK_LIMIT, Buffer, Chunk, Schedule, live_spans
from meadow.machine.step import NOWHERE, Slot, Step
from meadow.machine.storage.rows import padded

LARGEST_SLOT = 16 << CHUNK_SHIFT
"""Bytes that the beat field of a slot can reach."""


def place(schedule: Schedule, board: Board | None = None) -> Schedule:
    """The schedule with chunks and placed slots.

    Raises ResourceExceeded when the board's memory is too small, or a buffer is larger than a chunk can be.
    """
    chunks: list[Chunk] = [Chunk(0, "program", padded(_program_bytes(schedule), ALIGN))]
    placed: dict[str, Slot] = {}
    for kind in ("weights", "constants", "kv"):
        _fill([b for b in schedule.buffers.values() if b.kind == kind], kind, chunks, placed)
    pinned = [b for b in schedule.buffers.values() if b.kind == "pinned"]
    for buffer in pinned:
        chunks.append(Chunk(len(chunks), "pinned", padded(buffer.length, ALIGN)))
        placed[buffer.name] = Slot(chunks[-1].index, 0, buffer.length, buffer.name)
    _place_activations(schedule, chunks, placed)
    done = schedule.replace(
        programs={name: tuple(_resolve(s, placed) for s in steps) for name, steps in schedule.programs.items()},
        chunks=tuple(chunks),
        placed=placed,
    )
    total = sum(c.length for c in chunks)
    if board is not None and total > board.dram_bytes:
        raise ResourceExceeded(
            f"the model needs {total / 1e6:,.0f} MB of {board.title}'s memory and {board.dram_bytes / 1e6:,.0f} MB are there; "
            f"a shorter context (--set context=...) or a smaller model is needed"
        )
    done.check()
    return done


def _program_bytes(schedule: Schedule) -> int:
    return sum((len(steps) + 1) * 128 for steps in schedule.programs.values())


def _fill(buffers: list[Buffer], kind: str, chunks: list[Chunk], placed: dict[str, Slot]) -> None:
    """Put buffers one after another, each on its own pages, into chunks of at most CHUNK_LIMIT."""
    small = 4096 if kind == "weights" else 64  # scales and tables share pages; streams start on their own
    offset = 0
    for buffer in buffers:
        align = ALIGN if buffer.length >= ALIGN else small if buffer.length > 1024 else 16
        start = padded(offset, align)
        if buffer.length > CHUNK_LIMIT:
            raise ResourceExceeded(
                f"{buffer.name} has {buffer.length / 1e6:,.0f} MB and a chunk at most {CHUNK_LIMIT / 1e6:,.0f} MB; "
                f"lower --set context=..."
            )
        if chunks[-1].kind != kind or start + buffer.length > CHUNK_LIMIT:
            chunks.append(Chunk(len(chunks), kind, 0))
            start = 0
        placed[buffer.name] = Slot(chunks[-1].index, start, buffer.length, buffer.name)
        offset = start + buffer.length
        chunks[-1] = replace(chunks[-1], length=padded(offset, ALIGN))


def _place_activations(schedule: Schedule, chunks: list[Chunk], placed: dict[str, Slot]) -> None:
    """First fit, longest-lived and largest first; both programs use the same memory, never at the same time."""
    index = len(chunks)
    size = 0
    for steps in schedule.programs.values():
        spans = live_spans(steps, schedule.buffers)
        done: list[str] = []
        for name in sorted(spans, key=lambda n: (-schedule.buffers[n].length, spans[n], n)):
            length = padded(schedule.buffers[name].length, 64)
            clashes = sorted(
                (placed[o].offset, placed[o].offset + padded(placed[o].length, 64))
                for o in done
                if spans[o][0] <= spans[name][1] and spans[name][0] <= spans[o][1]
            )
            at = 0
            for start, stop in clashes:
                if at + length <= start:
                    break
                at = max(at, stop)
            placed[name] = Slot(index, at, schedule.buffers[name].length, name)
            size = max(size, at + length)
            done.append(name)
    if size > LARGEST_SLOT:
        raise ResourceExceeded(
            f"the activations need {size / 1e6:,.0f} MB and one chunk can be addressed up to {LARGEST_SLOT / 1e6:,.0f} MB; "
            f"lower --set block=... or context=..., or use --dataflow tphs"
        )
    if size:
        chunks.append(Chunk(index, "activations", padded(size, ALIGN)))


def _resolve(step: Step, placed: dict[str, Slot]) -> Step:
    operands = {
        key: placed[value.space].after(value.offset)
        if isinstance(value, Slot) and isinstance(value.space, str)
        else value
        for key, value in step.operands.items()
    }
    return replace(step, operands={k: (v if v is not NOWHERE else NOWHERE) for k, v in operands.items()})
