# SPDX-License-Identifier: Apache-2.0
"""lower: a Graph becomes two programs, prefill and decode, over named buffers.

How each kind of node becomes steps is in nodes/; place.py puts the buffers at addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meadow.compiler.engines.stored import Stored
from meadow.compiler.graph.graph import Graph
from meadow.compiler.graph.ops import Attention
from meadow.compiler.program.ahead import Ahead
from meadow.compiler.program.assembly import Assembly
from meadow.compiler.program.constants import constants
from meadow.compiler.program.nodes.node import rule_of
from meadow.compiler.program.residual import check_residual
from meadow.machine.design import Design
from meadow.machine.engines.table import engine_of
from meadow.machine.isa import Epilogue
from meadow.machine.program import Buffer, Schedule
from meadow.machine.step import Step
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES

PHASES = ("prefill", "decode")


def lower(
    graph: Graph,
    design: Design,
    packed: Mapping[str, Stored],
    dataflow: str,
    bandwidth_gb_s: float,
    ahead: Ahead | None = None,
) -> Schedule:
    """Both programs.

    packed          every part of weight_parts, by its name
    dataflow        "gemm" or "tphs" forces all attention blocks; "auto" lets the cost model choose for each phase
    bandwidth_gb_s  of the board's DRAM, for the cost model
    ahead           how tokens follow each other; None where nobody asks
    Raises UnsupportedModel where the graph needs more than one residual.
    """
    check_residual(graph)
    programs, buffers, chosen = {}, _shared_buffers(graph, design, packed), {}
    for phase in PHASES:
        p = Assembly(graph, design, packed, buffers, phase, dataflow, bandwidth_gb_s)
        for node in graph.nodes:
            rule_of(node).lower(p, node)
        programs[phase] = _share_activations(p.steps)
        if phase == "decode" and ahead is not None and ahead.layout is not None:
            buffers |= {buffer.name: buffer for buffer in ahead.buffers(design)}
            programs[phase] += (ahead.step(buffers, design),)
        buffers |= p.buffers
        chosen[phase] = tuple(p.chosen[layer] for layer in sorted(p.chosen))
    schedule = Schedule(programs, buffers, chosen)
    schedule.check()
    return schedule


def _shared_buffers(graph: Graph, design: Design, packed: Mapping[str, Stored]) -> dict[str, Buffer]:
    """What both programs use: constants, weights, the KV cache, and what the host reads and writes."""
    model, made = graph.model, {}

    def add(name: str, length: int, kind: str) -> None:
        made[name] = Buffer(name, length, kind)

    for name, constant in constants(graph, design).items():
        add(name, constant.length, "constants")
    for name, stored in packed.items():
        for suffix, length in stored.lengths().items():
            add(f"{name}.{suffix}", length, "weights")
    for node in graph.nodes:
        if isinstance(node.op, Attention):
            width = padded(node.op.head_dim, BEAT_BYTES)
            for kind in ("keys", "values"):
                add(f"l{node.layer}.{kind}", node.op.kv_heads * design.context * width, "kv")
                add(f"l{node.layer}.{kind}.scale", node.op.kv_heads * padded(design.context, 4) * 4, "kv")
    add("x", design.block * padded(model.dim, 4) * 4, "pinned")
    add("logits", design.block * padded(model.vocab, 4) * 4, "pinned")
    return made


def _share_activations(steps: list[Step]) -> tuple[Step, ...]:
    """Tell an engine that can which activations it keeps: where linears on the same ones follow each other."""
    made = list(steps)
    previous: int | None = None
    for index, step in enumerate(made):
        if "hold" not in step.operands or not engine_of(int(step.numbers["format"])).keeps:
            continue
        before = made[previous] if previous is not None else None
        same = (
            before is not None
            and before.operands["codes"] == step.operands["codes"]
            and before.operands["format"] == step.operands["format"]  # rows are kept as its groups have them
            and _takes_every_token(before) == _takes_every_token(step)
        )
        if same and before is not None and previous is not None:
            made[previous] = replace(before, operands={**before.operands, "hold": 1})
            made[index] = replace(step, operands={**step.operands, "reuse": 1})
        previous = index
    return tuple(made)


def _takes_every_token(step: Step) -> bool:
    """False for the head, which only takes the tokens whose logits are requested."""
    return step.operands.get("epilogue") != int(Epilogue.LOGITS)
