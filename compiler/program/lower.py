# SPDX-License-Identifier: Apache-2.0
"""lower: a Graph becomes two programs, prefill and decode, over named buffers.

Attention's dataflow is chosen in attend.py; place.py puts the buffers at addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from meadow.compiler.engines.stored import Stored
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Activation, Add, Attention, Embedding, Head, Linear, Norm, Rotary
from meadow.compiler.program import attend
from meadow.compiler.program.assembly import Assembly, Operands, takes_floats
from meadow.compiler.program.constants import gain_name, gains, rope_row_bytes, rotary_names
from meadow.compiler.program.residual import check_residual
from meadow.machine.design import Design
from meadow.machine.engines.table import engine_of
from meadow.machine.isa import Epilogue, Opcode
from meadow.machine.program import Buffer, Schedule
from meadow.machine.step import NOWHERE, Step
from meadow.machine.storage.rows import padded
from meadow.machine.units import BEAT_BYTES

PHASES = ("prefill", "decode")


def lower(graph: Graph, design: Design, packed: Mapping[str, Stored], dataflow: str, bandwidth_gb_s: float) -> Schedule:
    """Both programs.

    packed          every part of weight_parts, by its name
    dataflow        "gemm" or "tphs" forces all attention blocks; "auto" lets the cost model choose for each phase
    bandwidth_gb_s  of the board's DRAM, for the cost model
    """
    check_residual(graph)
    programs, buffers = {}, _constant_buffers(graph, design, packed)
    chosen = {}
    for phase in PHASES:
        lowering = _Lowering(Assembly(graph, design, packed, buffers, phase), dataflow, bandwidth_gb_s)
        programs[phase] = lowering.run()
        buffers |= lowering.p.buffers
        chosen[phase] = tuple(lowering.chosen[layer] for layer in sorted(lowering.chosen))
    schedule = Schedule(programs, buffers, chosen)
    schedule.check()
    return schedule


def _constant_buffers(graph: Graph, design: Design, packed: Mapping[str, Stored]) -> dict[str, Buffer]:
    model, made = graph.model, {}

    def add(name: str, length: int, kind: str) -> None:
        made[name] = Buffer(name, length, kind)

    for frequencies, name in rotary_names(graph).items():
        add(name, design.context * rope_row_bytes(2 * len(frequencies)), "constants")
    for name, gain in gains(graph).items():
        add(name, padded(gain.nbytes, BEAT_BYTES), "constants")
    for name, p in packed.items():
        for suffix, length in p.lengths().items():
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


@dataclass
class _Lowering:
    """Walks the graph once.  `chosen`: by layer, the dataflow of its attention and the reason."""

    p: Assembly
    dataflow: str
    bandwidth_gb_s: float
    chosen: dict[int, tuple[str, str]] = field(default_factory=dict)

    def run(self) -> tuple[Step, ...]:
        for node in self.p.graph.nodes:
            match node.op:
                case Embedding() | Add():
                    self.p.values[node.name] = "x"
                case Norm() as op:
                    self._norm(node, op)
                case Head():
                    stride = padded(self.p.graph.model.vocab, 4)
                    logits: Operands = {"target": self.p.slot("logits"), "stride": stride}
                    self.p.linear(node, node.inputs[0], Epilogue.LOGITS, logits)
                case Linear():
                    self._linear(node)
                case Attention() as op:
                    self._attend(node, op)
                case Rotary() | Activation():
                    pass  # part of the linear layer before it
                case _:
                    raise ValueError(f"%{node.name}: {node.op.title} cannot be lowered")
        return _share_activations(self.p.steps)

    def _norm(self, node: Node, op: Norm) -> None:
        """Rows in INT8, in FP32 or in both, as the engines of its readers take them."""
        cols = self.p.widths[node.name]
        kinds = {takes_floats(self.p.graph.weight_of(reader)) for reader in self.p.readers[node.name]}
        for floats in sorted(kinds):
            made: Operands
            if floats:
                self.p.values[node.name] = self.p.buffer(
                    f"{node.name}.floats", self.p.design.block * padded(cols, 4) * 4
                )
                made = {"codes": self.p.slot(self.p.values[node.name]), "scale": NOWHERE}
            else:
                self.p.codes[node.name] = codes, scale = self.p.int8(node.name, cols)
                made = {"codes": self.p.slot(codes), "scale": self.p.slot(scale)}
            self.p.step(
                node,
                Opcode.NORM,
                {
                    "source": self.p.slot("x"),
                    "gain": self.p.slot(gain_name(op)),
                    **made,
                    "floats": int(floats),
                    "cols": cols,
                    "eps": float(np.float32(op.eps)),
                    "inverse": float(np.float32(1) / np.float32(cols)),
                },
                "floats" if floats and len(kinds) > 1 else "",
            )

    def _linear(self, node: Node) -> None:
        readers = self.p.readers[node.name]
        if len(readers) != 1:
            raise ValueError(f"%{node.name}: a linear layer that {len(readers)} nodes read cannot be lowered")
        (reader,) = readers
        match reader.op:
            case Rotary() as rotary:
                attention = self.p.readers[reader.name][0]
                if attention.inputs[0] == reader.name:
                    if self._choose(attention, node) == "gemm":
                        attend.queries(self.p, node, rotary)
                else:
                    self._append(node, "keys", rotary.head_dim, rotary)
            case Attention() as op:
                self._append(node, "values", op.head_dim)
            case Add():
                extra: Operands = {"target": self.p.slot("x"), "stride": padded(self.p.widths[node.name], 4)}
                self.p.linear(node, node.inputs[0], Epilogue.ADD, extra)
            case Activation():
                ffn = padded(self.p.widths[reader.name], 4)
                target = self.p.buffer(reader.name, self.p.design.block * ffn * 4)
                self.p.values[reader.name] = target
                self.p.linear(node, node.inputs[0], Epilogue.GLU, {"target": self.p.slot(target), "stride": ffn})
            case _:
                raise ValueError(f"%{node.name}: a linear layer before {reader.op.title} cannot be lowered")

    def _choose(self, attention: Node, q: Node) -> str:
        """The dataflow of an attention block: forced, or the cheaper one."""
        forced = (self.dataflow, "forced by --dataflow")
        made = forced if self.dataflow != "auto" else attend.choose(self.p, attention, q, self.bandwidth_gb_s)
        self.chosen[attention.layer or 0] = made
        return made[0]

    def _attend(self, node: Node, op: Attention) -> None:
        target = self.p.buffer(node.name, self.p.design.block * padded(self.p.widths[node.name], 4) * 4)
        self.p.values[node.name] = target
        attend.steps(self.p, node, op, self.chosen[node.layer or 0][0], target)

    def _append(self, node: Node, kind: str, head_dim: int, rotary: Rotary | None = None) -> None:
        """K or V: rotated if K, quantized by head, and written into the cache."""
        self.p.linear(
            node,
            node.inputs[0],
            Epilogue.ROPE_HEADS if rotary else Epilogue.HEADS,
            {
                "target": self.p.slot(f"l{node.layer}.{kind}"),
                "target_scale": self.p.slot(f"l{node.layer}.{kind}.scale"),
                "capacity": self.p.design.context,
                "append": 1,
                "head_dim": head_dim,
                "rope": self.p.slot(self.p.rotary[rotary.frequencies]) if rotary else NOWHERE,
            },
        )


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
