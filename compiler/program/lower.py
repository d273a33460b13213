# SPDX-License-Identifier: Apache-2.0
"""lower: a Graph becomes two programs, prefill and decode, over named buffers.  Here GEMM or TPHS is chosen.

Puts nothing at an address; that is place.py's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Activation, Add, Attention, Embedding, Head, Linear, Norm, Rotary
from meadow.compiler.price import cost
from meadow.compiler.program.constants import gain_name, gains, rope_row_bytes, rotary_names
from meadow.compiler.program.pack import Stored
from meadow.compiler.program.parts import tile_rows, weight_parts
from meadow.compiler.program.residual import check_residual
from meadow.machine.arithmetic import int8
from meadow.machine.design import BEAT_BYTES, LANE_COLS, Design
from meadow.machine.instructions.instruction import Tokens
from meadow.machine.isa import Epilogue, Opcode, Value
from meadow.machine.program import Buffer, Schedule
from meadow.machine.step import NOWHERE, Slot, Step
from meadow.machine.storage.groups import GroupLayout, is_grouped
from meadow.machine.storage.rows import Layout, padded

PHASES = ("prefill", "decode")
Operands = dict[str, Slot | Value]


def lower(graph: Graph, design: Design, packed: Mapping[str, Stored], dataflow: str, bandwidth_gb_s: float) -> Schedule:
    """Both programs.

    packed          every part of weight_parts, by its name
    dataflow        "gemm" or "tphs" forces all attention blocks; "auto" lets the cost model choose for each phase
    bandwidth_gb_s  of the board's DRAM, for the cost model
    """
    programs, buffers = {}, _constant_buffers(graph, design, packed)
    chosen = {}
    for phase in PHASES:
        lowering = _Lowering(graph, design, packed, buffers, phase, dataflow, bandwidth_gb_s)
        programs[phase] = lowering.run()
        buffers |= lowering.buffers
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
    """One program in the making: walks the graph once, keeping what each node's value became."""

    graph: Graph
    design: Design
    packed: Mapping[str, Stored]
    constants: dict[str, Buffer]
    phase: str
    dataflow: str
    bandwidth_gb_s: float
    buffers: dict[str, Buffer] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    values: dict[str, str] = field(
        default_factory=dict
    )  # of a node: the buffer of its FP32 value, or of its codes by head
    codes: dict[str, tuple[str, str]] = field(
        default_factory=dict
    )  # of a node: the buffers of its INT8 codes and scales
    chosen: dict[int, tuple[str, str]] = field(default_factory=dict)  # by layer: dataflow and reason

    def run(self) -> tuple[Step, ...]:
        self.parts_of = weight_parts(self.graph, self.design)
        self.readers = self.graph.readers()
        self.by_name = {n.name: n for n in self.graph.nodes}
        self.widths = self.graph.widths()
        self.rotary = rotary_names(self.graph)
        check_residual(self.graph)
        for node in self.graph.nodes:
            match node.op:
                case Embedding() | Add():
                    self.values[node.name] = "x"
                case Norm() as op:
                    self._norm(node, op)
                case Head():
                    self._head(node)
                case Linear():
                    self._linear(node)
                case Attention() as op:
                    self._attend(node, op)
                case Rotary() | Activation():
                    pass  # part of the linear layer before it
                case _:
                    raise ValueError(f"%{node.name}: {node.op.title} cannot be lowered")
        return _share_activations(self.steps)

    # -- buffers ---------------------------------------------------------------------------------------------------

    def _buffer(self, name: str, length: int) -> str:
        """An activation buffer of this program."""
        full = f"{self.phase}.{name}"
        self.buffers[full] = Buffer(full, padded(length, BEAT_BYTES), "activation")
        return full

    def slot(self, name: str) -> Slot:
        buffer = self.buffers.get(name) or self.constants[name]
        return Slot(name, 0, buffer.length)

    def _step(self, node: Node, opcode: Opcode, operands: Operands, role: str = "", part: int | None = None) -> None:
        """Append a step of `node`; `role` is added to the node's own."""
        self.steps.append(Step(node.role + (f".{role}" if role else ""), opcode, operands, node.layer, part))

    def _int8(self, name: str, cols: int) -> tuple[str, str]:
        """Buffers for the INT8 codes and scales of `cols` wide rows."""
        block = self.design.block
        return (
            self._buffer(f"{name}.codes", block * padded(cols, LANE_COLS)),
            self._buffer(f"{name}.scale", block * 4),
        )

    # -- nodes -----------------------------------------------------------------------------------------------------

    def _norm(self, node: Node, op: Norm) -> None:
        """Rows in INT8 for the array, in FP32 for pacq_gemv, as its readers want."""
        cols = self.widths[node.name]
        kinds = {bool(self.graph.weight_of(reader).elem.group) for reader in self.readers[node.name]}
        for floats in sorted(kinds):
            made: Operands
            if floats:
                self.values[node.name] = self._buffer(f"{node.name}.floats", self.design.block * padded(cols, 4) * 4)
                made = {"codes": self.slot(self.values[node.name]), "scale": NOWHERE}
            else:
                self.codes[node.name] = codes, scale = self._int8(node.name, cols)
                made = {"codes": self.slot(codes), "scale": self.slot(scale)}
            self._step(
                node,
                Opcode.NORM,
                {
                    "source": self.slot("x"),
                    "gain": self.slot(gain_name(op)),
                    **made,
                    "floats": int(floats),
                    "cols": cols,
                    "eps": float(np.float32(op.eps)),
                    "inverse": float(np.float32(1) / np.float32(cols)),
                },
                "floats" if floats and len(kinds) > 1 else "",
            )

    def _quantized(self, name: str) -> tuple[str, str]:
        """The INT8 codes and scales of node `name`, quantizing its FP32 value if it has none yet."""
        if name not in self.codes:
            cols = self.widths[name]
            self.codes[name] = codes, scale = self._int8(name, cols)
            self._step(
                self.by_name[name],
                Opcode.QUANTIZE,
                {
                    "source": self.slot(self.values[name]),
                    "codes": self.slot(codes),
                    "scale": self.slot(scale),
                    "cols": cols,
                },
                "quantize",
            )
        return self.codes[name]

    def _inputs(self, node: str, weight: str) -> Operands:
        """The operands by which a linear finds the value of `node`, in the form that the engine of its weights takes."""
        if not self.graph.weights[weight].elem.group:
            codes, scale = self._quantized(node)
            return {"codes": self.slot(codes), "scale": self.slot(scale)}
        return {"codes": self.slot(self.values[node]), "scale": NOWHERE}

    def _weights(self, name: str) -> Operands:
        """The operands by which a step finds its weights."""
        p = self.packed[name]
        made: Operands = {"reuse": 0, "hold": 0}
        for port in range(4):
            made[f"weights{port}"] = self.slot(f"{name}.{port}") if port < len(p.streams) else NOWHERE
        made |= {"format": 0, "directory": NOWHERE, "table": NOWHERE, "entries": 0, "weight_scale": NOWHERE}
        for field_name, value in p.operands().items():
            made[field_name] = self.slot(f"{name}.{value}") if isinstance(value, str) else value
        return made

    def _emit_linear(self, node: Node, source: str, epilogue: Epilogue, extra: Operands) -> None:
        weight = node.weight or ""
        inputs = self._inputs(source, weight)
        for part in self.parts_of[weight]:
            layout = part.layout
            grouped = isinstance(layout, GroupLayout)
            operands: Operands = {
                **inputs,
                **self._weights(part.name),
                "rows": layout.rows,
                "cols": layout.cols if grouped else layout.padded_cols,
                "tile_rows": layout.tile_rows
                if isinstance(layout, Layout)
                else tile_rows(node, self.readers, self.design),
                "epilogue": int(epilogue),
                "target": NOWHERE,
                "target_scale": NOWHERE,
                "stride": 0,
                "capacity": 0,
                "append": 0,
                "head_dim": 0,
                "rope": NOWHERE,
                "first_row": part.first_row,
                **extra,
            }
            self._step(node, Opcode.LINEAR, operands, part=part.number)

    def _linear(self, node: Node) -> None:
        readers = self.readers[node.name]
        if len(readers) != 1:
            raise ValueError(f"%{node.name}: a linear layer that {len(readers)} nodes read cannot be lowered")
        (reader,) = readers
        match reader.op:
            case Rotary() as rotary:
                attend = self.readers[reader.name][0]
                if attend.inputs[0] == reader.name:
                    self.choose(attend, node)
                    if self.chosen[attend.layer or 0][0] == "gemm":
                        self._queries(node, rotary)
                else:
                    self._append(node, "keys", rotary.head_dim, rotary)
            case Attention() as op:
                self._append(node, "values", op.head_dim)
            case Add():
                extra: Operands = {"target": self.slot("x"), "stride": padded(self.widths[node.name], 4)}
                self._emit_linear(node, node.inputs[0], Epilogue.ADD, extra)
            case Activation():
                ffn = padded(self.widths[reader.name], 4)
                target = self._buffer(reader.name, self.design.block * ffn * 4)
                self.values[reader.name] = target
                self._emit_linear(node, node.inputs[0], Epilogue.GLU, {"target": self.slot(target), "stride": ffn})
            case _:
                raise ValueError(f"%{node.name}: a linear layer before {reader.op.title} cannot be lowered")

    def _append(self, node: Node, kind: str, head_dim: int, rotary: Rotary | None = None) -> None:
        """K or V: rotated if K, quantized by head, and written into the cache."""
        self._emit_linear(
            node,
            node.inputs[0],
            Epilogue.ROPE_HEADS if rotary else Epilogue.HEADS,
            {
                "target": self.slot(f"l{node.layer}.{kind}"),
                "target_scale": self.slot(f"l{node.layer}.{kind}.scale"),
                "capacity": self.design.context,
                "append": 1,
                "head_dim": head_dim,
                "rope": self.slot(self.rotary[rotary.frequencies]) if rotary else NOWHERE,
            },
        )

    def _queries(self, node: Node, rotary: Rotary) -> None:
        """GEMM dataflow: Q goes to DRAM."""
        block, width = padded(self.design.block, 4), padded(rotary.head_dim, BEAT_BYTES)
        target = self._buffer(f"{node.name}.int8", rotary.heads * block * width)
        scale = self._buffer(f"{node.name}.int8.scale", rotary.heads * block * 4)
        self.values[node.name] = target
        self._emit_linear(
            node,
            node.inputs[0],
            Epilogue.ROPE_HEADS,
            {
                "target": self.slot(target),
                "target_scale": self.slot(scale),
                "capacity": block,
                "head_dim": rotary.head_dim,
                "rope": self.slot(self.rotary[rotary.frequencies]),
            },
        )

    def _cache(self, node: Node, op: Attention) -> Operands:
        layer = node.layer
        return {
            "heads": op.heads,
            "kv_heads": op.kv_heads,
            "head_dim": op.head_dim,
            "keys": self.slot(f"l{layer}.keys"),
            "key_scale": self.slot(f"l{layer}.keys.scale"),
            "values": self.slot(f"l{layer}.values"),
            "value_scale": self.slot(f"l{layer}.values.scale"),
            "capacity": self.design.context,
            "kappa": float(int8.score_scale(op.scale)),
        }

    def _query(self, node: Node) -> tuple[Node, Rotary]:
        """The linear that makes an attention's queries, and their rotation."""
        rotary = self.by_name[node.inputs[0]]
        assert isinstance(rotary.op, Rotary)
        return self.by_name[rotary.inputs[0]], rotary.op

    def _attend(self, node: Node, op: Attention) -> None:
        target = self._buffer(node.name, self.design.block * padded(self.widths[node.name], 4) * 4)
        self.values[node.name] = target
        (self.tphs_steps if self.chosen[node.layer or 0][0] == "tphs" else self.gemm_steps)(node, op, target)

    def tphs_steps(self, node: Node, op: Attention, target: str) -> None:
        """One step: Q projection, QK^T, softmax and softmax x V as a pipeline, head after head."""
        q, rotary = self._query(node)
        (part,) = self.parts_of[q.weight or ""]
        cols = part.layout.padded_cols if isinstance(part.layout, Layout) else part.layout.cols
        self._step(
            node,
            Opcode.TPHS,
            {
                **self._inputs(q.inputs[0], q.weight or ""),
                **self._weights(part.name),
                "cols": cols,
                **self._cache(node, op),
                "rope": self.slot(self.rotary[rotary.frequencies]),
                "target": self.slot(target),
                "stride": padded(self.widths[node.name], 4),
            },
        )

    def gemm_steps(self, node: Node, op: Attention, target: str) -> None:
        """Three steps: scores, softmax and context, each reading and writing DRAM."""
        block, row = padded(self.design.block, 4), padded(self.design.context, 8)
        cache = self._cache(node, op)
        size = op.heads * block * row
        s = self._buffer(f"{node.name}.scores", size * 4)
        p = self._buffer(f"{node.name}.softmax", size * 2)
        d = self._buffer(f"{node.name}.divisor", op.heads * block * BEAT_BYTES)
        queries = self.values[self._query(node)[0].name]

        def common(*names: str) -> Operands:
            return {name: cache[name] for name in names}

        self._step(
            node,
            Opcode.SCORES,
            {
                "queries": self.slot(queries),
                "query_scale": self.slot(f"{queries}.scale"),
                **common("keys", "key_scale", "heads", "kv_heads", "head_dim", "capacity", "kappa"),
                "block": block,
                "target": self.slot(s),
                "row": row,
            },
            "scores",
        )
        self._step(
            node,
            Opcode.SOFTMAX,
            {
                "scores": self.slot(s),
                **common("value_scale", "heads", "kv_heads", "capacity"),
                "block": block,
                "row": row,
                "target": self.slot(p),
                "divisor": self.slot(d),
            },
            "softmax",
        )
        self._step(
            node,
            Opcode.CONTEXT,
            {
                "weights": self.slot(p),
                "divisor": self.slot(d),
                **common("values", "heads", "kv_heads", "head_dim", "capacity"),
                "block": block,
                "row": row,
                "target": self.slot(target),
                "stride": padded(self.widths[node.name], 4),
            },
            "context",
        )

    def choose(self, attend: Node, q: Node) -> None:
        """GEMM or TPHS for this block and phase: forced, or the cheaper one by the cost model, with the reason."""
        layer = attend.layer or 0
        if self.dataflow != "auto":
            self.chosen[layer] = (self.dataflow, "forced by --dataflow")
            return
        tokens = self.design.block if self.phase == "prefill" else 1
        position = max(0, min(self.design.context, 512) - tokens)
        totals = {}
        for mode in ("tphs", "gemm"):
            steps = self._trial(attend, q, mode)
            totals[mode] = sum(
                cost.step_cost(s, self.design, Tokens(tokens, position), self.bandwidth_gb_s).cycles for s in steps
            )
        best = min(totals, key=lambda m: totals[m])
        other = "gemm" if best == "tphs" else "tphs"
        self.chosen[layer] = (
            best,
            f"{totals[best]:,.0f} cycles against {totals[other]:,.0f} for {other}, modelled at {tokens} token{'s' * (tokens > 1)} after {position}",
        )

    def _trial(self, attend: Node, q: Node, mode: str) -> list[Step]:
        """The steps of an attention block by one dataflow, made apart from the program."""
        apart = replace(self, buffers=dict(self.buffers), steps=[], values=dict(self.values), codes=dict(self.codes))
        for name in ("parts_of", "readers", "by_name", "widths", "rotary"):
            setattr(apart, name, getattr(self, name))
        rotary = self.by_name[attend.inputs[0]].op
        assert isinstance(attend.op, Attention) and isinstance(rotary, Rotary)
        if mode == "gemm":
            apart._queries(q, rotary)
            apart.gemm_steps(attend, attend.op, "x")
        else:
            apart.tphs_steps(attend, attend.op, "x")
        return apart.steps

    def _head(self, node: Node) -> None:
        stride = padded(self.graph.model.vocab, 4)
        self._emit_linear(node, node.inputs[0], Epilogue.LOGITS, {"target": self.slot("logits"), "stride": stride})


def _share_activations(steps: list[Step]) -> tuple[Step, ...]:
    """Tell pacq_gemv which activations it keeps: where linears on the same ones follow each other."""
    made = list(steps)
    previous: int | None = None
    for index, step in enumerate(made):
        if "hold" not in step.operands or not is_grouped(step.operands["format"]):
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
