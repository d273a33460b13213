# SPDX-License-Identifier: Apache-2.0
"""Attention: its two dataflows, and the choice between them.

GEMM    Q, scores and probabilities go through DRAM: a linear layer and three steps.
TPHS    one step: Q projection, QK^T, softmax and softmax x V as a token-parallel, head-sequential pipeline that keeps them on chip.

An instruction takes KV heads that have as many query heads each; where a layer's have not, its heads go in pieces that do.
"""

from __future__ import annotations

from meadow.compiler.graph.graph import Node
from meadow.compiler.graph.ops import Attention, Norm, Rotary
from meadow.compiler.price import cost
from meadow.compiler.program.assembly import NO_OPTIONS, Assembly, Operands
from meadow.compiler.program.nodes.node import Lack, Rule
from meadow.compiler.program.parts import Heads, alike_heads
from meadow.machine.arithmetic import int8
from meadow.machine.instructions.instruction import FLOATS, Tokens
from meadow.machine.instructions.options import MOST_WINDOW
from meadow.machine.isa import Epilogue, Opcode
from meadow.machine.step import NOWHERE, Slot, Step
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES

MODES = ("tphs", "gemm")


class AttentionRule(Rule):
    """Causal attention to a KV cache of its own."""

    ops = (Attention,)

    def lacks(self, op: Attention) -> list[Lack]:
        return [
            (op.softcap < 0, f"a softcap of {op.softcap:g} on the scores", "a positive cap"),
            (op.window >= MOST_WINDOW, f"a sliding window of {op.window} tokens", f"windows below {MOST_WINDOW}"),
            (op.sinks is not None, "attention sinks", "none"),
            (not op.causal, "attention to later tokens", "causal attention"),
            (op.keys_from is not None, f"the keys of layer {op.keys_from}", "keys of its own"),
            (not op.scale > 0, f"a scale of {op.scale:g}", "a positive scale"),
        ]

    def lower(self, p: Assembly, node: Node) -> None:
        assert isinstance(node.op, Attention)
        target = p.buffer(node.name, p.design.block * padded(p.widths[node.name], 4) * 4)
        p.values[node.name] = target
        steps(p, node, node.op, p.chosen[node.layer or 0][0], target)


def choose(p: Assembly, attention: Node, q: Node) -> str:
    """The dataflow of an attention, whose queries the linear `q` makes: forced, or the cheaper one; noted with its reason."""
    forced = (p.dataflow, "forced by --dataflow")
    made = p.chosen[attention.layer or 0] = forced if p.dataflow != "auto" else _cheaper(p, attention, q)
    return made[0]


def _cheaper(p: Assembly, attend: Node, q: Node) -> tuple[str, str]:
    """(dataflow, reason) for this block and phase by the cost model, with the board's DRAM bandwidth."""
    tokens = p.design.block if p.phase == "prefill" else 1
    position = max(0, min(p.design.context, 512) - tokens)
    totals = {
        mode: sum(
            cost.step_cost(s, p.design, Tokens(tokens, position), p.bandwidth_gb_s).cycles
            for s in _trial(p, attend, q, mode)
        )
        for mode in MODES
    }
    best, other = sorted(MODES, key=lambda m: totals[m])
    cycles = f"{totals[best]:,.0f} cycles against {totals[other]:,.0f} for {other}"
    return best, f"{cycles}, modelled at {tokens} token{'s' * (tokens > 1)} after {position}"


def _trial(p: Assembly, attend: Node, q: Node, mode: str) -> list[Step]:
    """The steps of an attention block by one dataflow, made apart from the program."""
    trial = p.apart()
    rotary = p.by_name[attend.inputs[0]].op
    assert isinstance(attend.op, Attention) and isinstance(rotary, Rotary)
    if mode == "gemm":
        queries(trial, q, rotary, _query_options(p, attend))
    steps(trial, attend, attend.op, mode, "x")
    return trial.steps


def steps(p: Assembly, node: Node, op: Attention, mode: str, target: str) -> None:
    """Append the steps of an attention by dataflow `mode`; its rows go to the buffer `target`."""
    (_tphs if mode == "tphs" else _gemm)(p, node, op, target)


def queries(p: Assembly, node: Node, rotary: Rotary, options: Operands) -> None:
    """GEMM dataflow: Q goes to DRAM."""
    block, width = padded(p.design.block, 4), padded(rotary.head_dim, BEAT_BYTES)
    target = p.buffer(f"{node.name}.int8", rotary.heads * block * width)
    scale = p.buffer(f"{node.name}.int8.scale", rotary.heads * block * 4)
    p.values[node.name] = target
    p.linear(
        node,
        node.inputs[0],
        Epilogue.ROPE_HEADS,
        {
            "target": p.slot(target),
            "target_scale": p.slot(scale),
            "capacity": block,
            "head_dim": rotary.head_dim,
            "rope": p.slot(p.rotary[rotary.frequencies]),
            **options,
        },
    )


