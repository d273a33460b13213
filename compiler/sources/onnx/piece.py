# SPDX-License-Identifier: Apache-2.0
"""A piece of an ONNX graph, cut out and run by onnx's own reference evaluator in FP32.

Part of confirm.py.  Knows how to feed and run; confirm.py knows what to expect.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from meadow.compiler.graph.graph import Graph
from meadow.compiler.sources.onnx.weight import OnnxGraph

HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
Values = dict[str, NDArray[Any]]
ROWS_AT_ONCE = 1 << 20
"""Elements that are dequantized at a time."""


class NotEvaluated(Exception):
    """The reference evaluator cannot run a piece, or the piece needs more than it was given."""


@dataclass(frozen=True)
class Core:
    """The values around one layer's parts, by name in the ONNX graph.

    norms  (input, output, gain, epsilon) of each norm
    moved  operators that stand where the layer's values should pass unchanged: between a linear and the sum it goes into,
           between a sum and its norm, between a norm and its linears
    tensors  constants that were read as the layer's weights, gains and biases, as its operators name them
    """

    layer: int
    q: str
    k: str
    v: str
    attended: str
    gate: str
    up: str
    gated: str
    norms: tuple[tuple[str, str, NDArray[np.float32], float], ...]
    moved: tuple[str, ...] = ()
    tensors: frozenset[str] = frozenset()


class MatMulNBits(OpRun):  # type: ignore[misc]
    """com.microsoft's operator as its documentation says: y = a @ ((code - zero point) * scale).T (+ bias).

    Written apart from onnx_weight.py, which it checks.
    """

    op_domain = "com.microsoft"

    def _run(
        self,
        a: Any,
        b: Any,
        scales: Any,
        zero_points: Any = None,
        group: Any = None,
        bias: Any = None,
        K: int = 0,
        N: int = 0,
        bits: int = 4,
        block_size: int = 32,
        accuracy_level: int = 0,
    ) -> tuple[Any]:
        if group is not None:
            raise NotImplementedError("MatMulNBits with a group index")
        blocks = -(-K // block_size)

        def fields(packed: Any, count: int) -> Any:
            flat = np.unpackbits(np.asarray(packed).view(np.uint8).reshape(N, -1), axis=1, bitorder="little")
            weights = flat[:, : count * bits].reshape(N, count, bits) @ (1 << np.arange(bits)).astype(np.float32)
            return weights.astype(np.float32)

        codes = fields(b, blocks * block_size).reshape(N, blocks, block_size)
        if zero_points is None:
            zero: Any = np.float32(1 << (bits - 1))
        elif np.asarray(zero_points).dtype.kind == "f":
            zero = np.asarray(zero_points, np.float32).reshape(N, blocks, 1)
        else:
            zero = fields(zero_points, blocks).reshape(N, blocks, 1)
        w = ((codes - zero) * np.asarray(scales, np.float32).reshape(N, blocks, 1)).reshape(N, -1)[:, :K]
        y = a @ w.T
        return (y if bias is None else y + bias,)


class DequantizeLinear(OpRun):  # type: ignore[misc]
    """ONNX's operator as its documentation says, in FP32: y = (x - zero point) * scale, a few rows at a time to save memory.

    Written apart from weight.py, which it checks.
    """

    op_domain = ""

    def _run(
        self, x: Any, scale: Any, zero: Any = None, axis: int = 1, block_size: int = 0, output_dtype: int = 0
    ) -> tuple[Any]:
        scale = np.asarray(scale, np.float32)
        points = np.zeros((), np.float32) if zero is None else np.asarray(zero).astype(np.float32)
        if scale.ndim == 1 and scale.size > 1 and not block_size:
            shape = [-1 if n == axis % x.ndim else 1 for n in range(x.ndim)]
            scale, points = scale.reshape(shape), points.reshape(shape) if points.ndim else points
        made = np.empty(x.shape, np.float32)
        rows = max(1, ROWS_AT_ONCE // max(1, x[:1].size))
        for first in range(0, len(x), rows):
            some = slice(first, first + rows)
            part, s, z = made[some], scale, points
            part[...] = x[some]
            if block_size and scale.ndim:
                if axis % x.ndim == 0:
                    places = np.arange(first, first + len(part)) // block_size
                    s, z = scale[places], points[places] if points.ndim else points
                else:
                    s, z = (
                        np.repeat(t[some], block_size, axis)[:, : x.shape[1]] if t.ndim else t for t in (scale, points)
                    )
            else:
                s, z = (t[some] if t.ndim and t.shape[0] > 1 else t for t in (scale, points))
            if zero is not None:
                part -= z
            part *= s
        return (made,)


def feeds(
    g: OnnxGraph,
    graph: Graph,
    ids: NDArray[np.int64],
    past: int,
    keys: NDArray[np.float32] | None = None,
    values: NDArray[np.float32] | None = None,
) -> Values:
    """The graph's inputs for `ids` after `past` tokens, in the types it names; the cache is the same in every layer.

    keys, values  [past, kv_heads, head_dim]
    """
    model, tokens = graph.model, len(ids)
    empty = np.zeros((past, model.kv_heads, model.head_dim), np.float32)
    given: Values = {
        "input_ids": ids[None],
        "attention_mask": np.ones((1, past + tokens), np.int64),
        "position_ids": np.arange(past, past + tokens, dtype=np.int64)[None],
    }
    cached = [
        np.ascontiguousarray(part.swapaxes(0, 1)[None])
        for part in (empty if keys is None else keys, empty if values is None else values)
    ]
    found: Values = {}
    for value in g.graph.input:
        kind = value.type.tensor_type.elem_type
        if value.name in given:
            found[value.name] = given[value.name].astype(helper.tensor_dtype_to_np_dtype(kind or TensorProto.INT64))
        elif value.name.startswith("past_key_values."):
            found[value.name] = cached[0 if value.name.endswith(".key") else 1]
    return found


SHAPES = {"Shape", "Size"}
"""Operators that read a value's shape and not the value."""


