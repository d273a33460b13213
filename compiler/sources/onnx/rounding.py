# SPDX-License-Identifier: Apache-2.0
"""Roundings of activations to integers that a quantizer wrote into a graph: taken out, counted, and said in a note.

An engine rounds every token's activations by a scale of its own (docs/arithmetic.md), so the file's scales are not used.  What the file
loses by its own roundings is measured against the graph without them (confirm.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LARGEST_SCALE = 1e6
"""Of activations: a larger one comes of a mask's -infinity, and makes every other value zero."""
SIXTEEN = (TensorProto.INT16, TensorProto.UINT16)
BY = ("QuantizeLinear", "Quant", "DynamicQuantizeLinear")


@dataclass(frozen=True)
class Rounding:
    """What was taken out: operators by kind, the widest codes in bits, and (node, scale) of scales that no activation has."""

    places: dict[str, int]
    bits: int
    absurd: tuple[tuple[str, float], ...]
    positional: tuple[str, ...] = ()
    """Nodes that round what depends on positions alone: rotary angles, masks."""

    @property
    def kinds(self) -> str:
        return " and ".join(self.places)

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.places.items())
        return f"activations are rounded by {kinds}: left out, the engine rounds each token's by a scale of its own"


def without_rounding(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Rounding | None]:
    """The same graph with float activations, and what was taken out; None where nothing rounds them."""
    if not any(node.op_type in BY for node in model.graph.node):
        return model, None
    made = onnx.ModelProto()
    made.CopyFrom(model)
    work = _Work(made.graph)
    nodes = [node for old in made.graph.node for node in work.rewritten(old)]
    if not work.places:
        return model, None
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made, Rounding(dict(work.places), work.bits, tuple(work.absurd), tuple(work.positional))


class _Work:
    """One pass over a graph whose nodes stand in order."""

    def __init__(self, graph: onnx.GraphProto):
        self.graph = graph
        self.known = {t.name: t for t in graph.initializer}
        self.computed = {i.name for i in graph.input if i.name not in self.known}
        self.features = {i for i in self.computed if i == "input_ids" or i.startswith("past")}
        """Values that depend on tokens or on the cache: what is computed and none of these depends on positions alone."""
        self.positional: list[str] = []
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.codes: set[str] = set()
        """Results of QuantizeLinear, also when they were moved; a table of codes that tokens look up is none."""
        self.scales: dict[str, str] = {}
        """Of each result of DynamicQuantizeLinear, the name of its scale."""
        self.dropped: set[str] = set()
        """Results that a product took over."""
        self.places: Counter[str] = Counter()
        self.bits, self.absurd = 8, list[tuple[str, float]]()

    def rewritten(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that stand for `node`."""
        if not any(name in self.computed for name in node.input):
            return [node]
        self.computed.update(node.output)
        if node.op_type != "Shape" and any(name in self.features for name in node.input):
            self.features.update(node.output)
        if all(name in self.dropped for name in node.output if name):
            return []
        if node.op_type in ("QuantizeLinear", "Quant"):
            return [self._rounded(node)]
        if node.op_type == "DequantizeLinear" and node.input[0] in self.codes:
            return [helper.make_node("Identity", node.input[:1], node.output, name=node.name)]
        if node.op_type == "DynamicQuantizeLinear":
            return self._dynamic(node)
        if any(name in self.codes for name in node.input):  # moved, and still codes
            self.codes.update(node.output)
        if node.op_type == "MatMulInteger" and node.input[0] in self.scales:
            return self._product(node)
        return [node]

    def _rounded(self, node: onnx.NodeProto) -> onnx.NodeProto:
        self.places[node.op_type] += 1
        self.codes.update(node.output)
        if node.input[0] not in self.features:
            self.positional.append(node.name or node.output[0])
        scale, zero = self.known.get(node.input[1]), self.known.get(node.input[2]) if len(node.input) > 2 else None
        if zero is not None and zero.data_type in SIXTEEN:
            self.bits = 16
        if scale is not None:
            largest = float(np.abs(numpy_helper.to_array(scale)).max(initial=0))
            if not largest < LARGEST_SCALE:
                self.absurd.append((node.name or node.output[0], largest))
        return helper.make_node("Identity", node.input[:1], node.output, name=node.name)

    def _dynamic(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The codes become the values, and their scale 1, for whoever reads it besides the products."""
        self.places[node.op_type] += 1
        codes, scale, zero = node.output
        self.scales[codes] = scale
        for name, value in ((scale, np.float32(1)), (zero, np.uint8(0))):
            self.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        return [helper.make_node("Identity", node.input, [codes], name=node.name)]

    def _product(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """MatMulInteger, Cast and Mul by both scales, as onnxruntime's quantize_dynamic writes them, become one MatMul of weights
        behind DequantizeLinear; what has another form is left as it is, and named by the reader."""
        cast = self._only_reader(node.output[0], "Cast")
        scaled = self._only_reader(cast.output[0], "Mul") if cast is not None else None
        if cast is None or scaled is None or node.input[1] not in self.known:
            return [node]
        scales = next((n for n in self.graph.node for i in scaled.input if i in n.output and i != cast.output[0]), None)
        own = self.scales[node.input[0]]
        if scales is None or scales.op_type != "Mul" or own not in scales.input:
            return [node]
        weight_scale = next((i for i in scales.input if i != own), "")
        if weight_scale not in self.known:
            return [node]
        whole = f"{node.name or node.output[0]}.weight"
        zero = list(node.input[3:4]) if len(node.input) > 3 and node.input[3] else []
        weights = helper.make_node(
            "DequantizeLinear",
            [node.input[1], self._flat(weight_scale), *(self._flat(z) for z in zero)],
            [whole],
            axis=1,
        )
        self.dropped |= {cast.output[0], scaled.output[0]}
        self.computed.update(scaled.output)
        return [weights, helper.make_node("MatMul", [node.input[0], whole], scaled.output, name=node.name)]

    def _only_reader(self, name: str, kind: str) -> onnx.NodeProto | None:
        found = self.readers[name]
        return found[0] if len(found) == 1 and found[0].op_type == kind else None

    def _flat(self, name: str) -> str:
        """An initializer of one element as a scalar, which DequantizeLinear takes per tensor."""
        values = numpy_helper.to_array(self.known[name])
        if values.ndim == 0 or values.size > 1:
            return name
        flat = f"{name}.scalar"
        if flat not in self.known:
            made = numpy_helper.from_array(values.reshape(()), flat)
            self.graph.initializer.append(made)
            self.known[flat] = made
        return flat
