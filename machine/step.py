# SPDX-License-Identifier: Apache-2.0
"""One step of a program: an instruction whose operands are slots of memory, integers or floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from meadow.machine.isa import Epilogue, Opcode, Value


@dataclass(frozen=True)
class Slot:
    """`length` bytes at byte `offset` of `space`: a buffer's name, or after placing a chunk's number (and the buffer)."""

    space: str | int
    offset: int = 0
    length: int = 0
    buffer: str = ""

    def after(self, skipped: int) -> Slot:
        """The same without its first bytes."""
        return replace(self, offset=self.offset + skipped, length=self.length - skipped)

    def __str__(self) -> str:
        if isinstance(self.space, str):
            return f"%{self.space}" + (f"+{self.offset}" if self.offset else "")
        return f"%{self.buffer}@{self.space}:{self.offset:#x}+{self.length}"


NOWHERE = Slot(0, 0, 0)
"""A field that its step does not use."""


@dataclass(frozen=True)
class Step:
    """One instruction.  Operands are slots, integers or floats, by the names of the instruction's fields.

    role   what the step does, the same words in every layer: q, attend, attend.scores, glu.quantize
    layer  of the decoder; None before the first and after the last
    part   number among the steps that stream one matrix, where it is cut
    """

    role: str
    opcode: Opcode
    operands: Mapping[str, Slot | Value]
    layer: int | None = None
    part: int | None = None

    @property
    def name(self) -> str:
        """For people: l3.q, l3.attend.scores, logits#1."""
        name = self.role if self.layer is None else f"l{self.layer}.{self.role}"
        return name if self.part is None else f"{name}#{self.part}"

    @cached_property
    def numbers(self) -> dict[str, Value]:
        """The operands that are no slots."""
        return {k: v for k, v in self.operands.items() if not isinstance(v, Slot)}

    def slots(self) -> list[tuple[str, Slot]]:
        return [(k, v) for k, v in self.operands.items() if isinstance(v, Slot) and v is not NOWHERE]

    def __str__(self) -> str:
        parts = []
        for key, value in self.operands.items():
            if isinstance(value, Slot):
                if value is not NOWHERE:
                    parts.append(f"{key}={value}")
            elif key == "epilogue":
                parts.append(f"epilogue={Epilogue(int(value)).name}")
            elif value:
                parts.append(f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}")
        return f"{self.opcode.name.lower():9s}{self.name}: {' '.join(parts)}"
