# SPDX-License-Identifier: Apache-2.0
"""Settling: a form becomes the rows of a node, a curve an activation, a root mean square a norm, two terms of one value a rotation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from meadow.compiler.sources.onnx.lift.curves import Known, identify
from meadow.compiler.sources.onnx.lift.form import Arrangement, Base, Form, Reject, Rows, Term, arrange, uniform
from meadow.compiler.sources.onnx.lift.values import (
    Acted,
    Centred,
    Const,
    Curve,
    Derived,
    Embedded,
    Normed,
    Past,
    Positioned,
    Scored,
    Squared,
    Stat,
    Summed,
    Turned,
    Value,
)

if TYPE_CHECKING:
    from meadow.compiler.sources.onnx.lift.lifter import Lifter

SAME_TURN = 2e-6
"""By how much two cosines may differ that mean one angle: they are FP32."""
COARSE = 2e-3
"""By how much where they were rounded to 16 bits."""


def form_of(lift: Lifter, value: Value) -> Form:
    """`value` as a form.  Raises Reject for parts of a norm that are read otherwise, and for unknown curves."""
    if isinstance(value, Form):
        return value
    known = lift.settled.get(id(value))
    if known is not None and known[0] is value:  # one function of one value is one value, however often it is read
        return known[1]
    curve = curve_of(value) if isinstance(value, Squared) and isinstance(value.x, Form) else value
    if isinstance(curve, Curve):
        lift.settled[id(value)] = value, _settled(lift, curve)
        return lift.settled[id(value)][1]
    if isinstance(value, Past):
        raise Reject("the KV cache has no fixed heads and head size in its shape", value.name, "cache shape")
    if isinstance(value, (Stat, Centred, Squared)):
        raise Reject("a mean that is no part of a norm", feature="mean")
    raise Reject("a value that cannot be read here", feature="unreadable value")


def cache_of(lift: Lifter, past: Past, heads: int, size: int) -> Form:
    """A cache whose heads and head size the file does not state, as what is appended to it tells them."""
    made = Form.of(Past(past.name, heads * lift.past, size), (1, heads, lift.past, size))
    lift.values[past.name] = made
    return made


def curve_of(value: Value) -> Curve | None:
    """A form or a square as a curve of its unit form."""
    if isinstance(value, Curve):
        return value
    if isinstance(value, Squared) and isinstance(value.x, Form):
        unit, factor = value.x.unit()
        return Curve(unit, lambda z: np.square(factor * z), frozenset([factor]) - {1.0})
    if isinstance(value, Form):
        unit, factor = value.unit()
        return Curve(unit, lambda z: factor * z, frozenset([factor]) - {1.0})
    return None


def known_curve(curve: Curve) -> tuple[Known, Form] | None:
    """(known function, form) that a curve is, where a factor of the form may be its own (a factor on a gate)."""
    known = identify(curve.fn)
    if known is not None:
        return known, curve.x
    for factor in sorted(curve.own):
        known = identify(lambda z, f=factor: curve.fn(z / f))  # type: ignore[misc]
        if known is not None:
            return known, curve.x.scaled(factor)
    return None


def placed(base: Base, place: Any, coef: float = 1.0) -> Form:
    """The form of a new value whose elements stand at `place`."""
    return Form(place.shape, (Term(base, place, coef),))


def _settled(lift: Lifter, curve: Curve) -> Form:
    found = known_curve(curve)
    if found is None:
        raise Reject("a function of each element that is no known activation", feature="unknown activation")
    known, x = found
    if known.kind == "line":
        return x.scaled(known.factor).plus(known.offset)
    if known.kind == "cap":
        return _capped(x, known.factor, known.slope)
    made = rows(lift, x)
    base = Acted(made.rows.base.name, len(made.rows.tokens), made.rows.width, known.kind, made.rows)
    return placed(base, made.place, known.factor)


def _capped(x: Form, cap: float, slope: float) -> Form:
    """cap * tanh(slope * x) of scores."""
    (base,) = x.bases()
    if not isinstance(base, Scored) or base.cap:
        raise Reject(f"a softcap of {cap:g} on something that is neither scores nor logits", feature="softcap")
    made = replace(base, scale=base.scale * slope * cap, cap=cap)
    return Form(x.shape, (Term(made, x.terms[0].index),))


def rows(lift: Lifter, form: Form) -> Arrangement:
    """The rows that a form consists of; two terms of one value become a rotation first."""
    form = form.simplified()
    if len(form.terms) == 2 and form.terms[0].base is form.terms[1].base:
        form = rotated(lift, form)
    return arrange(form, "")


def derived(lift: Lifter, form: Form, constant: str = "") -> Form:
    """The same form, its factors and constants by feature taken into a value of its own (a gain, a bias)."""
    made = arrange(form, "")
    return placed(Derived(made.rows.base.name, len(made.rows.tokens), made.rows.width, made.rows, constant), made.place)


def summed(lift: Lifter, a: Form, b: Form, name: str) -> Form:
    """The sum of two values, as a value of its own."""
    shape = np.broadcast_shapes(a.shape, b.shape)
    first, second = rows(lift, a.broadcast(shape)), rows(lift, b.broadcast(shape))
    if not np.array_equal(first.place, second.place):
        raise Reject("a sum of features in different orders", feature="features moved")
    return placed(Summed(name, len(first.rows.tokens), first.rows.width, first.rows, second.rows), first.place)


def positioned(form: Form, constant: Const) -> Form | None:
    """An embedding plus learned positions, as a value of its own; None when the form is no embedding."""
    if len(form.terms) != 1 or not isinstance(form.terms[0].base, Embedded):
        return None
    made = arrange(Form(form.shape, form.terms), "")
    added = np.broadcast_to(np.asarray(constant.array, np.float64), form.shape).reshape(len(made.rows.tokens), -1)
    base = Positioned(made.rows.base.name, len(added), made.rows.width, made.rows, added, constant.name)
    return placed(base, made.place) if made.ordered else None


# -- norms ----------------------------------------------------------------------------------------------------------------


def normed(lift: Lifter, x: Value, stat: Stat, power: float, name: str) -> Form:
    """x times (mean square + eps) ** power, power being -1/2, or over its root."""
    if stat.kind != "square" or stat.power != power:
        raise Reject("a value over a mean that is no root mean square", feature="norm")
    centred = isinstance(stat.x, Centred)
    inner = stat.x.x if isinstance(stat.x, Centred) else stat.x
    mine = x.x if isinstance(x, Centred) else x
    if centred != isinstance(x, Centred) or not isinstance(mine, Form) or not mine.same(inner):
        raise Reject("a norm's root is of another value than its input", feature="norm")
    return norm(lift, mine, "layer" if centred else "rms", stat.eps, name)


def norm(lift: Lifter, x: Form, kind: str, eps: float, name: str) -> Form:
    """The norm of each row of the last axis, without gain."""
    made = rows(lift, x)
    if not made.rows.plain:
        made = rows(lift, derived(lift, x))
    size = x.shape[-1]
    if made.rows.width % size or (np.diff(made.place.reshape(-1, size), axis=1) != 1).any():
        raise Reject("a norm over features that do not lie side by side", feature="norm")
    base = Normed(name, len(made.rows.tokens), made.rows.width, made.rows, kind, eps, made.rows.width // size)
    return placed(base, made.place)


# -- rotations ---------------------------------------------------------------------------------------------------------


def rotated(lift: Lifter, form: Form) -> Form:
    """x cos + x' sin of one value becomes a rotation.  Raises Reject for any other mixture of its elements."""
    wrong = Reject("two features are mixed, and not as a rotary embedding does", feature="mixed features")
    a, b = form.terms
    base, head_dim = a.base, form.shape[-1]
    if uniform(form.const) != 0.0:
        raise wrong
    ca, cb = (np.broadcast_to(np.asarray(t.coef, np.float64), form.shape).reshape(-1) for t in (a, b))
    ia, ib = a.index.reshape(-1), b.index.reshape(-1)
    ia, ib = np.where(ca == 0, ib, ia), np.where(cb == 0, ia, ib)
    token = ia // base.width
    if (token != ib // base.width).any():
        raise Reject("features of different tokens are mixed", feature="mixed tokens")
    order = np.argsort(token, kind="stable")
    tokens = np.unique(token)
    if ia.size % len(tokens):
        raise wrong
    shape = (len(tokens), -1)
    ca, cb = ca[order].reshape(shape), cb[order].reshape(shape)
    first, second = (i[order].reshape(shape) % base.width for i in (ia, ib))
    u, v = _columns(first, ca, second), _columns(second, cb, first)
    cos, sin, cols, partner = _turn(u, v, ca, cb, wrong)
    table, factor, interleaved, heads = _table(lift, cos, sin, partner, head_dim, wrong)
    source = Rows(base, tokens, cols)
    made = Turned(base.name, len(tokens), len(cols), source, heads, head_dim, table, interleaved)
    place = np.empty(order.size, np.int32)
    place[order] = np.arange(order.size)
    return placed(made, place.reshape(form.shape), factor)


def _columns(index: Any, coef: Any, other: Any) -> Any:
    """The feature of each rank, told by the tokens at which its factor is not 0."""
    row = np.argmax(coef != 0, axis=0)
    found = np.take_along_axis(index, row[None], 0)[0]
    if ((index != found) & (coef != 0)).any():
        raise Reject("other features for some tokens than for others", feature="features by token")
    return found


def _turn(u: Any, v: Any, ca: Any, cb: Any, wrong: Reject) -> tuple[Any, Any, Any, Any]:
    """(cos, sin, own feature, partner's rank) by rank, where out = cos * own - sin * partner for the first of a pair."""
    size = len(u)
    still = (u == v) | ~cb.any(axis=0) | ~ca.any(axis=0)
    own = np.where(ca.any(axis=0), u, v)
    cos, sin = np.where(ca.any(axis=0), ca, cb), np.zeros_like(ca)
    partner = np.arange(size)
    pairs: dict[tuple[int, int], list[int]] = {}
    for rank in np.flatnonzero(~still):
        pairs.setdefault((min(u[rank], v[rank]), max(u[rank], v[rank])), []).append(int(rank))
    if any(len(ranks) != 2 for ranks in pairs.values()):
        raise wrong
    if not pairs:
        return cos, sin, own, partner
    r, s = np.array([p[0] for p in pairs.values()]), np.array([p[1] for p in pairs.values()])
    low = np.array([p[0] for p in pairs])
    # factors of the pair's lower and higher feature in both ranks
    rl, rh = np.where(u[r] == low, ca[:, r], cb[:, r]), np.where(u[r] == low, cb[:, r], ca[:, r])
    sl, sh = np.where(u[s] == low, ca[:, s], cb[:, s]), np.where(u[s] == low, cb[:, s], ca[:, s])
    straight = _close(rl, sh) & _close(rh, -sl)  # rank r is the lower feature
    crossed = _close(rh, sl) & _close(rl, -sh)
    if not (straight | crossed).all():
        raise wrong
    high = np.array([p[1] for p in pairs])
    own[r], own[s] = np.where(straight, low, high), np.where(straight, high, low)
    cos[:, r] = cos[:, s] = np.where(straight, rl, rh)
    sin[:, r], sin[:, s] = np.where(straight, rh, rl), np.where(straight, sl, sh)
    partner[r], partner[s] = s, r
    return cos, sin, own, partner


def _close(a: Any, b: Any) -> Any:
    return (np.abs(a - b) <= SAME_TURN * np.maximum(1.0, np.abs(a))).all(axis=0)


def _table(
    lift: Lifter, cos: Any, sin: Any, partner: Any, head_dim: int, wrong: Reject
) -> tuple[Any, float, bool, int]:
    """([tokens, pairs, 2], factor, interleaved, heads) of the factors by rank."""
    size = len(partner)
    if size % head_dim:
        raise wrong
    heads = size // head_dim
    place = partner[:head_dim]
    turned = np.flatnonzero(place != np.arange(head_dim))
    count = len(turned)
    if not np.array_equal(turned, np.arange(count)):
        raise Reject("a rotary embedding of other elements than the first of a head", feature="rotary order")
    halves = np.array_equal(place[:count], (np.arange(count) + count // 2) % max(count, 1))
    interleaved = np.array_equal(place[:count], np.arange(count) ^ 1)
    if not (halves or interleaved):
        raise Reject("a rotary embedding of pairs that are neither halves nor neighbours", feature="rotary order")
    if (partner.reshape(heads, head_dim) - np.arange(heads)[:, None] * head_dim != place).any():
        raise Reject("heads whose rotary embeddings differ", feature="rotary by head")
    first = np.arange(0, count, 2) if not halves or (interleaved and count > 2) else np.arange(count // 2)
    c, s = (x.reshape(len(x), heads, head_dim) for x in (cos, sin))
    if np.abs(c - c[:, :1]).max() > SAME_TURN or np.abs(s - s[:, :1]).max() > SAME_TURN:
        raise Reject("heads whose rotary embeddings differ", feature="rotary by head")
    table = np.stack([c[:, 0, first], -s[:, 0, first]], axis=-1)
    length = np.hypot(table[..., 0], table[..., 1])
    factor = float(np.float32(np.median(length)))
    worst = float(np.abs(length - factor).max())
    lift.coarse |= 1e-5 * factor < worst < COARSE * factor
    factor = 1.0 if abs(factor - 1) < (COARSE if lift.coarse else SAME_TURN * 2) else factor
    if factor <= 0 or worst > COARSE * factor:
        raise Reject("rotary factors that are no cosine and sine of one angle", feature="rotary factors")
    rest = c[:, 0, count:]
    if rest.size and np.abs(rest - factor).max() > 1e-6 * factor:
        raise Reject("a rotary embedding whose resting elements have another factor", feature="rotary factors")
    return table / length[..., None], factor, not halves or (interleaved and count > 2), heads
