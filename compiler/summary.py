# SPDX-License-Identifier: Apache-2.0
"""What `compile` ends with: sizes, memory, packing, and modelled rates with their roofline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from meadow.boards import Board
from meadow.compiler.engines.stored import Stored
from meadow.compiler.graph import pruning
from meadow.compiler.graph.calibration import calibration_of
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Threshold
from meadow.compiler.price.run import Estimate, Workload, estimate, prompt_estimate
from meadow.compiler.price.timeline import timeline
from meadow.compiler.price.traffic import by_role, prompts_beats
from meadow.compiler.program.ahead import Ahead
from meadow.compiler.program.lower import lower
from meadow.compiler.program.place import place
from meadow.compiler.size.fit import BUDGET, Fit
from meadow.compiler.size.search import Candidate
from meadow.machine.design import Design
from meadow.machine.engines.columns import Columns
from meadow.machine.program import Schedule

PASSES = 8
"""Tokens of the longest run whose price is told."""


def summarize(
    graph: Graph, board: Board, fitted: Fit, schedule: Schedule, packed: Mapping[str, Stored], ahead: Ahead
) -> dict[str, Any]:
    """The summary as it is saved in report/summary.json; every number stands beside its kind."""
    design, programs = fitted.design, schedule.programs
    work, chunks = Workload.of(design), len(schedule.chunks)
    decode = estimate(programs["decode"], design, 1, work.position, board.bandwidth_gb_s, 1, chunks)
    prefill = prompt_estimate(programs["prefill"], design, work.prompt, board.bandwidth_gb_s, chunks)
    # The chosen design as its weights were packed; the others as a sample of them says.
    chosen = replace(fitted.chosen, prefill=work.prompt / prefill.seconds, decode=1 / decode.seconds)
    front = [chosen if c.design == design else c for c in fitted.front]
    return {
        "model": str(graph.model),
        "layers": graph.model.layers,
        "board": board.name,
        "board_title": board.title,
        "bandwidth_gb_s": board.bandwidth_gb_s,
        "dram_bytes": board.dram_bytes,
        "design": design.numbers(),
        "design_id": design.id,
        "resources": {k: [n, fitted.available[k]] for k, n in fitted.used.items()},
        "resources_kind": "estimated",
        "budget": BUDGET,
        "optimize": fitted.optimize,
        "why": fitted.reason(chosen),
        "front_kind": "modelled",
        "front_workload": {"prompt": work.prompt, "context": work.position},
        "front": [_candidate(c, design) for c in front],
        "notes": [*graph.notes, *smaller_notes(graph, fitted.design), *fitted.notes, *packing_notes(packed)],
        "steps": {k: len(v) for k, v in programs.items()},
        "dataflow": {phase: sorted({mode for mode, _ in rows}) for phase, rows in schedule.dataflow.items()},
        "dataflow_reason": {phase: rows[0][1] for phase, rows in schedule.dataflow.items()},
        "memory": [[c.index, c.kind, c.length] for c in schedule.chunks],
        "weights": _weights(packed),
        "decode": _decode(decode, work, board),
        "passes": _passes(schedule, design, work, board),
        "prefill": _prefill(prefill, work),
        "calibration": calibration_of(graph.metadata),
        "tokens_by": f"the host: {ahead.why}" if ahead.why else "the engine",
        "timeline": _timeline(schedule, design, work, board),
    }


def _candidate(c: Candidate, design: Design) -> dict[str, Any]:
    """One row of the front."""
    return {
        "design": c.design.numbers(),
        "ports": "+".join(str(e.ports) for e in c.design.engines),
        "prefill_tokens_per_s": c.prefill,
        "decode_tokens_per_s": c.decode,
        "share": c.share,
        "resource": c.resource,
        "packing": c.packing,
        "chosen": c.design == design,
        "text": str(c),
    }


def _weights(packed: Mapping[str, Stored]) -> dict[str, Any]:
    """How the matrices are stored."""
    raw = sum(p.layout.rows * p.layout.cols for p in packed.values())
    stored = sum(p.nbytes for p in packed.values())
    return {
        "kind": "measured",
        "raw_bytes": raw,
        "stored_bytes": stored,
        "bits_per_weight": 8 * stored / raw,
        "entropy_bits": sum(p.entropy * p.layout.rows * p.layout.cols for p in packed.values()) / raw,
        "packed_matrices": sum(p.kind == "packed" for p in packed.values()),
        "grouped_matrices": sum(p.kind == "grouped" for p in packed.values()),
        "matrices": len(packed),
    }


def _decode(decode: Estimate, work: Workload, board: Board) -> dict[str, Any]:
    """The decoded token beside its roofline."""
    ceiling = board.bandwidth_gb_s * 1e9 / decode.total_bytes
    return {
        "kind": "modelled",
        "context": work.position,
        "tokens_per_s": 1 / decode.seconds,
        "bytes_per_token": decode.bytes,
        "roofline_tokens_per_s": ceiling,
        "share_of_roofline": 1 / decode.seconds / ceiling,
        "limit": decode.limit,
    }


def _passes(schedule: Schedule, design: Design, work: Workload, board: Board) -> dict[str, Any]:
    """Runs of a few tokens whose logits are all wanted, as drafts are verified."""
    chunks = len(schedule.chunks)
    most = min(PASSES, design.block, design.context)
    position = min(work.position, design.context - most)
    seconds = [
        estimate(
            schedule.programs["decode" if n == 1 else "prefill"],
            design,
            n,
            position,
            board.bandwidth_gb_s,
            n,
            chunks,
        ).seconds
        for n in range(1, most + 1)
    ]
    return {"kind": "modelled", "context": position, "seconds": seconds}


def _prefill(prefill: Estimate, work: Workload) -> dict[str, Any]:
    """The prompt, up to its first token."""
    return {
        "kind": "modelled",
        "tokens": work.prompt,
        "tokens_per_s": work.prompt / prefill.seconds,
        "bytes": prefill.bytes,
        "limit": prefill.limit,
    }


def _timeline(schedule: Schedule, design: Design, work: Workload, board: Board) -> dict[str, Any]:
    """[kind of step, microseconds, what bounds it] of each step of a run of each program."""
    found = {}
    for phase, tokens, position in (("decode", 1, work.position), ("prefill", design.block, 0)):
        events = timeline(schedule.programs[phase], design, tokens, position, board.bandwidth_gb_s)
        found[phase] = [[e.kind, round(e.duration, 2), e.limit] for e in events]
    return found


def smaller_notes(graph: Graph, design: Design) -> list[str]:
    """What was taken out of the model before, and what of that a board does not save."""
    found, pruned = [], pruning.records_of(graph.metadata)
    if pruned:
        found.append(f"the model was pruned: {pruning.sentence(pruned)}")
    cuts = sum(isinstance(node.op, Threshold) for node in graph.nodes)
    if cuts:
        saves = design.engine(Columns).ports > 0
        what = (
            "a decoded token reads only the columns that it needs, and prices count all (meadowc bench sparsity counts those)"
            if saves
            else "this design computes with them and fetches every column all the same; --set column_ports=4 has an INT8 model's left out"
        )
        found.append(f"{cuts} inputs of linear layers are cut at thresholds; {what}")
    return found


def packing_notes(packed: Mapping[str, Stored]) -> list[str]:
    """What a forced scheme made larger than it was."""
    grown = [p for p in packed.values() if p.kind == "packed" and p.bits_per_weight > 8]
    if not grown:
        return []
    return [f"{len(grown)} matrices are larger by this scheme than raw; --packing auto stores such as they are"]


def dataflow_traffic(graph: Graph, design: Design, packed: Mapping[str, Stored], board: Board) -> dict[str, Any]:
    """DRAM bytes by role of a prompt of each length (a power of two), by GEMM and by TPHS."""
    lengths = [n for n in (16, 32, 64, 128, 256, 512, 1024, 2048) if n <= design.context]
    found: dict[str, Any] = {"kind": "modelled", "prompts": lengths}
    for mode in ("gemm", "tphs"):
        schedule = place(lower(graph, design, packed, mode, board.bandwidth_gb_s))
        beats = prompts_beats(schedule.programs["prefill"], design, lengths, len(schedule.chunks))
        found[mode] = [by_role(moved) for moved in beats]
    return found