def read_values(g: OnnxGraph, outputs: list[str], given: set[str]) -> set[str]:
    """Those of `given` whose values, and not their shapes alone, `outputs` are computed from."""
    seen: set[str] = set()
    stack = list(outputs)
    while stack:
        name = stack.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        if name in g.index and name not in given:
            node = g.graph.node[g.index[name]]
            stack += [] if node.op_type in SHAPES else list(node.input)
    return seen & given


class Piece:
    """What computes `outputs` when the graph is cut at `given`.  Constant parts are computed once.

    Raises NotEvaluated when it needs anything else.
    """

    def __init__(self, g: OnnxGraph, outputs: list[str], given: set[str]):
        self.g, self.outputs = g, outputs
        needed: set[str] = set()
        indices: set[int] = set()
        stack = list(outputs)
        while stack:
            name = stack.pop()
            if not name or name in needed or name in given:
                continue
            needed.add(name)
            if name in g.index:
                indices.add(g.index[name])
                stack += list(g.graph.node[g.index[name]].input)
            elif name not in g.initializers:
                raise NotEvaluated(f"it also depends on {name!r}")
        self.fixed: Values = {name: _full(g.array(name)) for name in needed if name in g.initializers}
        moving: set[str] = set(given)
        constant, self.nodes = [], []
        for index in sorted(indices):
            node = g.graph.node[index]
            if moving & set(node.input):
                moving |= set(node.output)
                self.nodes.append(_in_full(node))
            else:
                constant.append(_in_full(node))
        wanted = {i for n in self.nodes for i in n.input if i} | set(outputs)
        made = [o for n in constant for o in n.output if o in wanted]
        if made:
            self.fixed |= dict(zip(made, self._evaluate(constant, self.fixed, made), strict=True))
        self.fixed = {name: value for name, value in self.fixed.items() if name in wanted}

    def form(self, roles: dict[str, str], weights: Set[str] = frozenset()) -> str:
        """A digest of what the piece computes: two pieces of one form are one function of the values that have the same roles.

        roles    of the values at which it is cut; others go by their own names
        weights  constants that count by type and shape alone, where one operator alone reads them: the function is one of these too
        """
        uses = Counter(name for node in self.nodes for name in node.input)
        digest, known = hashlib.sha256(), {name: f"role {role}" for name, role in roles.items()}
        for name, value in self.fixed.items():
            shape = f"{value.dtype} {value.shape}"
            content = ""
            if name not in weights or uses[name] != 1:
                content = hashlib.sha256(np.ascontiguousarray(value).view(np.uint8).data).hexdigest()
            known[name] = f"constant {shape} {content}"
        for index, node in enumerate(self.nodes):
            inputs = [known.get(name, name) for name in node.input]
            attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
            digest.update(repr((node.domain, node.op_type, inputs, attributes, len(node.output))).encode())
            known |= {name: f"value {index} {place}" for place, name in enumerate(node.output) if name}
        digest.update(repr([known.get(name, name) for name in self.outputs]).encode())
        return digest.hexdigest()

    def run(self, values: Values) -> list[NDArray[np.float64]]:
        """The outputs, of `values` by the names at which the graph is cut."""
        moving = [name for name in self.outputs if name not in self.fixed]
        made = dict(zip(moving, self._evaluate(self.nodes, self.fixed | values, moving), strict=True)) if moving else {}
        return [np.asarray(made[name] if name in made else self.fixed[name], np.float64) for name in self.outputs]

    def _evaluate(self, nodes: list[onnx.NodeProto], values: Values, outputs: list[str]) -> list[Any]:
        used = {i for n in nodes for i in n.input}
        fed = {name: value for name, value in values.items() if name in used}
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.asarray(v).dtype), list(np.shape(v)))
            for n, v in fed.items()
        ]
        results = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs]
        model = self.g.model
        try:
            graph = helper.make_graph(nodes, "piece", inputs, results)
            made = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
            with np.errstate(all="ignore"):
                found: list[Any] = ReferenceEvaluator(made, new_ops=[MatMulNBits, DequantizeLinear]).run(None, fed)
        except Exception as error:  # the reference evaluator raises whatever numpy does with a shape that does not fit
            raise NotEvaluated(f"{type(error).__name__}: {str(error)[:160]}") from None
        return found


def _full(array: NDArray[np.generic] | None) -> NDArray[Any]:
    """Values of 16 or 64 bits in FP32: what is checked is the meaning of a graph, not its roundings."""
    assert array is not None
    if array.dtype == np.float64 or array.dtype == np.float16 or array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    return array


def _in_full(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node with its casts and constants of 16 or 64 bits in FP32."""
    kinds = [
        a
        for a in node.attribute
        if (a.name in ("to", "dtype") and a.i in HALVES) or (a.HasField("t") and a.t.data_type in HALVES)
    ]
    if not kinds:
        return node
    made = onnx.NodeProto()
    made.CopyFrom(node)
    for attribute in made.attribute:
        if attribute.name in ("to", "dtype") and attribute.i in HALVES:
            attribute.i = TensorProto.FLOAT
        elif attribute.HasField("t") and attribute.t.data_type in HALVES:
            value = np.asarray(onnx.numpy_helper.to_array(attribute.t)).astype(np.float32)
            attribute.t.CopyFrom(onnx.numpy_helper.from_array(value))
    return made
