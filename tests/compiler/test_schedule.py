# SPDX-License-Identifier: Apache-2.0
"""lower and place: what the programs say, that nothing overlaps, and that chunks keep their limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meadow import boards
from meadow.compiler.engines.array import pack, parts
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.rewrite import rewrite
from meadow.compiler.program.lower import lower
from meadow.compiler.program.parts import weight_parts
from meadow.compiler.program.place import place
from meadow.compiler.size.fit import fit
from meadow.compiler.sources.onnx.read import read
from meadow.machine.errors import ResourceExceeded
from meadow.machine.instructions import table
from meadow.machine.program import ALIGN, CHUNK_LIMIT, Schedule
from meadow.machine.step import Slot
from meadow.machine.storage.rows import Layout


@pytest.fixture(scope="module")
def graph(tiny_int8: Path) -> Graph:
    return rewrite(read(tiny_int8))


def lowered(graph: Graph, dataflow: str) -> Schedule:
    board = boards.load("zcu102")
    design = fit(graph, board, {"column_ports": 0}).design
    packed = {
        p.name: pack(
            graph.weights[name].codes[p.first_row : p.first_row + p.layout.rows].astype(np.int8), p.layout, "raw"
        )
        for name, found in weight_parts(graph, design).items()
        for p in found
        if isinstance(p.layout, Layout)
    }
    return lower(graph, design, packed, dataflow, board.bandwidth_gb_s)


@pytest.mark.parametrize("dataflow", ["tphs", "gemm"])
def test_the_first_layer_is_lowered_like_this(dataflow: str, graph: Graph, golden: Any) -> None:
    schedule = lowered(graph, dataflow)
    steps = [s for s in schedule.programs["prefill"] if s.name.startswith("l0.") or "logits" in s.name]
    golden.check("\n".join(str(s) for s in steps) + "\n")


@pytest.mark.parametrize("dataflow", ["tphs", "gemm"])
def test_a_placed_schedule_checks_and_decodes(dataflow: str, graph: Graph) -> None:
    schedule = place(lowered(graph, dataflow), boards.load("zcu102"))
    schedule.check()
    assert all(c.length % ALIGN == 0 for c in schedule.chunks)
    for name, steps in schedule.programs.items():
        decoded = table.decode(schedule.encode(name))
        assert [op for op, _ in decoded] == [s.opcode for s in steps]


def test_the_memory_map_reads_like_this(graph: Graph, golden: Any) -> None:
    schedule = place(lowered(graph, "tphs"), boards.load("zcu102"))
    lines = [f"chunk{c.index} {c.kind} {c.length}" for c in schedule.chunks]
    lines += [
        f"{name}: {slot}" for name, slot in schedule.placed.items() if not name.startswith("blk.") or "blk.0" in name
    ]
    golden.check("\n".join(lines) + "\n")


def test_both_programs_share_weights_and_cache(graph: Graph) -> None:
    schedule = place(lowered(graph, "tphs"))
    used = {
        phase: {
            s.buffer for step in steps for _, s in step.slots() if schedule.buffers[s.buffer].kind in ("weights", "kv")
        }
        for phase, steps in schedule.programs.items()
    }
    assert used["prefill"] == used["decode"]


def test_an_overlap_is_caught(graph: Graph) -> None:
    schedule = place(lowered(graph, "tphs"))
    name = next(n for n, b in schedule.buffers.items() if b.kind == "kv")
    other = [n for n, b in schedule.buffers.items() if b.kind == "kv"][1]
    moved = {**schedule.placed, other: replace(schedule.placed[name], offset=schedule.placed[name].offset + 16)}
    with pytest.raises(ValueError, match="overlap while both are alive"):
        schedule.replace(placed=moved).check()


def test_a_slot_outside_its_memory_is_caught(graph: Graph) -> None:
    schedule = place(lowered(graph, "tphs"))
    step = schedule.programs["decode"][0]
    wrong = replace(step, operands={**step.operands, "source": Slot(0, 1 << 30, 64, "x")})
    with pytest.raises(ValueError, match="outside its memory"):
        schedule.replace(programs={"decode": (wrong,)}).check()


def test_a_model_too_large_for_the_board_is_refused_with_numbers(graph: Graph) -> None:
    small = replace(boards.load("zcu102"), dram_bytes=1_000_000)
    with pytest.raises(ResourceExceeded, match=r"needs \d+ MB of AMD ZCU102's memory and 1 MB are there"):
        place(lowered(graph, "tphs"), small)


def test_a_matrix_larger_than_a_chunk_is_cut_into_whole_tiles() -> None:
    found = parts("head", 300_000, 4096, 4, 64)
    assert len(found) > 1 and sum(p.layout.rows for p in found) == 300_000
    assert all(isinstance(p.layout, Layout) and p.layout.raw_beats * 16 <= CHUNK_LIMIT for p in found)
    assert all(p.first_row % 64 == 0 for p in found)
    assert [p.name for p in found] == [f"head#{i}" for i in range(len(found))]
