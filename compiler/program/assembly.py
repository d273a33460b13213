# SPDX-License-Identifier: Apache-2.0
"""assembly: one program in the making.  Keeps its buffers, its steps, and what each node's value became."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field

from meadow.compiler.engines.stored import Stored
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Threshold
from meadow.compiler.program.parts import tile_rows, weight_parts
from meadow.compiler.program.tables import rotary_names
from meadow.machine.design import Design
from meadow.machine.engines.table import engine_for, engine_of
from meadow.machine.isa import Epilogue, Opcode, Value
from meadow.machine.program import Buffer
from meadow.machine.step import NOWHERE, Slot, Step
from meadow.machine.storage.rows import padded
from meadow.machine.types import Weight
from meadow.machine.units import BEAT_BYTES, LANE_COLS

Operands = dict[str, Slot | Value]
LONG = 8 << 20
"""Weights of a matrix that takes 0.5 ms to read at 17 GB/s: the list of live columns takes some microseconds, which nothing hides."""
NO_OPTIONS: Operands = {"options": 0, "bias": NOWHERE, "gain": NOWHERE, "eps": 0.0}
"""Of a linear whose results go to the epilogue as they are (machine/instructions/options.py)."""


def takes_floats(weight: Weight) -> bool:
    """Whether the engine of a weight takes FP32 rows, and not INT8 codes with a scale per token; engines of one type agree."""
    kind = engine_for(weight.elem)
    return kind is not None and kind.activations == "float"


@dataclass
class Assembly:
    """One program, and the graph that it is made of.

    constants  buffers that both programs share, by name
    phase      "prefill" or "decode"
    dataflow, bandwidth_gb_s  "gemm" or "tphs" for all attention, or "auto"; of the board's DRAM, for the cost model
    values     of a node: the buffer of its FP32 value, or of its codes by head
    codes      of a node: the buffers of its INT8 codes and scales
    chosen     by layer: the dataflow of its attention, and the reason
    """

    graph: Graph
    design: Design
    packed: Mapping[str, Stored]
    constants: Mapping[str, Buffer]
    phase: str
    dataflow: str
    bandwidth_gb_s: float
    buffers: dict[str, Buffer] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    codes: dict[str, tuple[str, str]] = field(default_factory=dict)
    chosen: dict[int, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parts_of = weight_parts(self.graph, self.design)
        self.readers = self.graph.readers()
        self.by_name = {n.name: n for n in self.graph.nodes}
        self.widths = self.graph.widths()
        self.rotary = rotary_names(self.graph)

    def tile_rows(self, node: Node) -> int:
        """Output features per tile of a linear."""
        return tile_rows(node, self.readers, self.design)

    def apart(self) -> Assembly:
        """A copy without steps, to try something on: what it makes does not reach this program."""
        other = copy(self)
        other.buffers, other.steps = dict(self.buffers), []
        other.values, other.codes = dict(self.values), dict(self.codes)
        return other

    def buffer(self, name: str, length: int) -> str:
        """An activation buffer of this program."""
        full = f"{self.phase}.{name}"
        self.buffers[full] = Buffer(full, padded(length, BEAT_BYTES), "activation")
        return full

    def slot(self, name: str) -> Slot:
        buffer = self.buffers.get(name) or self.constants[name]
        return Slot(name, 0, buffer.length)

    def step(self, node: Node, opcode: Opcode, operands: Operands, role: str = "", part: int | None = None) -> None:
        """Append a step of `node`; `role` is added to the node's own."""
        self.steps.append(Step(node.role + (f".{role}" if role else ""), opcode, operands, node.layer, part))

    def int8(self, name: str, cols: int) -> tuple[str, str]:
        """Buffers for the INT8 codes and scales of `cols` wide rows."""
        block = self.design.block
        return (
            self.buffer(f"{name}.codes", block * padded(cols, LANE_COLS)),
            self.buffer(f"{name}.scale", block * 4),
        )

    def quantized(self, name: str) -> tuple[str, str]:
        """The INT8 codes and scales of node `name`, quantizing its FP32 value if it has none yet."""
        if name not in self.codes:
            cols = self.widths[name]
            self.codes[name] = codes, scale = self.int8(name, cols)
            self.step(
                self.by_name[name],
                Opcode.QUANTIZE,
                {
                    "source": self.slot(self.values[name]),
                    "codes": self.slot(codes),
                    "scale": self.slot(scale),
                    "cols": cols,
                    "floats": 0,
                    "threshold": 0.0,
                },
                "quantize",
            )
        return self.codes[name]

    def inputs(self, node: str, weight: str) -> Operands:
        """The operands by which a linear finds the value of `node`, in the form that the engine of its weights takes."""
        if takes_floats(self.graph.weights[weight]):
            return {"codes": self.slot(self.values[node]), "scale": NOWHERE}
        codes, scale = self.quantized(node)
        return {"codes": self.slot(codes), "scale": self.slot(scale)}

    def live(self, source: str, weight: Weight) -> bool:
        """Whether a decoded token is to read only the columns of its weights that it needs: where a threshold cuts what it meets, and
        where a matrix is so long that waiting for the list of columns does not matter."""
        cut = isinstance(self.by_name[source].op, Threshold)
        return self.phase == "decode" and (cut or weight.size >= LONG)

    def weights(self, name: str, live: bool = False) -> Operands:
        """The operands by which a step finds its weights, all of them or the columns that its activations need."""
        p = self.packed[name]
        made: Operands = {"reuse": 0, "hold": 0}
        for port in range(4):
            made[f"weights{port}"] = self.slot(f"{name}.{port}") if port < len(p.streams) else NOWHERE
        made |= {"format": 0, "directory": NOWHERE, "table": NOWHERE, "entries": 0, "weight_scale": NOWHERE}
        for field_name, value in p.operands().items():
            made[field_name] = self.slot(f"{name}.{value}") if isinstance(value, str) else value
        if live:
            word = int(made["format"])  # type: ignore[arg-type]
            made["format"] = engine_of(word).live_word(word)
        return made

    def linear(self, node: Node, source: str, epilogue: Epilogue, extra: Operands) -> None:
        """Append the steps of a linear layer on the value of node `source`: one for each part of its weight."""
        weight = node.weight or ""
        inputs = self.inputs(source, weight)
        for part in self.parts_of[weight]:
            operands: Operands = {
                **inputs,
                **self.weights(part.name, self.live(source, self.graph.weights[weight])),
                "rows": part.layout.rows,
                "cols": part.layout.operand_cols,
                "tile_rows": tile_rows(node, self.readers, self.design),
                "epilogue": int(epilogue),
                "target": NOWHERE,
                "target_scale": NOWHERE,
                "stride": 0,
                "capacity": 0,
                "append": 0,
                "head_dim": 0,
                "rope": NOWHERE,
                "first_row": part.first_row,
                **NO_OPTIONS,
                **extra,
            }
            self.step(node, Opcode.LINEAR, operands, part=part.number)
