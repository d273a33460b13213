# SPDX-License-Identifier: Apache-2.0
"""Operators on each element: sums, products, powers, and functions of one value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from meadow.compiler.sources.onnx.lift.form import Array, Form, Reject, uniform
from meadow.compiler.sources.onnx.lift.lifter import Lifter, given, rule
from meadow.compiler.sources.onnx.lift.lookup import looked_product
from meadow.compiler.sources.onnx.lift.settle import (
    curve_of,
    derived,
    form_of,
    known_curve,
    normed,
    placed,
    positioned,
    rows,
    summed,
)
from meadow.compiler.sources.onnx.lift.values import (
    Acted,
    Centred,
    Const,
    Curve,
    Derived,
    GroupSum,
    Guard,
    Live,
    Looked,
    Minima,
    Normed,
    Product,
    Squared,
    Stat,
    Value,
)
from meadow.compiler.sources.onnx.numeric import erf, gelu
from meadow.compiler.sources.onnx.shapes import axes_of

AFFINE = (Normed, Product, Derived)
"""Values that take factors and constants by feature: a gain, a bias."""
MINUS = Const("", lambda: np.array(-1.0), False)
SAFE = 6e4
"""Bounds of values that are as large as those of FP16, which FP32 does not need."""


@rule("Add", "Sum")
def _add(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    total = xs[0]
    for x in xs[1:]:
        total = add(lift, total, x, node.output[0])
    return total


@rule("Sub")
def _subtract(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x, y = xs
    if isinstance(y, Stat) and y.kind == "mean" and isinstance(x, Form) and isinstance(y.x, Form) and x.same(y.x):
        return Centred(x)
    return add(lift, x, multiply(lift, y, MINUS, ""), node.output[0])


def add(lift: Lifter, x: Value, y: Value, name: str) -> Value:
    """x + y."""
    if isinstance(x, Const):
        x, y = y, x
    if isinstance(y, Const):
        return _plus(lift, x, y)
    if isinstance(x, Minima) or isinstance(y, Minima):
        return _with_minima(x, y, name)
    for p, q in ((x, y), (y, x)):
        if isinstance(p, (Curve, Squared)) and (joined := _combined(p, q, np.add)) is not None:
            return joined
    a, b = form_of(lift, x), form_of(lift, y)
    if set(a.bases()) & set(b.bases()):
        return a.added(b)
    return summed(lift, a, b, name)


def _plus(lift: Lifter, x: Value, constant: Const) -> Value:
    value = constant.array
    number = uniform(np.asarray(value, np.float64))
    if isinstance(x, Stat):
        if number is None or x.kind != "square" or x.power != 1.0:
            raise Reject("a constant is added to a mean", feature="norm")
        return Stat(x.x, x.kind, x.shape, x.eps + number, x.power)
    if isinstance(x, Curve):
        if number is not None:
            fn = x.fn
            return Curve(x.x, lambda z: fn(z) + number, x.own)
        x = form_of(lift, x)
    if number == 0.0:
        return form_of(lift, x)
    form = form_of(lift, x)
    if constant.varies and (made := positioned(form, constant)) is not None:
        return made
    form = form.plus(value)
    return _affine(lift, form, constant, number)


def _affine(lift: Lifter, form: Form, constant: Const, number: float | None) -> Form:
    """A factor or constant by feature goes into a value of its own: a gain or a bias."""
    if constant.varies or (number is not None and uniform(form.const) == 0.0) or len(form.terms) != 1:
        return form
    lift.features.add(constant.name)
    return derived(lift, form, constant.name) if isinstance(form.terms[0].base, AFFINE) else form


def _with_minima(x: Value, y: Value, name: str) -> Value:
    if isinstance(x, Minima):
        x, y = y, x
    if isinstance(x, Form) and isinstance(y, Minima) and len(x.terms) == 1:
        (base,) = x.bases()
        if isinstance(base, Product) and not base.minima and base.source.base is y.base:
            base.minima, base.output = y.table, name
            return x
    raise Reject("sums of groups of features are added to something else than their product", feature="minima")


def _combined(x: Value, y: Value, how: Callable[[Any, Any], Any]) -> Curve | None:
    """A function of one value that two curves of it make; None when they are of different values."""
    a, b = curve_of(x), curve_of(y)
    if a is None or b is None or not a.x.same(b.x):
        return None
    f, g = a.fn, b.fn
    return Curve(a.x, lambda z: how(f(z), g(z)), a.own | b.own)


@rule("Mul")
def _mul(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    return multiply(lift, xs[0], xs[1], node.output[0])


def multiply(lift: Lifter, x: Value, y: Value, name: str) -> Value:
    """x * y."""
    if isinstance(x, Looked) or isinstance(y, Looked):
        return looked_product(lift, x, y, name)
    if isinstance(x, Const):
        x, y = y, x
    if isinstance(y, Const):
        return _times(lift, x, y)
    if isinstance(y, Stat) or isinstance(x, Stat):
        value, stat = (x, y) if isinstance(y, Stat) else (y, x)
        gain = _gain(value, stat)
        if gain is not None:  # (w x) / root, which is w (x / root)
            return _times(lift, normed(lift, stat.x, stat, -0.5, name), Const(name, lambda: gain, False))
        return normed(lift, value, stat, -0.5, name)
    if isinstance(x, Form) and isinstance(y, Form) and x.same(y):
        return Squared(x)
    if isinstance(x, Centred) and isinstance(y, Centred) and x.x.same(y.x):
        return Squared(x)
    joined = _combined(x, y, np.multiply)
    return joined if joined is not None else _gated(lift, x, y, name)


def _gain(value: Value, stat: Stat) -> NDArray[np.float64] | None:
    """The factors by feature that a value has besides what a mean is of; None where it is that, or another value."""
    if not isinstance(value, Form) or not isinstance(stat.x, Form) or value.same(stat.x):
        return None
    terms = [*value.terms, *stat.x.terms]
    if len(terms) != 2 or terms[0].base is not terms[1].base or not np.array_equal(terms[0].index, terms[1].index):
        return None
    if uniform(value.const) != 0.0 or uniform(stat.x.const) != 0.0 or np.any(np.asarray(terms[1].coef) == 0):
        return None
    found = np.broadcast_to(np.asarray(terms[0].coef, np.float64) / terms[1].coef, value.shape)
    table = found.reshape(-1, value.shape[-1])
    return table[0] if bool((table == table[0]).all()) else None


def _times(lift: Lifter, x: Value, constant: Const) -> Value:
    number = uniform(np.asarray(constant.array, np.float64))
    if isinstance(x, Stat):
        if number == 1.0:
            return x
        raise Reject("a mean is multiplied by a constant", feature="norm")
    if isinstance(x, (Curve, Squared)):
        curve = curve_of(x)
        if number is not None and curve is not None:
            fn = curve.fn
            return Curve(curve.x, lambda z: fn(z) * number, curve.own)
    form = form_of(lift, x)
    if number == 1.0:
        return form
    if constant.varies and number is None:
        lift.factors[constant.name] = constant
        if not _bare(form):
            form = derived(lift, form)
    return _affine(lift, form.scaled(constant.array), constant, number)


def _bare(form: Form) -> bool:
    return uniform(form.const) == 0.0


def _gated(lift: Lifter, x: Value, y: Value, name: str) -> Form:
    """act(gate) * up."""
    for gate, up in ((x, y), (y, x)):
        if isinstance(gate, Curve):
            found = known_curve(gate)
            if found is None:
                raise Reject("a gate whose function is no known activation", feature="unknown activation")
            known, x = found
            if known.kind in ("line", "cap"):
                break
            first, second = rows(lift, x), rows(lift, form_of(lift, up))
            if not np.array_equal(first.place, second.place):
                raise Reject("a gate and a value in different orders", feature="features moved")
            made = Acted(name, len(first.rows.tokens), first.rows.width, known.kind, first.rows, second.rows)
            return placed(made, first.place, known.factor)
        if isinstance(gate, Form) and len(gate.terms) == 1:
            (base,) = gate.bases()
            if isinstance(base, Acted) and base.up is None and uniform(gate.const) == 0.0:
                first, second = rows(lift, gate), rows(lift, form_of(lift, up))
                if np.array_equal(first.place, second.place) and first.ordered and first.rows.width == base.width:
                    made = Acted(name, base.rows, base.width, base.kind, base.gate, second.rows)
                    return placed(made, first.place, uniform(gate.terms[0].coef) or 1.0)
    raise Reject("a product of two computed values that is no gate", feature="product of values")


@rule("Div")
def _div(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x, y = xs
    if isinstance(y, Const):
        inverse = 1.0 / np.asarray(y.array, np.float64)
        return multiply(lift, x, Const(y.name, lambda: inverse, y.varies), node.output[0])
    if isinstance(y, Stat):
        if isinstance(x, Const):
            if uniform(np.asarray(x.array, np.float64)) != 1.0:
                raise Reject("a constant over a mean", feature="norm")
            return Stat(y.x, y.kind, y.shape, y.eps, -y.power)
        return normed(lift, x, y, 0.5, node.output[0])
    if isinstance(x, Const):
        curve = curve_of(y)
        top = uniform(np.asarray(x.array, np.float64))
        if curve is not None and top is not None:
            fn = curve.fn
            return Curve(curve.x, lambda z: top / fn(z), curve.own)
    joined = _combined(x, y, np.divide)
    if joined is not None:
        return joined
    raise Reject("a value over another", feature="quotient of values")


@rule("Pow")
def _pow(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x, exponent = xs[0], lift.number(xs[1])
    if isinstance(x, Stat):
        return Stat(x.x, x.kind, x.shape, x.eps, x.power * exponent)
    if exponent == 2.0 and isinstance(x, (Form, Centred)):
        return Squared(x)
    return _apply(x, lambda z: np.power(z, exponent))


@rule("Sqrt")
def _sqrt(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    if isinstance(xs[0], Stat):
        return Stat(xs[0].x, xs[0].kind, xs[0].shape, xs[0].eps, xs[0].power * 0.5)
    return _apply(xs[0], np.sqrt)


@rule("Reciprocal")
def _reciprocal(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    if isinstance(xs[0], Stat):
        return Stat(xs[0].x, xs[0].kind, xs[0].shape, xs[0].eps, -xs[0].power)
    return _apply(xs[0], lambda z: 1.0 / z)


def _apply(x: Value, fn: Callable[[Array], Array]) -> Curve:
    curve = curve_of(x)
    if curve is None:
        raise Reject("a function of something that is no tensor of features", feature="unknown function")
    inner = curve.fn
    return Curve(curve.x, lambda z: fn(inner(z)), curve.own)


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "Abs": np.abs,
    "Cos": np.cos,
    "Erf": erf,
    "Exp": np.exp,
    "Relu": lambda z: np.maximum(z, 0),
    "Sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "Sin": np.sin,
    "Softplus": lambda z: np.log1p(np.exp(z)),
    "Tanh": np.tanh,
    "FastGelu": lambda z: gelu(z, "tanh"),
}


@rule(*_FUNCTIONS)
def _function(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x = xs[0]
    if node.op_type == "FastGelu" and given(xs, 1) is not None:
        x = add(lift, x, xs[1], node.output[0])
    return _apply(x, _FUNCTIONS[node.op_type])


@rule("Gelu", "BiasGelu")
def _gelu(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x = add(lift, xs[0], xs[1], node.output[0]) if given(xs, 1) is not None else xs[0]
    how = str(a.get("approximate", "none"))
    return _apply(x, lambda z: gelu(z, how))


@rule("QuickGelu", "Swish", "HardSwish", "Elu", "LeakyRelu")
def _swish(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    if node.op_type in ("HardSwish", "Elu", "LeakyRelu"):
        raise Reject(f"the activation {node.op_type}", feature=f"activation {node.op_type}")
    alpha = float(a.get("alpha", 1.702 if node.op_type == "QuickGelu" else 1.0))
    return _apply(xs[0], lambda z: z / (1 + np.exp(-alpha * z)))


@rule("Shrink")
def _shrink(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    if a.get("bias", 0.0) != 0.0:
        raise Reject("Shrink with a bias: a soft threshold", feature="soft threshold")
    limit = float(a.get("lambd", 0.5)) or 0.0  # of -0 too
    if not 0 <= limit < float("inf"):
        raise Reject(f"Shrink with a threshold of {limit:g}", feature="threshold")
    x = form_of(lift, xs[0])
    made = rows(lift, x)
    if not made.rows.plain:
        made = rows(lift, derived(lift, x))
    base = Live(node.output[0], len(made.rows.tokens), made.rows.width, made.rows, limit)
    return placed(base, made.place)


@rule("Neg")
def _neg(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    return multiply(lift, xs[0], MINUS, node.output[0])


@rule("Clip", "Min", "Max")
def _clip(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    if node.op_type == "Clip":
        x = xs[0]
        low, high = (
            a.get(name) if given(xs, place) is None else lift.number(xs[place])
            for place, name in ((1, "min"), (2, "max"))
        )
    else:
        x = next(v for v in xs if not isinstance(v, Const))
        numbers = [lift.number(v) for v in xs if v is not x]
        low, high = (max(numbers), None) if node.op_type == "Max" else (None, min(numbers))
    bounds = [v for v in (low, high) if v is not None]
    if all(abs(v) >= SAFE for v in bounds):
        if bounds:
            lift.note("values are bounded by the largest of FP16, which FP32 does not need")
        return x
    return _apply(x, lambda z: np.clip(z, low, high))


@rule("IsNaN")
def _is_nan(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    shape = xs[0].shape
    return Form.of(Guard(node.output[0], int(np.prod(shape[:-1])), shape[-1]), shape)


@rule("ReduceMean", "ReduceSum")
def _reduce(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x = xs[0]
    axes = axes_of(a, lift.optional(xs, 1))
    rank = len(x.shape)
    if axes is None or [n % rank for n in axes] != [rank - 1]:
        raise Reject(f"{node.op_type} over axes {axes}", feature=f"{node.op_type} over other axes")
    shape = (*x.shape[:-1], 1) if a.get("keepdims", 1) else x.shape[:-1]
    if node.op_type == "ReduceSum":
        return GroupSum(form_of(lift, x), shape)
    if isinstance(x, Squared):
        return Stat(x.x, "square", shape)
    if isinstance(x, Form):
        return Stat(x, "mean", shape)
    raise Reject("a mean of a function of the features", feature="mean")
