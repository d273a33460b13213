# SPDX-License-Identifier: Apache-2.0
"""Thresholds: rows are cut as they are normed or quantized, or, for an engine that takes floats, by a step of their own."""

from __future__ import annotations

from meadow.compiler.graph.graph import Node
from meadow.compiler.graph.ops import Linear, Threshold
from meadow.compiler.program.assembly import Assembly, takes_floats
from meadow.compiler.program.nodes.node import Lack, Rule
from meadow.machine.isa import Opcode
from meadow.machine.step import NOWHERE
from meadow.machine.storage.rows import padded


class ThresholdRule(Rule):
    """What linears read of a norm, of attention or of an activation."""

    ops = (Threshold,)

    def lacks(self, op: Threshold) -> list[Lack]:
        return [(not 0 <= op.value < float("inf"), f"a threshold of {op.value:g}", "finite thresholds, 0 or more")]

    def lower(self, p: Assembly, node: Node) -> None:
        """A step for each form of rows that the engines of its readers take, where the norm before has not made it."""
        op, cols = node.op, p.widths[node.name]
        assert isinstance(op, Threshold)
        if node.name in p.codes or node.name in p.values:
            return
        for floats in sorted(
            {takes_floats(p.graph.weight_of(r)) for r in p.readers[node.name] if isinstance(r.op, Linear)}
        ):
            scale = NOWHERE
            if floats:
                p.values[node.name] = p.buffer(f"{node.name}.floats", p.design.block * padded(cols, 4) * 4)
                codes = p.slot(p.values[node.name])
            else:
                p.codes[node.name] = p.int8(node.name, cols)
                codes, scale = (p.slot(name) for name in p.codes[node.name])
            p.step(
                node,
                Opcode.QUANTIZE,
                {
                    "source": p.slot(p.values[node.inputs[0]]),
                    "codes": codes,
                    "scale": scale,
                    "cols": cols,
                    "floats": int(floats),
                    "threshold": op.value,
                },
                "floats" if floats else "quantize",
            )
