# SPDX-License-Identifier: Apache-2.0
"""lower: a Graph becomes two programs, prefill and decode, over named buffers.  Here GEMM or TPHS is chosen.

Puts nothing at an address; that is place.py's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from meadow.compiler.graph.graph import Graph, Node, Op
from meadow.compiler.price import cost
from meadow.compiler.program.pack import AnyPacked, PackedGroups
from meadow.compiler.program.parts import tile_rows, weight_parts
from meadow.compiler.program.residual import check_residual
from meadow.machine.arithmetic import int8
from meadow.machine.design import BEAT_BYTES, LANE_COLS, Design
from meadow.machine.isa import Epilogue, Opcode, Value
from meadow.machine.program import NOWHERE, Buffer, Schedule, Slot, Step
from meadow.machine.storage.groups import GroupLayout, is_grouped
from meadow.machine.storage.rows import Layout, padded

PHASES = ("prefill", "decode")
Operands = dict[str, Slot | Value]


def lower(graph: Graph, design: Design, packed: Mapping[str, AnyPacked], dataflow: str,
          bandwidth_gb_s: float) -> Schedule:  # fmt: skip
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


def rope_row_bytes(head_dim: int) -> int:
    """Bytes of one position in the rotary table: cos and sin of head_dim / 2 pairs, int16, padded to a beat."""
    return padded(head_dim * 2, BEAT_BYTES)


def _constant_buffers(graph: Graph, design: Design, packed: Mapping[str, AnyPacked]) -> dict[str, Buffer]:
    model, made = graph.model, {}

    def add(name: str, length: int, kind: str) -> None:
        made[name] = Buffer(name, length, kind)

    add("rope", design.context * rope_row_bytes(model.head_dim), "constants")
    for name, gain in graph.gains.items():
        add(name, padded(gain.nbytes, BEAT_BYTES), "constants")
    for name, p in packed.items():
        for port, stream in enumerate(p.streams):
            add(f"{name}.{port}", stream.nbytes, "weights")
        if isinstance(p, PackedGroups):
            continue
        if p.form is not None:
            add(f"{name}.directory", padded(p.directory.nbytes, BEAT_BYTES), "weights")
            add(f"{name}.table", padded(p.table.nbytes, BEAT_BYTES), "weights")
        add(f"{name}.scale", p.layout.scale_bytes, "weights")
    for layer in range(model.layers):
        for kind in ("keys", "values"):
            width = padded(model.head_dim, BEAT_BYTES)
            add(f"l{layer}.{kind}", model.kv_heads * design.context * width, "kv")
            add(f"l{layer}.{kind}.scale", model.kv_heads * padded(design.context, 4) * 4, "kv")
    add("x", design.block * padded(model.dim, 4) * 4, "pinned")
    add("logits", design.block * padded(model.vocab, 4) * 4, "pinned")
    return made


@dataclass
class _Lowering:
    """One program in the making: walks the graph once, keeping what each node's value became."""

    graph: Graph
    design: Design
    packed: Mapping[str, AnyPacked]
    constants: dict[str, Buffer]
    phase: str
    dataflow: str
    bandwidth_gb_s: float
    buffers: dict[str, Buffer] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    chosen: dict[int, tuple[str, str]] = field(default_factory=dict)  # by layer: dataflow and reason

    def run(self) -> tuple[Step, ...]:
        parts_of = weight_parts(self.graph, self.design)
        self.parts_of = parts_of
        self.readers = {n.name: [r for r in self.graph.nodes if n.name in r.inputs] for n in self.graph.nodes}
        self.by_name = {n.name: n for n in self.graph.nodes}
        check_residual(self.graph)
        for node in self.graph.nodes:
            match node.op:
                case Op.EMBED:
                    self.values[node.name] = "x"
                case Op.NORM:
                    self._norm(node)
                case Op.LINEAR:
                    self._linear(node)
                case Op.HEAD:
                    self._head(node)
                case Op.ATTEND:
                    self._attend(node)
                case Op.ADD:
                    self.values[node.name] = "x"
                case Op.ROPE | Op.GLU:
                    pass  # part of the linear layer before it
        self._share_activations()
        return tuple(self.steps)

    # -- buffers ---------------------------------------------------------------------------------------------------

    def _buffer(self, name: str, length: int) -> str:
        """An activation buffer of this program."""
        full = f"{self.phase}.{name}"
        self.buffers[full] = Buffer(full, padded(length, BEAT_BYTES), "activation")
        return full

    def slot(self, name: str) -> Slot:
        buffer = self.buffers.get(name) or self.constants[name]
        return Slot(name, 0, buffer.length)

    def _step(self, name: str, opcode: Opcode, operands: Operands) -> Step:
        step = Step(name, opcode, operands)
        self.steps.append(step)
        return step

    def _int8(self, name: str, cols: int) -> tuple[str, str]:
        """Buffers for the INT8 codes and scales of `cols` wide rows."""
        block = self.design.block
        return (self._buffer(f"{name}.codes", block * padded(cols, LANE_COLS)),
                self._buffer(f"{name}.scale", block * 4))  # fmt: skip

    # -- nodes -----------------------------------------------------------------------------------------------------

    def _norm(self, node: Node) -> None:
        """Rows in INT8 for the array, in FP32 for pacq_gemv, as its readers want."""
        cols = self.graph.model.dim
        kinds = {bool(self.graph.weight_of(reader).elem.group) for reader in self.readers[node.name]}
        for floats in sorted(kinds):
            made: Operands
            if floats:
                self.values[node.name] = self._buffer(f"{node.name}.floats", self.design.block * padded(cols, 4) * 4)
                made = {"codes": self.slot(self.values[node.name]), "scale": NOWHERE}
            else:
                codes, scale = self._int8(node.name, cols)
                self.codes[node.name] = codes
                made = {"codes": self.slot(codes), "scale": self.slot(scale)}
            self._step(node.name + ".floats" * (floats and len(kinds) > 1), Opcode.NORM, {
                "source": self.slot("x"), "gain": self.slot(node.weight or ""), **made, "floats": int(floats), "cols": cols,
                "eps": float(np.float32(self.graph.model.eps)), "inverse": float(np.float32(1) / np.float32(cols)),
            })  # fmt: skip

    def _quantized(self, name: str) -> str:
        """The INT8 codes of node `name`, quantizing its FP32 value if it has none yet."""
        if name not in self.codes:
            source = self.values[name]
            op = self.by_name[name].op
            cols = self.graph.model.ffn if op is Op.GLU else self.graph.model.heads * self.graph.model.head_dim
            codes, scale = self._int8(name, cols)
            self._step(f"{name}.quantize", Opcode.QUANTIZE, {
                "source": self.slot(source), "codes": self.slot(codes), "scale": self.slot(scale), "cols": cols,
            })  # fmt: skip
            self.codes[name] = codes
        return self.codes[name]

    def _inputs(self, node: str, weight: str) -> Operands:
        """The operands by which a linear finds the value of `node`, in the form that the engine of its weights takes.

        pacq_gemv is given the same activations once for linears that follow each other.
        """
        if not self.graph.weights[weight].elem.group:
            codes = self._quantized(node)
            return {"codes": self.slot(codes), "scale": self.slot(codes.removesuffix(".codes") + ".scale")}
        return {"codes": self.slot(self.values[node]), "scale": NOWHERE}

    def _share_activations(self) -> None:
        """Tell pacq_gemv which activations it keeps: where linears on the same ones follow each other."""
        previous: Step | None = None
        for step in self.steps:
            if "hold" not in step.operands or not is_grouped(step.operands["format"]):
                continue
            same = (
                previous is not None
                and previous.operands["codes"] == step.operands["codes"]
                and previous.operands["format"] == step.operands["format"]  # rows are kept as its groups have them
                and _served(previous) == _served(step)
            )
            if same and previous is not None:
                previous.operands["hold"] = 1
                step.operands["reuse"] = 1
            previous = step

    def _weights(self, name: str) -> Operands:
        """The operands by which a step finds its weights."""
        p = self.packed[name]
        made: Operands = {"reuse": 0, "hold": 0}
        for port in range(4):
            made[f"weights{port}"] = self.slot(f"{name}.{port}") if port < len(p.streams) else NOWHERE
        if isinstance(p, PackedGroups):
            return made | {
                "format": p.form.word,
                "directory": NOWHERE,
                "table": NOWHERE,
                "entries": 0,
                "weight_scale": NOWHERE,
            }
        made["format"] = p.form.word if p.form is not None else 0
        made["directory"] = self.slot(f"{name}.directory") if p.form is not None else NOWHERE
        made["table"] = self.slot(f"{name}.table") if p.form is not None else NOWHERE
        made["entries"] = p.entries
        made["weight_scale"] = self.slot(f"{name}.scale")
        return made

    def _emit_linear(self, node: Node, source: str, epilogue: Epilogue, extra: Operands) -> None:
        name, weight = node.name, node.weight or ""
        inputs = self._inputs(source, weight)
        for part in self.parts_of[weight]:
            layout = part.layout
            grouped = isinstance(layout, GroupLayout)
            operands: Operands = {
                **inputs, **self._weights(part.name), "rows": layout.rows,
                "cols": layout.cols if grouped else layout.padded_cols,
                "tile_rows": layout.tile_rows if isinstance(layout, Layout) else tile_rows(self.graph, node, self.design),
                "epilogue": int(epilogue), "target": NOWHERE, "target_scale": NOWHERE,
                "stride": 0, "capacity": 0, "append": 0, "head_dim": 0, "rope": NOWHERE, "first_row": part.first_row,
                **extra,
            }  # fmt: skip
            suffix = part.name[len(weight) :]
            self._step(name + suffix, Opcode.LINEAR, operands)

    def _linear(self, node: Node) -> None:
        (reader,) = self.readers[node.name]
        if reader.op is Op.ROPE:
            attend = self.readers[reader.name][0]
            if attend.inputs[0] == reader.name:
                self.choose(attend, node)
                if self.chosen[attend.layer or 0][0] == "gemm":
                    self._queries(node)
            else:
                self._append(node, "keys", Epilogue.ROPE_HEADS)
            return
        if reader.op is Op.ATTEND:
            self._append(node, "values", Epilogue.HEADS)
        elif reader.op is Op.ADD:
            extra: Operands = {"target": self.slot("x"), "stride": padded(self.graph.model.dim, 4)}
            self._emit_linear(node, node.inputs[0], Epilogue.ADD, extra)
        elif reader.op is Op.GLU:
            ffn = padded(self.graph.model.ffn, 4)
            target = self._buffer(reader.name, self.design.block * ffn * 4)
            self.values[reader.name] = target
            self._emit_linear(node, node.inputs[0], Epilogue.GLU, {"target": self.slot(target), "stride": ffn})
        else:
            raise ValueError(f"%{node.name}: a linear layer before {reader.op.value} cannot be lowered")

    def _append(self, node: Node, kind: str, epilogue: Epilogue) -> None:
        """K or V: rotated if K, quantized by head, and written into the cache."""
        self._emit_linear(node, node.inputs[0], epilogue, {
            "target": self.slot(f"l{node.layer}.{kind}"), "target_scale": self.slot(f"l{node.layer}.{kind}.scale"),
            "capacity": self.design.context, "append": 1, "head_dim": self.graph.model.head_dim,
            "rope": self.slot("rope") if epilogue is Epilogue.ROPE_HEADS else NOWHERE,
        })  # fmt: skip

    def _queries(self, node: Node) -> None:
        """GEMM dataflow: Q goes to DRAM."""
        model, block = self.graph.model, padded(self.design.block, 4)
        width = padded(model.head_dim, BEAT_BYTES)
        target = self._buffer(f"{node.name}.int8", model.heads * block * width)
        scale = self._buffer(f"{node.name}.int8.scale", model.heads * block * 4)
        self.values[node.name] = target
        self._emit_linear(node, node.inputs[0], Epilogue.ROPE_HEADS, {
            "target": self.slot(target), "target_scale": self.slot(scale), "capacity": block,
            "head_dim": model.head_dim, "rope": self.slot("rope"),
        })  # fmt: skip

    def _cache(self, layer: int) -> Operands:
        model = self.graph.model
        return {
            "heads": model.heads, "kv_heads": model.kv_heads, "head_dim": model.head_dim,
            "keys": self.slot(f"l{layer}.keys"), "key_scale": self.slot(f"l{layer}.keys.scale"),
            "values": self.slot(f"l{layer}.values"), "value_scale": self.slot(f"l{layer}.values.scale"),
            "capacity": self.design.context, "kappa": float(int8.score_scale(model.head_dim)),
        }  # fmt: skip

    def _attend(self, node: Node) -> None:
        q = self.by_name[self.by_name[node.inputs[0]].inputs[0]]
        stride = padded(self.graph.model.heads * self.graph.model.head_dim, 4)
        target = self._buffer(node.name, self.design.block * stride * 4)
        self.values[node.name] = target
        mode = self.chosen[node.layer or 0][0]
        self.steps += self.tphs_steps(node, q, target) if mode == "tphs" else self.gemm_steps(node, q, target)

    def tphs_steps(self, node: Node, q: Node, target: str) -> list[Step]:
        """One step: Q projection, QK^T, softmax and softmax x V as a pipeline, head after head."""
        (part,) = self.parts_of[q.weight or ""]
        cache = self._cache(node.layer or 0)
        cols = part.layout.padded_cols if isinstance(part.layout, Layout) else part.layout.cols
        return [Step(node.name, Opcode.TPHS, {
            **self._inputs(q.inputs[0], q.weight or ""), **self._weights(part.name), "cols": cols, **cache, "rope": self.slot("rope"),
            "target": self.slot(target), "stride": padded(self.graph.model.heads * self.graph.model.head_dim, 4),
        })]  # fmt: skip

    def gemm_steps(self, node: Node, q: Node, target: str) -> list[Step]:
        """Three steps: scores, softmax and context, each reading and writing DRAM."""
        model, block, row = self.graph.model, padded(self.design.block, 4), padded(self.design.context, 8)
        cache = self._cache(node.layer or 0)
        size = model.heads * block * row
        s = self._buffer(f"{node.name}.scores", size * 4)
        p = self._buffer(f"{node.name}.softmax", size * 2)
        d = self._buffer(f"{node.name}.divisor", model.heads * block * BEAT_BYTES)
        queries = self.values[q.name]

        def common(*names: str) -> Operands:
            return {name: cache[name] for name in names}

        return [
            Step(f"{node.name}.scores", Opcode.SCORES, {
                "queries": self.slot(queries), "query_scale": self.slot(f"{queries}.scale"),
                **common("keys", "key_scale", "heads", "kv_heads", "head_dim", "capacity", "kappa"),
                "block": block, "target": self.slot(s), "row": row,
            }),
            Step(f"{node.name}.softmax", Opcode.SOFTMAX, {
                "scores": self.slot(s), **common("value_scale", "heads", "kv_heads", "capacity"),
                "block": block, "row": row, "target": self.slot(p), "divisor": self.slot(d),
            }),
            Step(f"{node.name}.context", Opcode.CONTEXT, {
                "weights": self.slot(p), "divisor": self.slot(d),
                **common("values", "heads", "kv_heads", "head_dim", "capacity"),
                "block": block, "row": row, "target": self.slot(target),
                "stride": padded(model.heads * model.head_dim, 4),
            }),
        ]  # fmt: skip

    def choose(self, attend: Node, q: Node) -> None:
        """GEMM or TPHS for this block and phase: forced, or the cheaper one by the cost model, with the reason."""
        if self.dataflow != "auto":
            self.chosen[attend.layer or 0] = (self.dataflow, "forced by --dataflow")
            return
        tokens = self.design.block if self.phase == "prefill" else 1
        position = max(0, min(self.design.context, 512) - tokens)
        buffers, steps, values, codes = dict(self.buffers), list(self.steps), dict(self.values), dict(self.codes)
        totals = {}
        for mode in ("tphs", "gemm"):
            self.steps = []
            if mode == "gemm":
                self._queries(q)
                tail = self.gemm_steps(attend, q, "x")
            else:
                tail = self.tphs_steps(attend, q, "x")
            trial = [*self.steps, *tail]
            totals[mode] = sum(
                cost.step_cost(s, self.design, tokens, position, self.bandwidth_gb_s).cycles for s in trial
            )
            self.buffers, self.steps, self.values, self.codes = dict(buffers), list(steps), dict(values), dict(codes)
        best = min(totals, key=lambda m: totals[m])
        other = "gemm" if best == "tphs" else "tphs"
        self.chosen[attend.layer or 0] = (
            best,
            f"{totals[best]:,.0f} cycles against {totals[other]:,.0f} for {other}, modelled at {tokens} token{'s' * (tokens > 1)} after {position}",
        )

    def _head(self, node: Node) -> None:
        stride = padded(self.graph.model.vocab, 4)
        self._emit_linear(node, node.inputs[0], Epilogue.LOGITS, {"target": self.slot("logits"), "stride": stride})


def _served(step: Step) -> bool:
    """Whether a step takes the activations of every token, not of those alone whose logits are wanted."""
    return step.operands.get("epilogue") != int(Epilogue.LOGITS)
