# SPDX-License-Identifier: Apache-2.0
"""Linear layers: what happens to their results is decided by the node that reads them."""

from __future__ import annotations

import numpy as np

from meadow.compiler.graph.graph import Node
from meadow.compiler.graph.ops import Activation, Add, Attention, Head, Linear, Norm, Rotary
from meadow.compiler.program.assembly import Assembly, Operands
from meadow.compiler.program.nodes import attention as attend
from meadow.compiler.program.nodes.activation import FUNCTIONS
from meadow.compiler.program.nodes.node import Lack, Rule, Vector
from meadow.compiler.program.nodes.norm import gain_buffer
from meadow.compiler.program.parts import on_heads
from meadow.machine.instructions.options import options_of
from meadow.machine.isa import Epilogue
from meadow.machine.step import NOWHERE
from meadow.machine.storage.rows import padded


class LinearRule(Rule):
    """A product, with its bias, and the epilogue that its one reader asks for."""

    ops = (Linear,)

    def lacks(self, op: Linear) -> list[Lack]:
        return [(op.factor < 0, f"a factor of {op.factor:g}", "factors above 0")]

    def vectors(self, op: Linear, tile_rows: int) -> dict[str, Vector]:
        return {bias_buffer(op.bias, tile_rows): Vector(op.bias, 0.0, tile_rows)} if op.bias else {}

    def lower(self, p: Assembly, node: Node) -> None:
        readers = p.readers[node.name]
        if len(readers) != 1:
            raise ValueError(f"%{node.name}: a linear layer that {len(readers)} nodes read cannot be lowered")
        (reader,) = readers
        norm = None
        if on_heads(reader, p.readers):
            norm, (reader,) = reader, p.readers[reader.name]
        match reader.op:
            case Rotary() as rotary:
                attention = p.readers[reader.name][0]
                if attention.inputs[0] == reader.name:
                    if attend.choose(p, attention, node) == "gemm":
                        attend.queries(p, node, rotary, head_options(p, node, norm))
                else:
                    _append(p, node, "keys", rotary.head_dim, head_options(p, node, norm), rotary)
            case Attention() as op:
                _append(p, node, "values", op.head_dim, head_options(p, node, norm))
            case Add():
                extra: Operands = {"target": p.slot("x"), "stride": padded(p.widths[node.name], 4)}
                p.linear(node, node.inputs[0], Epilogue.ADD, extra | head_options(p, node))
            case Norm():
                stride = padded(p.widths[node.name], 4)
                p.values[node.name] = p.buffer(f"{node.name}.rows", p.design.block * stride * 4)
                extra = {"target": p.slot(p.values[node.name]), "stride": stride}
                p.linear(node, node.inputs[0], Epilogue.STORE, extra | head_options(p, node))
            case Activation() as act:
                _activated(p, node, reader, act)
            case _:
                raise ValueError(f"%{node.name}: a linear layer before {reader.op.title} cannot be lowered")


class HeadRule(LinearRule):
    """The logits."""

    ops = (Head,)

    def lacks(self, op: Linear) -> list[Lack]:
        assert isinstance(op, Head)
        both = bool(op.bias) and op.factor != 1
        return [*super().lacks(op), (both, "a bias and a factor", "one of them")]

    def lower(self, p: Assembly, node: Node) -> None:
        stride = padded(p.graph.model.vocab, 4)
        extra: Operands = {"target": p.slot("logits"), "stride": stride}
        p.linear(node, node.inputs[0], Epilogue.LOGITS, extra | head_options(p, node))


def bias_buffer(name: str, tile_rows: int) -> str:
    """The buffer of a bias, laid out in tiles."""
    return f"{name}.tiles{tile_rows}"


def head_options(p: Assembly, node: Node, norm: Node | None = None, window: int = 0) -> Operands:
    """What is done to the results of a linear before its epilogue: its bias, and a norm on heads."""
    op, made = node.op, Operands()
    assert isinstance(op, Linear)
    if op.bias:
        made["bias"] = p.slot(bias_buffer(op.bias, p.tile_rows(node)))
    if norm is not None:
        assert isinstance(norm.op, Norm)
        made |= {"gain": p.slot(gain_buffer(norm.op)), "eps": float(np.float32(norm.op.eps))}
    return {**made, "options": options_of(bool(op.bias), norm is not None, window=window)}


def _activated(p: Assembly, node: Node, reader: Node, act: Activation) -> None:
    """The rows of a gate and what it multiplies, or of what is activated."""
    ffn = padded(p.widths[reader.name], 4)
    target = p.buffer(reader.name, p.design.block * ffn * 4)
    p.values[reader.name] = target
    extra: Operands = {"target": p.slot(target), "stride": ffn, **head_options(p, node)}
    extra["options"] = options_of(bool(node.op.bias), function=FUNCTIONS[act.kind])  # type: ignore[attr-defined]
    p.linear(node, node.inputs[0], Epilogue.GLU if act.gated else Epilogue.ACT, extra)


def _append(p: Assembly, node: Node, kind: str, head_dim: int, options: Operands, rotary: Rotary | None = None) -> None:
    """K or V: rotated if K, quantized by head, and written into the cache."""
    p.linear(
        node,
        node.inputs[0],
        Epilogue.ROPE_HEADS if rotary else Epilogue.HEADS,
        {
            "target": p.slot(f"l{node.layer}.{kind}"),
            "target_scale": p.slot(f"l{node.layer}.{kind}.scale"),
            "capacity": p.design.context,
            "append": 1,
            "head_dim": head_dim,
            "rope": p.slot(p.rotary[rotary.frequencies]) if rotary else NOWHERE,
            **options,
        },
    )
