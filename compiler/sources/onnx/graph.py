# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph indexed for looking backwards: who made a value, and is it constant?"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from meadow.compiler.sources.onnx.file import tensor_array
from meadow.compiler.sources.onnx.lift.form import Reject
from meadow.compiler.sources.onnx.numeric import compute
from meadow.compiler.sources.onnx.shapes import NotEvaluated

ATTRIBUTES: dict[str, dict[str, tuple[Any, ...]]] = {
    "Gemm": {"alpha": (1.0,), "beta": (1.0,), "transA": (0,), "transB": (0, 1)},
    "MatMul": {},
    "MatMulNBits": {"K": (), "N": (), "bits": (), "block_size": (), "accuracy_level": ()},
    "DequantizeLinear": {"axis": (), "block_size": (), "output_dtype": ()},
    "Gather": {"axis": (0,)},
    "GatherBlockQuantized": {"gather_axis": (), "quantize_axis": (), "block_size": (), "bits": ()},
}
"""Attributes of the operators that hold weights, with the values that are served: () for any."""
TRANSPARENT = {"Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Flatten"}
"""Operators that move values without changing them: structure is looked for through these."""


class OnnxGraph:
    """An ONNX graph indexed for looking backwards: who made this value, and is it constant?"""

    def __init__(self, model: onnx.ModelProto, folder: Path):
        self.model = model
        self.folder = folder
        self.graph = model.graph
        self.producer: dict[str, onnx.NodeProto] = {out: n for n in self.graph.node for out in n.output if out}
        self.index: dict[str, int] = {out: i for i, n in enumerate(self.graph.node) for out in n.output if out}
        self.initializers: dict[str, onnx.TensorProto] = {t.name: t for t in self.graph.initializer}
        self.inputs = [i.name for i in self.graph.input if i.name not in self.initializers]
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 17)
        self._arrays: dict[str, NDArray[np.generic]] = {}

    def behind(self, names: Iterable[str], stop: Container[str] = ()) -> Iterator[str]:
        """`names` and every value that they are computed from, each once; nothing behind those in `stop`."""
        stack, seen = list(names), set()
        while stack:
            name = stack.pop()
            if not name or name in seen:
                continue
            seen.add(name)
            yield name
            if name in self.index and name not in stop:
                stack += list(self.graph.node[self.index[name]].input)

    def strip(self, name: str) -> str:
        """`name` without the operators that only move values."""
        while name in self.producer and self.producer[name].op_type in TRANSPARENT:
            name = self.producer[name].input[0]
        return name

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """The attributes of a node.  Raises Reject for one that ATTRIBUTES does not know, or a value that it does not serve."""
        found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        known = ATTRIBUTES.get(node.op_type)
        if known is not None:
            for name, value in found.items():
                served = known.get(name)
                if served is None or (served and value not in served):
                    wanted = f"{' or '.join(str(v) for v in served)} is served" if served else "it is not known here"
                    raise Reject(f"{node.op_type} {node.name or node.output[0]!r} has {name}={value}; {wanted}")
        return found

    def array(self, name: str) -> NDArray[np.generic] | None:
        """The value of `name` if it is an initializer (through Identity), else None."""
        for _ in range(64):
            if name in self._arrays:
                return self._arrays[name]
            if name in self.initializers:
                self._arrays[name] = tensor_array(self.initializers[name], self.folder)
                return self._arrays[name]
            node = self.producer.get(name)
            if node is None or node.op_type != "Identity":
                return None
            name = node.input[0]
        return None

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a constant matrix, without computing it; None when that is not known."""
        turned = False
        for _ in range(16):
            if name in self.initializers:
                found = tuple(int(n) for n in self.initializers[name].dims)
                return found[::-1] if turned else found
            node = self.producer.get(name)
            if node is None or node.op_type not in (
                "Identity",
                "Cast",
                "DequantizeLinear",
                "Transpose",
                "QuantizeLinear",
                "Clip",
                "Quant",
            ):
                return None
            turned ^= node.op_type == "Transpose"
            name = node.input[0]
        return None

    def folded(self, name: str, depth: int = 16) -> NDArray[Any] | None:
        """The value of `name` if it is computed from constants alone, else None."""
        found = self.array(name)
        node = self.producer.get(name)
        if found is not None or node is None or not depth:
            return found
        inputs = [self.folded(i, depth - 1) if i else None for i in node.input]
        if any(v is None and i for v, i in zip(inputs, node.input, strict=True)):
            return None
        try:
            made = compute(node, inputs, self.opset)
        except NotEvaluated as problem:
            raise Reject(str(problem), node.name or name) from None
        return made[list(node.output).index(name)]

    def scalar(self, name: str) -> float | None:
        value = self.array(name)
        return float(np.asarray(value).reshape(-1)[0]) if value is not None and value.size == 1 else None

    def source_name(self, name: str) -> str:
        """The initializer that `name` is, through Identity and Cast."""
        while name in self.producer and self.producer[name].op_type in ("Identity", "Cast"):
            name = self.producer[name].input[0]
        return name

    def zero_points(self, node: onnx.NodeProto, place: int) -> NDArray[np.generic] | None:
        """The constant zero points at input `place` of a node, None where it has none.  Raises Reject."""
        if len(node.input) <= place or not node.input[place]:
            return None
        found = self.folded(node.input[place])
        if found is None:
            raise Reject(f"{node.op_type} {node.name!r} has computed zero points")
        return found