def _cache(p: Assembly, node: Node, op: Attention, some: Heads) -> Operands:
    """The operands of attention for some of its heads."""
    layer, capacity = node.layer, p.design.context
    rows = some.first_kv * capacity * padded(op.head_dim, BEAT_BYTES)
    scales = some.first_kv * padded(capacity, FLOATS) * 4
    return {
        "heads": some.heads,
        "kv_heads": some.kv_heads,
        "head_dim": op.head_dim,
        "keys": p.slot(f"l{layer}.keys").after(rows),
        "key_scale": p.slot(f"l{layer}.keys.scale").after(scales),
        "values": p.slot(f"l{layer}.values").after(rows),
        "value_scale": p.slot(f"l{layer}.values.scale").after(scales),
        "capacity": capacity,
        "kappa": float(int8.score_scale(op.scale)),
    }


def _query(p: Assembly, node: Node) -> tuple[Node, Node | None, Rotary]:
    """The linear that makes an attention's queries, their norm if they have one, and their rotation."""
    rotary = p.by_name[node.inputs[0]]
    assert isinstance(rotary.op, Rotary)
    source = p.by_name[rotary.inputs[0]]
    norm = source if isinstance(source.op, Norm) else None
    return (p.by_name[norm.inputs[0]] if norm else source), norm, rotary.op


def _window(p: Assembly, op: Attention) -> int:
    """Tokens that one sees at most; 0 where that is all of the context."""
    return op.window if op.window < p.design.context else 0


def _query_options(p: Assembly, node: Node, window: int = 0) -> Operands:
    from meadow.compiler.program.nodes.linear import head_options

    q, norm, _ = _query(p, node)
    return {**NO_OPTIONS, **head_options(p, q, norm, window)}


def _tphs(p: Assembly, node: Node, op: Attention, target: str) -> None:
    """Q projection, QK^T, softmax and softmax x V as a pipeline, head after head: one step for heads that are alike."""
    q, _, rotary = _query(p, node)
    options = _query_options(p, node, _window(p, op))
    for some, part in zip(alike_heads(op), p.parts_of[q.weight or ""], strict=True):
        bias = options["bias"]
        if isinstance(bias, Slot) and bias is not NOWHERE:
            bias = bias.after(some.first * padded(op.head_dim, FLOATS) * 4)
        p.step(
            node,
            Opcode.TPHS,
            {
                **p.inputs(q.inputs[0], q.weight or ""),
                **p.weights(part.name, p.live(q.inputs[0], p.graph.weight_of(q))),
                "cols": part.layout.operand_cols,
                **_cache(p, node, op, some),
                "rope": p.slot(p.rotary[rotary.frequencies]),
                "target": p.slot(target).after(some.first * op.head_dim * 4),
                "stride": padded(p.widths[node.name], FLOATS),
                **options,
                "bias": bias,
                "softcap": float(int8.score_scale(op.softcap)),
            },
            part=part.number,
        )


def _gemm(p: Assembly, node: Node, op: Attention, target: str) -> None:
    """Scores, softmax and mix, each reading and writing DRAM: three steps for heads that are alike."""
    block, row = padded(p.design.block, 4), padded(p.design.context, 8)
    size = op.heads * block * row
    scores = p.buffer(f"{node.name}.scores", size * 4)
    probabilities = p.buffer(f"{node.name}.softmax", size * 2)
    divisor = p.buffer(f"{node.name}.divisor", op.heads * block * BEAT_BYTES)
    pieces = alike_heads(op)
    for number, some in enumerate(pieces):
        before = some.first * block  # rows
        operands = {
            **_cache(p, node, op, some),
            "block": block,
            "scores": p.slot(scores).after(before * row * 4),
            "probabilities": p.slot(probabilities).after(before * row * 2),
            "divisor": p.slot(divisor).after(before * BEAT_BYTES),
        }
        _gemm_steps(p, node, op, some, operands, target, number if len(pieces) > 1 else None)


def _gemm_steps(
    p: Assembly, node: Node, op: Attention, some: Heads, operands: Operands, target: str, part: int | None
) -> None:
    queries, row = p.values[_query(p, node)[0].name], padded(p.design.context, 8)
    before = some.first * padded(p.design.block, 4)

    def common(*names: str) -> Operands:
        return {name: operands[name] for name in names}

    p.step(
        node,
        Opcode.SCORES,
        {
            "queries": p.slot(queries).after(before * padded(op.head_dim, BEAT_BYTES)),
            "query_scale": p.slot(f"{queries}.scale").after(before * 4),
            **common("keys", "key_scale", "heads", "kv_heads", "head_dim", "capacity", "kappa", "block"),
            "target": operands["scores"],
            "row": row,
            "softcap": float(int8.score_scale(op.softcap)),
        },
        "scores",
        part,
    )
    p.step(
        node,
        Opcode.SOFTMAX,
        {
            **common("scores", "value_scale", "heads", "kv_heads", "capacity", "block"),
            "row": row,
            "target": operands["probabilities"],
            "divisor": operands["divisor"],
            "window": _window(p, op),
        },
        "softmax",
        part,
    )
    p.step(
        node,
        Opcode.MIX,
        {
            **common("probabilities", "divisor", "values", "heads", "kv_heads", "head_dim", "capacity", "block"),
            "row": row,
            "target": p.slot(target).after(some.first * op.head_dim * 4),
            "stride": padded(p.widths[node.name], FLOATS),
        },
        "mix",
        part,
    )
