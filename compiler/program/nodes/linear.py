# SPDX-License-Identifier: Apache-2.0
"""Linear layers: what happens to their results is decided by the node that reads them."""

from __future__ import annotations

from meadow.compiler.graph.graph import Node
from meadow.compiler.graph.ops import Activation, Add, Attention, Head, Linear, Rotary
from meadow.compiler.program.assembly import Assembly, Operands
from meadow.compiler.program.nodes import attention as attend
from meadow.compiler.program.nodes.node import Lack, Rule
from meadow.machine.isa import Epilogue
from meadow.machine.step import NOWHERE
from meadow.machine.storage.rows import padded


class LinearRule(Rule):
    """A product, with the epilogue that its one reader asks for."""

    ops = (Linear,)

    def lacks(self, op: Linear) -> list[Lack]:
        return [
            (op.bias is not None, "a bias", "linears without a bias"),
            (op.factor != 1, f"a factor of {op.factor:g}", "linears without a factor"),
        ]

    def lower(self, p: Assembly, node: Node) -> None:
        readers = p.readers[node.name]
        if len(readers) != 1:
            raise ValueError(f"%{node.name}: a linear layer that {len(readers)} nodes read cannot be lowered")
        (reader,) = readers
        match reader.op:
            case Rotary() as rotary:
                attention = p.readers[reader.name][0]
                if attention.inputs[0] == reader.name:
                    if attend.choose(p, attention, node) == "gemm":
                        attend.queries(p, node, rotary)
                else:
                    _append(p, node, "keys", rotary.head_dim, rotary)
            case Attention() as op:
                _append(p, node, "values", op.head_dim)
            case Add():
                extra: Operands = {"target": p.slot("x"), "stride": padded(p.widths[node.name], 4)}
                p.linear(node, node.inputs[0], Epilogue.ADD, extra)
            case Activation():
                ffn = padded(p.widths[reader.name], 4)
                target = p.buffer(reader.name, p.design.block * ffn * 4)
                p.values[reader.name] = target
                p.linear(node, node.inputs[0], Epilogue.GLU, {"target": p.slot(target), "stride": ffn})
            case _:
                raise ValueError(f"%{node.name}: a linear layer before {reader.op.title} cannot be lowered")


class HeadRule(LinearRule):
    """The logits."""

    ops = (Head,)

    def lacks(self, op: Linear) -> list[Lack]:
        assert isinstance(op, Head)
        return [
            *super().lacks(op),
            (op.softcap != 0, f"a softcap of {op.softcap:g}", "logits as they are"),
        ]

    def lower(self, p: Assembly, node: Node) -> None:
        stride = padded(p.graph.model.vocab, 4)
        p.linear(node, node.inputs[0], Epilogue.LOGITS, {"target": p.slot("logits"), "stride": stride})


def _append(p: Assembly, node: Node, kind: str, head_dim: int, rotary: Rotary | None = None) -> None:
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
        },
    )
