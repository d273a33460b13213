# SPDX-License-Identifier: Apache-2.0
"""traffic: the DRAM bytes that each step of a schedule moves, exactly, by port, direction and role.

Made from the schedule alone: the C simulation counts the same at its ports, and shares no code with this
(`meadowc bench traffic` compares them).  Knows nothing of time; that is cost.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from meadow.machine.design import BEAT_BYTES, LANE_COLS, Design
from meadow.machine.isa import INSTRUCTION_BYTES, Epilogue, Opcode
from meadow.machine.program import Slot, Step
from meadow.machine.storage.groups import GroupFormat, GroupLayout, is_grouped
from meadow.machine.storage.rows import padded
from meadow.machine.storage.unpack import PREFIX_WORD, format_of

ROLES = ("weights", "activations", "kv", "intermediates", "program")
"""Weights with all their tables, scales and constants; activations between layers; the KV cache; Q, S and P of
attention; instructions and the chunk table."""
FLOATS = BEAT_BYTES // 4
HALVES = BEAT_BYTES // 2
Beats = Counter[tuple[str, str, str]]
"""(port, "read" or "written", role) -> beats."""
Operands = dict[str, int | float]


def _beats(n: int, per_beat: int) -> int:
    return -(-n // per_beat)


def step_beats(step: Step, design: Design, tokens: int, position: int, logits: int = 1) -> Beats:
    """Beats of one step for `tokens` tokens after `position` cached ones, `logits` rows of logits wanted."""
    o = step.numbers
    moved: Beats = Counter()
    moved["constants", "read", "program"] += INSTRUCTION_BYTES // BEAT_BYTES
    match step.opcode:
        case Opcode.NORM | Opcode.QUANTIZE:
            cols = int(o["cols"])
            if step.opcode is Opcode.NORM:
                moved["constants", "read", "weights"] += _beats(cols, FLOATS)
            moved["memory", "read", "activations"] += tokens * _beats(cols, FLOATS)
            if o.get("floats"):
                moved["memory", "written", "activations"] += tokens * _beats(cols, FLOATS)
            else:
                moved["memory", "written", "activations"] += tokens * padded(cols, LANE_COLS) // BEAT_BYTES
                moved["memory", "written", "activations"] += _beats(tokens, FLOATS)
        case Opcode.LINEAR:
            _linear(step, o, design, tokens, position, logits, moved)
        case Opcode.TPHS:
            _tphs(step, o, design, tokens, position, moved)
        case Opcode.SCORES | Opcode.SOFTMAX | Opcode.CONTEXT:
            _gemm_attention(step, o, tokens, position, moved)
    return moved


def run_beats(steps: Iterable[Step], design: Design, tokens: int, position: int, chunks: int, logits: int = 1) -> Beats:
    """Beats of a whole program run, with its END and the table of `chunks` chunks."""
    moved: Beats = Counter()
    for step in steps:
        moved += step_beats(step, design, tokens, position, logits)
    moved["constants", "read", "program"] += INSTRUCTION_BYTES // BEAT_BYTES + _beats(chunks, 2)
    return moved


def blocks(tokens: int, block: int) -> list[tuple[int, int, int]]:
    """(position, tokens, rows of logits) of the runs that serve a prompt: only the last gives logits, one row."""
    starts = range(0, tokens, block)
    return [(start, min(block, tokens - start), int(start == starts[-1])) for start in starts]


def prompt_beats(steps: Iterable[Step], design: Design, tokens: int, chunks: int) -> Beats:
    """Beats of a prompt that is served block after block; the last block gives one row of logits."""
    return prompts_beats(steps, design, [tokens], chunks)[0]


def prompts_beats(steps: Iterable[Step], design: Design, lengths: Sequence[int], chunks: int) -> list[Beats]:
    """prompt_beats of prompts of several lengths.  Steps that are alike are counted once."""
    alike: dict[tuple[object, ...], list[Step]] = {}
    for step in steps:
        alike.setdefault(step_key(step), []).append(step)
    return [_prompt_beats(list(alike.values()), design, tokens, chunks) for tokens in lengths]


def _prompt_beats(alike: list[list[Step]], design: Design, tokens: int, chunks: int) -> Beats:
    moved: Beats = Counter()
    for position, some, logits in blocks(tokens, design.block):
        moved += run_beats((), design, some, position, chunks, logits)
        for group in alike:
            for what, n in step_beats(group[0], design, some, position, logits).items():
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


def on_port(moved: Beats, port: str, way: str = "") -> int:
    """Beats on one port, both directions or one."""
    return sum(n for (p, w, _), n in moved.items() if p == port and way in ("", w))


def _stream(step: Step, o: Operands, design: Design, rows: int, tile_rows: int, moved: Beats) -> None:
    """What streaming a matrix reads: the weights, and for each tile its scales and its entry in the directory."""
    if is_grouped(o["format"]):
        for port in range(design.pacq_ports):
            moved[f"pacq{port}", "read", "weights"] += group_layout(o, design, rows).port_beats
        return
    for port in range(design.weight_ports):
        slot = step.operands[f"weights{port}"]
        assert isinstance(slot, Slot)
        moved[f"weights{port}", "read", "weights"] += slot.length // BEAT_BYTES
    word, entries = int(o["format"]), int(o["entries"])
    if word == PREFIX_WORD:
        moved["constants", "read", "weights"] += _beats(format_of(word).table_bytes(entries) - entries, BEAT_BYTES)
        moved["constants", "read", "weights"] += _beats(entries, BEAT_BYTES)
    elif word:
        moved["constants", "read", "weights"] += _beats(format_of(word).table_bytes(entries), BEAT_BYTES)
    for _, some, times in _alike(padded(rows, design.weight_ports), tile_rows):
        moved["constants", "read", "weights"] += times * (_beats(some, FLOATS) + (1 if word else 0))


def streamed_rows(step: Step) -> int:
    """Output features of the matrix that a LINEAR or TPHS streams: TPHS projects the queries of all heads."""
    o = step.numbers
    return int(o["rows"]) if step.opcode is Opcode.LINEAR else int(o["heads"]) * int(o["head_dim"])


def group_layout(o: Operands, design: Design, rows: int) -> GroupLayout:
    """Of the grouped matrix that a LINEAR or TPHS of `rows` output features streams."""
    return GroupLayout(rows, int(o["cols"]), design.pacq_ports, GroupFormat.of_word(int(o["format"])))


def _activations(o: Operands, tokens: int, first: int, moved: Beats) -> None:
    cols = int(o["cols"])
    if is_grouped(o["format"]):
        moved["memory", "read", "activations"] += 0 if o["reuse"] else (tokens - first) * _beats(cols, FLOATS)
        return
    moved["memory", "read", "activations"] += (tokens - first) * cols // BEAT_BYTES + _beats(tokens, FLOATS)


def _store_floats(first: int, count: int, times: int, role: str, moved: Beats) -> None:
    """FP32 written from element `first` on: where that is not at a beat, the beat is read first."""
    offset = first % FLOATS
    if offset:
        moved["memory", "read", role] += times
    moved["memory", "written", role] += times * _beats(offset + count, FLOATS)


def _alike(rows: int, tile_rows: int) -> list[tuple[int, int, int]]:
    """(first row, rows, how many) of the tiles of a matrix, those together that begin at the same place within a beat."""
    full, rest = divmod(rows, tile_rows)
    period = 2 * FLOATS // math.gcd(tile_rows, 2 * FLOATS)  # of where tiles, and halves of tiles, begin
    found = [(n * tile_rows, tile_rows, (full - n + period - 1) // period) for n in range(min(period, full))]
    return found + [(full * tile_rows, rest, 1)] * (rest > 0)


def _linear(step: Step, o: Operands, design: Design, tokens: int, position: int, logits: int, moved: Beats) -> None:
    rows, tile_rows = int(o["rows"]), int(o["tile_rows"])
    epilogue = Epilogue(int(o["epilogue"]))
    first = max(0, tokens - logits) if epilogue is Epilogue.LOGITS else 0
    if first >= tokens:
        return
    _activations(o, tokens, first, moved)
    _stream(step, o, design, rows, tile_rows, moved)
    served = tokens - first
    for row, real, times in _alike(rows, tile_rows):
        if epilogue in (Epilogue.HEADS, Epilogue.ROPE_HEADS):
            head_dim = int(o["head_dim"])
            role = "kv" if o["append"] else "intermediates"
            if epilogue is Epilogue.ROPE_HEADS:
                moved["constants", "read", "weights"] += times * tokens * _beats(head_dim, HALVES)
            moved["memory", "written", role] += times * tokens * _beats(head_dim, BEAT_BYTES)
            _store_floats(position if o["append"] else 0, tokens, times, role, moved)
            continue
        half = 2 if epilogue is Epilogue.GLU else 1
        columns, column = real // half, (int(o["first_row"]) + row) // half
        if epilogue is Epilogue.ADD:
            moved["memory", "read", "activations"] += times * served * _beats(columns, FLOATS)
        _store_floats(column, columns, times * served, "activations", moved)


def _cached(o: Operands, seen: int, rows: bool, scales: int, moved: Beats, port: str = "memory") -> None:
    """K or V rows and scales of every KV head."""
    kv_heads = int(o["kv_heads"])
    if rows:
        moved[port, "read", "kv"] += kv_heads * seen * _beats(int(o["head_dim"]), BEAT_BYTES)
    moved[port, "read", "kv"] += kv_heads * scales * _beats(seen, FLOATS)


def _tphs(step: Step, o: Operands, design: Design, tokens: int, position: int, moved: Beats) -> None:
    heads, head_dim = int(o["heads"]), int(o["head_dim"])
    seen = position + tokens
    _activations(o, tokens, 0, moved)
    _stream(step, o, design, heads * head_dim, head_dim, moved)
    moved["constants", "read", "weights"] += heads * tokens * _beats(head_dim, HALVES)
    for port in ("constants", "memory"):  # keys, values
        _cached(o, seen, True, 1, moved, port)
    _contexts(heads, head_dim, tokens, moved)


def _contexts(heads: int, head_dim: int, tokens: int, moved: Beats) -> None:
    """The context of every head to its columns."""
    for head, _, times in _alike(heads * head_dim, head_dim):
        _store_floats(head, head_dim, times * tokens, "activations", moved)


def _gemm_attention(step: Step, o: Operands, tokens: int, position: int, moved: Beats) -> None:
    heads = int(o["heads"])
    seen = position + tokens
    scores = sum(_beats(position + t + 1, FLOATS) for t in range(tokens))
    probabilities = sum(_beats(position + t + 1, HALVES) + 1 for t in range(tokens))  # and the divisor
    match step.opcode:
        case Opcode.SCORES:
            _cached(o, seen, True, 1, moved)
            moved["memory", "read", "intermediates"] += heads * (
                tokens * _beats(int(o["head_dim"]), BEAT_BYTES) + _beats(tokens, FLOATS)
            )
            moved["memory", "written", "intermediates"] += heads * scores
        case Opcode.SOFTMAX:
            _cached(o, seen, False, 1, moved)
            moved["constants", "read", "intermediates"] += heads * scores
            moved["memory", "written", "intermediates"] += heads * probabilities
        case _:
            head_dim = int(o["head_dim"])
            _cached(o, seen, True, 0, moved)
            moved["constants", "read", "intermediates"] += heads * probabilities
            _contexts(heads, head_dim, tokens, moved)
