# SPDX-License-Identifier: Apache-2.0
"""The values that a graph was found to compute become the nodes of a Graph: each in its layer, with its role.

Features that a later node takes apart (fused matrices) become linears of their own, factors go where they are exact: into the scale of the
scores, the embedding, the factor of a linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.ops import Activation, Add, Attention, Embedding, Head, Linear, Norm, Op, Rotary, Threshold
from meadow.compiler.sources.onnx.lift.curves import identify
from meadow.compiler.sources.onnx.lift.form import Base, Form, Reject, Rows, arrange, plain, uniform
from meadow.compiler.sources.onnx.lift.lifter import Lifter
from meadow.compiler.sources.onnx.lift.tensors import Tensors
from meadow.compiler.sources.onnx.lift.values import (
    Acted,
    Attended,
    Curve,
    Derived,
    Embedded,
    Live,
    Normed,
    Positioned,
    Product,
    Summed,
    Turned,
    Unknown,
    Value,
)


@dataclass
class Made:
    """A node under construction.

    inputs  numbers of other nodes
    value   the ONNX value that it is, for messages
    """

    op: Op
    inputs: tuple[int, ...]
    value: str
    base: Base
    cols: NDArray[np.intp] | None = None
    layer: int | None = None
    role: str = ""


@dataclass
class Assembly:
    """Nodes by number, made once for each selection of rows."""

    lift: Lifter
    tensors: Tensors
    scale: Callable[[Attended], tuple[float, int]]
    frequencies: Callable[[Turned], tuple[float, ...]]
    made: list[Made] = field(default_factory=list)
    known: dict[Any, tuple[int, float]] = field(default_factory=dict)
    order: list[Made] = field(default_factory=list)

    def add(self, op: Op, inputs: tuple[int, ...], base: Base, cols: NDArray[np.intp] | None = None) -> int:
        self.made.append(Made(op, inputs, base.name, base, cols))
        return len(self.made) - 1

    # -- rows ------------------------------------------------------------------------------------------------------

    def node(self, rows: Rows) -> int:
        """The node whose value `rows` are.  Raises Reject where that takes a factor that no node has."""
        number, factor = self.factored(rows)
        if factor != 1.0:
            raise Reject(f"a factor of {factor:g} on {rows.base.name!r}", rows.base.name, "factor")
        return number

    def factored(self, rows: Rows) -> tuple[int, float]:
        """(node, factor): the node whose value times the factor `rows` are."""
        base, cols, coef, const = resolve(rows)
        key = (base.order, cols.tobytes(), _key(coef), _key(const))
        if key not in self.known:
            self.known[key] = self._made(base, cols, coef, const, names_of(rows))
        return self.known[key]

    def _made(
        self, base: Base, cols: NDArray[np.intp], coef: Any, const: Any, names: tuple[str, str]
    ) -> tuple[int, float]:
        whole = np.array_equal(cols, np.arange(base.width))
        if isinstance(base, Product):
            return self._linear(base, None if whole else cols, coef, const, names[1]), 1.0
        if not whole:
            raise Reject("features are moved between one node and the next", base.name, "features moved")
        if isinstance(base, Normed):
            return self._norm(base, coef, const, names), 1.0
        factor, shift = uniform(coef), uniform(const)
        if factor is None or shift != 0.0:
            raise Reject("factors or constants by feature that no node has", base.name, "factors by feature")
        if isinstance(base, Embedded):
            return self.add(Embedding(self.tensors.table(base), factor), (), base), 1.0
        return self._whole(base), factor

    def _whole(self, base: Base) -> int:
        match base:
            case Positioned():
                return self._positioned(base)
            case Turned():
                op: Op = Rotary(base.heads, base.head_dim, self.frequencies(base), base.interleaved)
                return self.add(op, (self.node(base.source),), base)
            case Attended():
                return self._attention(base)
            case Acted():
                return self._activation(base)
            case Summed():
                return self._sum(base)
            case Live():
                return self.add(Threshold(base.threshold), (self.node(base.source),), base)
        raise Reject(f"{base.name!r} was not understood", base.name, "not understood")

    # -- kinds -----------------------------------------------------------------------------------------------------

    def _linear(self, base: Product, cols: NDArray[np.intp] | None, coef: Any, const: Any, named: str) -> int:
        source, factor = self.factored(base.source)
        number = uniform(coef)
        if number is None:
            raise Reject("factors by feature behind a linear layer", base.name, "factors by feature")
        shift = uniform(const)
        bias = (
            None if shift == 0.0 else np.broadcast_to(np.asarray(const), (base.width if cols is None else len(cols),))
        )
        made = self.add(Linear("", None, factor * number), (source,), base, cols)
        self.tensors.biases[made] = (named, bias)
        return made

    def _norm(self, base: Normed, coef: Any, const: Any, names: tuple[str, str]) -> int:
        source, factor = self.factored(base.source)
        size = base.width // base.heads
        gain, bias = (self._by_part(v, base, size) for v in (coef, const))
        eps = float(np.float32(base.eps)) / factor**2
        name = self.tensors.vector(names[0] or base.name + ".gain", gain)
        named = None if uniform(const) == 0.0 else self.tensors.vector(names[1] or base.name + ".bias", bias)
        return self.add(Norm(name, eps, base.kind, named, heads=base.heads), (source,), base)

    @staticmethod
    def _by_part(value: Any, base: Normed, size: int) -> NDArray[np.float32]:
        parts = np.broadcast_to(np.asarray(value, np.float64), (base.width,)).reshape(base.heads, size)
        if (parts != parts[0]).any():
            raise Reject("a norm on heads with a gain for each head", base.name, "gain by head")
        return parts[0].astype(np.float32)

    def _positioned(self, base: Positioned) -> int:
        rows = base.source
        inner, _, coef, const = resolve(rows)
        factor = uniform(coef)
        if not isinstance(inner, Embedded) or factor is None or uniform(const) != 0.0:
            raise Reject("positions are added to something else than an embedding", base.name, "positions")
        table, shift = self.tensors.positions(base, self.lift.past)
        return self.add(Embedding(self.tensors.table(inner), factor, table, shift), (), base)

    def _attention(self, base: Attended) -> int:
        scale, window = self.scale(base)
        factors = [self.factored(r) for r in (base.q, base.k, base.v)]
        if any(f != 1.0 for _, f in factors[1:]):
            raise Reject("keys or values with a factor", base.name, "factor")
        sinks = None if base.sinks is None else self.tensors.vector(base.name + ".sinks", base.sinks.astype(np.float32))
        groups = base.groups if len(set(base.groups)) > 1 else ()
        op = Attention(
            base.heads,
            base.kv_heads,
            base.head_dim,
            scale * factors[0][1],
            window,
            float(base.cap),
            sinks,
            groups=groups,
        )
        return self.add(op, tuple(n for n, _ in factors), base)

    def _activation(self, base: Acted) -> int:
        inputs = tuple(self.node(r) for r in (base.gate, base.up) if r is not None)
        return self.add(Activation(base.kind, base.up is not None), inputs, base)

    def _sum(self, base: Summed) -> int:
        return self.add(Add(), (self.node(base.a), self.node(base.b)), base)

    # -- the whole -------------------------------------------------------------------------------------------------

    def head(self, logits: Value) -> int:
        """The node of the logits; everything before it is made on the way."""
        cap = 0.0
        if isinstance(logits, Curve):
            known = identify(logits.fn)
            if known is None or known.kind != "cap":
                raise Reject("a function of the logits that is no softcap", "logits", "function of the logits")
            cap, logits = known.factor, logits.x.scaled(known.slope * known.factor)
        if not isinstance(logits, Form):
            raise Reject("the logits were not understood", "logits", "logits")
        rows = arrange(logits, "logits")
        base, cols, coef, const = resolve(rows.rows)
        if not isinstance(base, Product) or not rows.ordered or not np.array_equal(cols, np.arange(base.width)):
            raise Reject("the logits are no linear layer's", "logits", "logits")
        self._before(base)
        number = self._linear(base, None, coef, const, names_of(rows.rows)[1])
        op = self.made[number].op
        assert isinstance(op, Linear)
        self.made[number].op = Head("", None, op.factor, cap)
        return number

    def _before(self, last: Base) -> None:
        """Make the nodes of everything that `last` is computed from, in its order: so nothing nests deeply."""
        found: dict[int, Base] = {}
        stack: list[Base] = [last]
        while stack:
            base = stack.pop()
            if base.order in found:
                continue
            found[base.order] = base
            stack += [r.base for r in sources(base)]
        for order in sorted(found):
            base = found[order]
            if isinstance(base, Unknown):
                raise Reject(f"{base.name!r} was not understood", base.name, "not understood")
            if isinstance(base, (Summed, Acted, Attended, Turned)):
                self.factored(Rows(base, np.arange(base.rows), np.arange(base.width)))


def sources(base: Base) -> list[Rows]:
    """What a value is computed from."""
    found = [getattr(base, name, None) for name in ("source", "gate", "up", "a", "b", "q", "k", "v")]
    return [r for r in found if isinstance(r, Rows)]


def resolve(rows: Rows) -> tuple[Base, NDArray[np.intp], Any, Any]:
    """(value, features, factors, constants) without values that are rows of others."""
    base, cols, coef, const = rows.base, rows.cols, rows.coef, rows.const
    while isinstance(base, Derived):
        inner = base.source
        inner_coef, inner_const = (v if isinstance(v, float) else v[cols] for v in (inner.coef, inner.const))
        const = plain(coef * inner_const + const)
        coef = plain(coef * inner_coef)
        base, cols = inner.base, inner.cols[cols]
    return base, cols, coef, const


def names_of(rows: Rows) -> tuple[str, str]:
    """The ONNX values that factors and constants of rows are; "" where there is none."""
    base, coef, const = rows.base, "", ""
    while isinstance(base, Derived):
        if uniform(base.source.coef) is None:
            coef = coef or base.constant
        if uniform(base.source.const) != 0.0:
            const = const or base.constant
        base = base.source.base
    return coef, const


def _key(value: Any) -> Any:
    return value if isinstance(value, float) else np.asarray(value).tobytes()


def with_weight(op: Op, name: str, bias: str | None) -> Op:
    """A linear or head with its tensors' names."""
    assert isinstance(op, Linear)
    return replace(op, weight=name, bias=bias)
