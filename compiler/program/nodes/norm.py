# SPDX-License-Identifier: Apache-2.0
"""Norms: one NORM for each form of rows that its readers take."""

from __future__ import annotations

import numpy as np

from meadow.compiler.graph.graph import Node
from meadow.compiler.graph.ops import Add, Norm, Threshold
from meadow.compiler.program.assembly import Assembly, Operands, takes_floats
from meadow.compiler.program.nodes.node import Lack, Rule, Vector
from meadow.compiler.program.parts import on_heads
from meadow.machine.instructions.norm import ADDED, BIASED, CENTRED
from meadow.machine.isa import SMALLEST_EPSILON, Opcode
from meadow.machine.step import NOWHERE
from meadow.machine.storage.rows import padded


class NormRule(Rule):
    """RMS norms and layer norms with a gain."""

    ops = (Norm,)

    def lacks(self, op: Norm) -> list[Lack]:
        return [
            (
                op.heads > 1 and (op.kind != "rms" or op.bias is not None),
                f"a {op.kind} norm on heads",
                "RMS norms on heads",
            ),
            (op.gain is None, "no gain", "norms with one"),
            (not op.eps >= SMALLEST_EPSILON, f"an epsilon of {op.eps:g}", f"at least {SMALLEST_EPSILON:g}"),
        ]

    def vectors(self, op: Norm, tile_rows: int) -> dict[str, Vector]:
        assert op.gain is not None
        found = {gain_buffer(op): Vector(op.gain, op.offset)}
        return found | ({op.bias: Vector(op.bias)} if op.bias is not None else {})

    def lower(self, p: Assembly, node: Node) -> None:
        """Rows in INT8, in FP32 or in both, as the engines of its readers take them."""
        op = node.op
        assert isinstance(op, Norm)
        if on_heads(node, p.readers):
            return  # part of the linear before it
        cols = p.widths[node.name]
        readers, name, value = p.readers[node.name], node.name, 0.0
        if len(readers) == 1 and isinstance(readers[0].op, Threshold):  # which is cut as its row is made
            name, value = readers[0].name, readers[0].op.value
            readers = p.readers[name]
        rows: Operands = {"codes": p.slot("x"), "scale": NOWHERE, "floats": 1, "threshold": 0.0}
        of_residual = p.values[node.inputs[0]] == "x"
        if of_residual and any(isinstance(r.op, (Add, Norm)) for r in readers):  # the residual itself from here on
            _step(p, node, rows, 0)
            p.values[node.name] = "x"
            return
        if any(isinstance(r.op, Add) for r in readers):  # of a linear's results, which go into the sum
            _step(p, node, rows, ADDED)
            return
        kinds = {isinstance(r.op, Threshold) or takes_floats(p.graph.weight_of(r)) for r in readers}
        for floats in sorted(kinds):
            made: Operands
            if floats:
                p.values[name] = p.buffer(f"{name}.floats", p.design.block * padded(cols, 4) * 4)
                made = {"codes": p.slot(p.values[name]), "scale": NOWHERE, "floats": 1}
            else:
                p.codes[name] = codes, scale = p.int8(name, cols)
                made = {"codes": p.slot(codes), "scale": p.slot(scale), "floats": 0}
            _step(p, node, made | {"threshold": value}, 0, "floats" if floats and len(kinds) > 1 else "")


def _step(p: Assembly, node: Node, made: Operands, kind: int, role: str = "") -> None:
    """One NORM of what the node reads."""
    op, cols = node.op, p.widths[node.name]
    assert isinstance(op, Norm)
    kind |= CENTRED * (op.kind == "layer") | BIASED * (op.bias is not None)
    operands: Operands = {
        "source": p.slot(p.values[node.inputs[0]]),
        "gain": p.slot(gain_buffer(op)),
        **made,
        "cols": cols,
        "eps": float(np.float32(op.eps)),
        "inverse": float(np.float32(1) / np.float32(cols)),
        "kind": kind,
        "bias": p.slot(op.bias) if op.bias is not None else NOWHERE,
    }
    p.step(node, Opcode.NORM, operands, role)


def gain_buffer(op: Norm) -> str:
    """The buffer of a norm's gain: norms that share it and add another number to it have one each."""
    assert op.gain is not None
    return f"{op.gain}+{op.offset:g}" if op.offset else op.gain
