# SPDX-License-Identifier: Apache-2.0
"""Level 2, in what order and from where to where: flat programs of steps over slots of memory.

Before `place` a slot's space is a buffer's name, after it a memory chunk.  The only run-time variables are the
position, the number of tokens and the first token whose logits are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

from meadow.machine.instructions.table import encode, encode_step, fields_of
from meadow.machine.isa import Opcode
from meadow.machine.step import Slot, Step

ALIGN = 4096
CHUNK_LIMIT = 64 << 20
"""Bytes of the largest chunk: contiguous memory is scarce on a board (tensil-ai/tensil#27, ikwzm/udmabuf#98)."""


@dataclass(frozen=True)
class Buffer:
    """Memory that steps refer to by name.

    kind  weights (written once, streamed), constants (written once), kv, activation (lives from its first step to
          its last), pinned (written or read by the host, so alive all the time)
    """

    name: str
    length: int
    kind: str


@dataclass(frozen=True)
class Chunk:
    """One contiguous allocation: its number, what lies in it, its bytes."""

    index: int
    kind: str
    length: int


@dataclass(frozen=True)
class Schedule:
    """The programs `prefill` and `decode`, the buffers they use, and after placing the chunks these lie in.

    dataflow  for each program and layer: "gemm" or "tphs", and why
    """

    programs: dict[str, tuple[Step, ...]]
    buffers: dict[str, Buffer]
    dataflow: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    chunks: tuple[Chunk, ...] = ()
    placed: dict[str, Slot] = field(default_factory=dict)

    def replace(self, **changes: object) -> Schedule:
        return replace(self, **changes)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise ValueError for a step whose fields are not those of its instruction, or a slot outside its memory."""
        sizes = {c.index: c.length for c in self.chunks}
        for program, steps in self.programs.items():
            for step in steps:
                wanted = {f.name: f.kind for f in fields_of(step.opcode)}
                if set(step.operands) != set(wanted):
                    raise ValueError(f"{program} {step.name}: fields {sorted(set(step.operands) ^ set(wanted))}")
                for key, slot in step.slots():
                    limit = sizes.get(slot.space) if isinstance(slot.space, int) else self._length(slot.space)
                    if limit is None or slot.offset < 0 or slot.offset + slot.length > limit:
                        raise ValueError(f"{program} {step.name}: {key} = {slot} lies outside its memory")
        for chunk in self.chunks:
            if chunk.length % ALIGN or (chunk.kind in ("weights", "kv") and chunk.length > CHUNK_LIMIT):
                raise ValueError(f"chunk {chunk.index} of {chunk.length} bytes is not whole pages, or too large")
        if self.placed:
            self._check_overlaps()

    def _length(self, name: str) -> int | None:
        return self.buffers[name].length if name in self.buffers else None

    def _check_overlaps(self) -> None:
        """Nothing that is alive at the same time may overlap (kinds but activation are always alive)."""
        always = [(n, s) for n, s in self.placed.items() if self.buffers[n].kind != "activation"]
        _check_disjoint(always)
        for steps in self.programs.values():
            spans = live_spans(steps, self.buffers)
            pinned = [(n, s) for n, s in always if self.buffers[n].kind == "pinned"]
            for index in range(len(steps)):
                alive = [(n, self.placed[n]) for n, (first, last) in spans.items() if first <= index <= last]
                _check_disjoint(alive + pinned)

    def encode(self, program: str) -> bytes:
        """The bytes of one program, END included."""
        return b"".join(encode_step(step) for step in self.programs[program]) + encode(Opcode.END, {})

    def __str__(self) -> str:
        lines = []
        for chunk in self.chunks:
            lines.append(f"chunk{chunk.index} {chunk.kind} {chunk.length}")
        for name, steps in self.programs.items():
            lines.append(f"program {name}: {len(steps)} steps")
            lines += [f"  {step}" for step in steps]
        return "\n".join(lines) + "\n"


def live_spans(steps: tuple[Step, ...], buffers: dict[str, Buffer]) -> dict[str, tuple[int, int]]:
    """(first, last) step that touches each activation buffer; works before and after placing."""
    spans: dict[str, tuple[int, int]] = {}
    for index, step in enumerate(steps):
        for _, slot in step.slots():
            name = slot.space if isinstance(slot.space, str) else slot.buffer
            if buffers[name].kind == "activation":
                spans[name] = (spans.get(name, (index, index))[0], index)
    return spans


def _check_disjoint(slots: list[tuple[str, Slot]]) -> None:
    ordered = sorted(slots, key=lambda item: (str(item[1].space), item[1].offset))
    for (name, a), (other, b) in pairwise(ordered):
        if a.space == b.space and a.offset + a.length > b.offset:
            raise ValueError(f"{name} at {a} and {other} at {b} overlap while both are alive")
