# SPDX-License-Identifier: Apache-2.0
"""The tensors of a Graph that is read: matrices with their codes as stored, gains, biases, tables of positions.

Exporters let equal tensors share an initializer; here each use has its own, but for an embedding that is the head too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.ops import Head, Linear
from meadow.compiler.sources.onnx.graph import OnnxGraph
from meadow.compiler.sources.onnx.lift.form import Reject
from meadow.compiler.sources.onnx.lift.values import Embedded, Positioned, Product
from meadow.compiler.sources.onnx.nbits import gathered_weight
from meadow.compiler.sources.onnx.weight import constant_matrix, embedding_weight, linear_weight, transpose
from meadow.machine.types import F32, Weight

if TYPE_CHECKING:
    from meadow.compiler.sources.onnx.lift.assemble import Made


@dataclass
class Tensors:
    """Weights and vectors by name.

    biases  of linears, by the number of their node
    """

    g: OnnxGraph
    weights: dict[str, Weight] = field(default_factory=dict)
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    biases: dict[int, tuple[str, NDArray[np.float64] | None]] = field(default_factory=dict)

    def vector(self, name: str, values: NDArray[Any]) -> str:
        """The name under which a vector is kept, its own."""
        name = self.g.source_name(name)
        while name in self.vectors:
            name += "'"
        self.vectors[name] = np.ascontiguousarray(values, np.float32)
        return name

    def table(self, base: Embedded) -> str:
        """The embedding's matrix."""
        if base.weight is not None:
            weight = base.weight
        elif base.node.op_type == "GatherBlockQuantized":
            weight = gathered_weight(self.g, base.node)
        else:
            weight = embedding_weight(self.g, base.table)
        return self._shared(weight)

    def _shared(self, weight: Weight) -> str:
        """The name of the head or the embedding: that of an equal matrix already read, if there is one (tied)."""
        for name, other in self.weights.items():
            if other.codes.shape == weight.codes.shape and other.elem == weight.elem and same(other, weight):
                return name
        name = weight.name
        while name in self.weights:
            name += "'"
        self.weights[name] = replace(weight, name=name)
        return name

    def positions(self, base: Positioned, past: int) -> tuple[str, int]:
        """(table, shift) of learned positions: the table among what the constant is made of whose rows they are."""
        wanted = base.added.astype(np.float32)
        for name in self._tables(base.constant, wanted.shape[1]):
            values = self.g.array(name)
            assert values is not None
            rows = np.asarray(values, np.float32).reshape(-1, wanted.shape[1])
            for at in np.flatnonzero((rows == wanted[0]).all(axis=1)):
                if np.array_equal(rows[at : at + len(wanted)], wanted) and at >= past:
                    self.weights[name] = Weight(name, F32, rows)
                    return name, int(at) - past
        raise Reject(
            "constants are added to the embedding by position that are no rows of a table", base.name, "positions"
        )

    def _tables(self, name: str, width: int) -> list[str]:
        """Initializers [n, width] that a constant is computed from."""
        known = self.g.initializers
        return [n for n in self.g.behind([name]) if n in known and list(known[n].dims)[-1:] == [width]]

    def name_all(self, nodes: list[tuple[int, Made]]) -> None:
        """Give every linear and the head its matrix and its bias."""
        from meadow.compiler.sources.onnx.lift.assemble import with_weight

        for number, made in nodes:
            if not isinstance(made.op, Linear):
                continue
            assert isinstance(made.base, Product)
            weight = self.matrix(made.base)
            if made.cols is not None:
                weight = taken(weight, made.cols, f"{weight.name}.{made.role}")
            if isinstance(made.op, Head):
                name = self._shared(weight)
            else:
                name = weight.name
                while name in self.weights:
                    name += "'"
                self.weights[name] = replace(weight, name=name)
            given, bias = self.biases.get(number, ("", None))
            named = None if bias is None or not np.any(bias) else self.vector(given or f"{name}.bias", bias)
            made.op = with_weight(made.op, name, named)

    def matrix(self, base: Product) -> Weight:
        """The matrix of a product, with its minima.  Raises Reject."""
        weight = linear_weight(self.g, base.node)
        if not base.minima:
            return weight
        table = constant_matrix(self.g, base.minima)
        where = base.name
        if table is None or weight.scale is None or not weight.elem.group or weight.codes.dtype != np.uint8:
            raise Reject("minima that are no constants, or weights without groups", where, "minima")
        if weight.minimum is not None and np.any(weight.minimum):
            raise Reject("zero points, and minima besides", where, "minima")
        minimum = np.ascontiguousarray(transpose(table).codes, np.float32)
        if minimum.shape != weight.scale.shape:
            raise Reject(f"minima {minimum.shape} for scales {weight.scale.shape}", where, "minima")
        return replace(weight, minimum=minimum)


def taken(weight: Weight, rows: NDArray[np.intp], name: str) -> Weight:
    """Some rows of a matrix, in another order perhaps."""
    first, last = int(rows[0]), int(rows[-1]) + 1
    straight = np.array_equal(rows, np.arange(first, last))
    at: Any = slice(first, last) if straight else rows
    scale = None if weight.scale is None else np.ascontiguousarray(weight.scale[at])
    minimum = None if weight.minimum is None else np.ascontiguousarray(weight.minimum[at])
    return Weight(name, weight.elem, weight.codes[at], scale, minimum)


def same(a: Weight, b: Weight) -> bool:
    """Whether two matrices of one shape and type are the same numbers; a few rows are looked at first."""
    few = slice(None, None, max(1, a.rows // 64))
    pairs = ((a.codes, b.codes), (a.scale, b.scale), (a.minimum, b.minimum))
    if any((x is None) != (y is None) for x, y in pairs):
        return False
    there = [(x, y) for x, y in pairs if x is not None and y is not None]
    return all(np.array_equal(x[few], y[few]) for x, y in there) and all(np.array_equal(x, y) for x, y in there)
