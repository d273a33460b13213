# SPDX-License-Identifier: Apache-2.0
"""Attention written out: q k.T, softmax, softmax x V, and the cache that keys and values are appended to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from meadow.compiler.sources.onnx.lift.form import Arrangement, Form, Reject, Rows, Term, uniform
from meadow.compiler.sources.onnx.lift.lifter import Cut, Lifter, rule
from meadow.compiler.sources.onnx.lift.settle import form_of, rows
from meadow.compiler.sources.onnx.lift.values import Attended, Const, Past, Scored, Shares, Value

HIDDEN = -1e4
"""What is added to scores that are hidden is at most this."""


def product_of_values(lift: Lifter, node: onnx.NodeProto, x: Form, y: Form) -> Form:
    """q @ k.T, or softmax @ v."""
    if any(isinstance(b, Shares) for b in x.bases()):
        made = mix(lift, node.output[0], x, y)
    else:
        made = scored(lift, node.output[0], x, swapped(y))
        made.terms[0].base.queries = node.input[0]  # type: ignore[attr-defined]
    shape = (*x.shape[:-1], y.shape[-1])
    return made.view(lambda v: v.reshape(shape))


def swapped(form: Form) -> Form:
    return form.view(lambda v: np.swapaxes(v, -1, -2))


def _four(form: Form, what: str) -> Form:
    """[1, heads, tokens, head_dim]; one head or no batch may be left out."""
    if len(form.shape) == 3:
        return form.view(lambda v: v[None] if form.shape[0] > 1 else v[:, None])
    if len(form.shape) != 4 or form.shape[0] != 1:
        raise Reject(f"{what} of shape {list(form.shape)}", feature="attention shape")
    return form


def cached(lift: Lifter, form: Form, what: str) -> tuple[Past, Form, NDArray[Any], float]:
    """(cache, new part [kv_heads, tokens, head_dim], KV head of each head, factor of the new part) of keys or values.

    form  [1, heads, past + tokens, head_dim]
    """
    form = _four(form, what).simplified()
    old = [t for t in form.terms if isinstance(t.base, Past)]
    new = tuple(t for t in form.terms if not isinstance(t.base, Past))
    if len(old) != 1 or not new:
        raise Reject(f"{what} that are not the cache and what is appended to it", feature="cache")
    heads, total, size = form.shape[1:]
    past, (term,) = lift.past, old
    head_count = term.base.rows // past
    if total != past + lift.tokens:
        raise Reject(
            f"{what} of {total} positions for {past} cached and {lift.tokens} new tokens", feature="cache length"
        )
    coef = np.broadcast_to(np.asarray(term.coef, np.float64), form.shape)
    factor = uniform(coef[:, :, :past])
    if not factor or coef[:, :, past:].any():
        raise Reject(f"{what} of the cache with factors by position", feature="cache factors")
    index = term.index[0, :, :past]
    kv = index[:, 0, 0] // (past * size)
    wanted = (kv[:, None, None] * past + np.arange(past)[:, None]) * size + np.arange(size)
    if (index != wanted).any():
        raise Reject(f"{what} of the cache in another order", feature="cache order")
    first = [int(np.flatnonzero(kv == n)[0]) if (kv == n).any() else -1 for n in range(head_count)]
    if -1 in first:
        raise Reject(f"{what}: some heads of the cache are not read", feature="cache order")
    part = Form(form.shape, new, form.const).view(lambda v: v[0, :, past:])
    for head in range(heads):
        if not part.view(lambda v, h=head: v[h]).same(part.view(lambda v, h=head: v[first[kv[h]]])):  # type: ignore[misc]
            raise Reject(f"{what}: heads that share a cache are computed apart", feature="cache order")
    return term.base, part.view(lambda v: v[first]), kv, factor  # type: ignore[return-value]


def heads_first(made: Arrangement, heads: int, what: str) -> Rows:
    """Rows whose features are head after head, from an arrangement of [heads, tokens, head_dim]."""
    tokens = made.place.shape[1]
    width = made.rows.width
    size = width // heads
    wanted = np.arange(tokens)[None, :, None] * width + np.arange(heads)[:, None, None] * size + np.arange(size)
    if (made.place != wanted).any():
        raise Reject(f"{what} whose heads do not lie side by side", feature="head order")
    return made.rows


def one_by_one(lift: Lifter, q: Form, k: Form) -> tuple[Rows, Rows]:
    """Queries and new keys [1, heads, tokens, head_dim] as rows."""
    q_rows = heads_first(rows(lift, q.view(lambda v: v[0])), q.shape[1], "queries")
    return q_rows, heads_first(rows(lift, k.view(lambda v: v[0])), k.shape[1], "keys")


def _factored(rows: Rows) -> tuple[Rows, float]:
    """Rows without the one factor that all have."""
    factor = uniform(rows.coef)
    if factor is None or factor == 1.0:
        return rows, 1.0
    return Rows(rows.base, rows.tokens, rows.cols, 1.0, rows.const / factor), factor


def scored(lift: Lifter, name: str, q: Form, k: Form, scale: float = 1.0) -> Form:
    """q k.T of q [1, heads, tokens, head_dim] and k [1, heads, past + tokens, head_dim]."""
    q = _four(q, "queries")
    past, new, kv, old_factor = cached(lift, k, "keys")
    heads, size = q.shape[1], q.shape[3]
    q_rows, q_factor = _factored(heads_first(rows(lift, q.view(lambda v: v[0])), heads, "queries"))
    k_rows, k_factor = _factored(heads_first(rows(lift, new), new.shape[0], "keys"))
    if abs(old_factor - k_factor) > 1e-6 * abs(k_factor):
        past_factor = k_factor / old_factor
        lift.cache_factors[past.name] = past_factor
    groups = np.bincount(kv, minlength=new.shape[0])
    if len(kv) != heads or (kv != np.repeat(np.arange(len(groups)), groups)).any():
        raise Reject("query heads that share KV heads in another order", feature="head order")
    total = lift.past + lift.tokens
    base = Scored(
        name,
        heads * lift.tokens,
        total,
        q_rows,
        k_rows,
        past,
        heads,
        new.shape[0],
        size,
        scale * q_factor * k_factor,
        0.0,
        total,
        groups=tuple(groups.tolist()),
    )
    return Form.of(base, (1, heads, lift.tokens, total))


@rule("FusedMatMul")
def _fused_matmul(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    if a.get("transBatchA") or a.get("transBatchB"):
        raise Reject("FusedMatMul with transposed batches", feature="operator FusedMatMul")
    if isinstance(xs[1], Const) or isinstance(xs[0], Const):
        raise Reject("FusedMatMul with constant weights", feature="operator FusedMatMul")
    x, y = form_of(lift, xs[0]), form_of(lift, xs[1])
    if a.get("transA"):
        raise Reject("FusedMatMul with a transposed first factor", feature="operator FusedMatMul")
    y = swapped(y) if a.get("transB") else y
    return product_of_values(lift, node, x, y).scaled(float(a.get("alpha", 1.0)))


@rule("Softmax")
def _softmax(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x = form_of(lift, xs[0])
    if int(a.get("axis", -1)) % len(x.shape) != len(x.shape) - 1:
        raise Reject(f"a softmax along axis {a['axis']}", feature="softmax axis")
    return softmax(lift, node.output[0], x, node.input[0])


def softmax(lift: Lifter, name: str, x: Form, scores_name: str) -> Form:
    """The softmax of scores with a mask."""
    x = x.simplified()
    kinds = {type(b).__name__ for b in x.bases()}
    if kinds == {"Product"}:
        raise Reject(
            "a softmax of a linear layer's results: routing, as in a mixture of experts", feature="operator TopK"
        )
    if len(x.terms) != 1 or not isinstance(x.terms[0].base, Scored):
        raise Reject(f"a softmax of something else than scores ({', '.join(sorted(kinds))})", feature="softmax")
    (term,) = x.terms
    base: Any = term.base
    shape = (base.heads, lift.tokens, base.seen)
    if not np.array_equal(term.index.reshape(-1), np.arange(int(np.prod(shape)))):
        raise Reject("scores in another order", feature="score order")
    mask = np.broadcast_to(np.asarray(x.const, np.float64), x.shape).reshape(shape)
    coef = np.broadcast_to(np.asarray(term.coef, np.float64), x.shape).reshape(shape)
    seen = (mask > HIDDEN) & (coef != 0)
    factors = coef[seen]
    if (mask != mask[:1])[np.broadcast_to(seen, shape)].any() or (seen != seen[:1]).any():
        lift.problem(Reject("a bias on the scores that differs by head (ALiBi)", name, "bias by head"))
    if factors.size and (np.abs(factors - factors[0]) > 1e-6 * abs(factors[0])).any():
        raise Reject("scores with factors by position", feature="score factors")
    factor = float(factors[0]) if factors.size else 1.0
    if base.cap and abs(factor - 1.0) > 1e-6:
        raise Reject("scores that are multiplied after their softcap", feature="score factors")
    made = Shares(scores_name, shape[0] * shape[1], base.seen, base, np.where(seen, mask, -np.inf)[0], factor)
    made.again = _replay(base, scores_name)
    return Form.of(made, x.shape)


def _replay(base: Scored, scores_name: str) -> Any:
    """Attention at another number of tokens: queries and new keys by their names, and the mask from the scores on."""

    def again(sub: Lifter) -> tuple[Rows, Rows, Any, float]:
        total = sub.past + sub.tokens
        cut = replace(base, rows=base.heads * sub.tokens, width=total, seen=total)
        shape = (1, base.heads, sub.tokens, total)
        raw = replace(cut, cap=0.0, scale=1.0)
        sub.cuts[base.name] = Cut(shape, lambda: Form.of(raw, shape))
        shares = softmax(sub, "", form_of(sub, sub.value(scores_name)), "").terms[0].base
        assert isinstance(shares, Shares)
        q = _four(form_of(sub, sub.value(base.queries)), "queries")
        new = _four(form_of(sub, sub.value(sub.appended_name(base.past.name))), "keys")
        return (*one_by_one(sub, q, new), shares.mask, shares.scale)

    return again


def mix(lift: Lifter, name: str, x: Form, v: Form) -> Form:
    """softmax @ v."""
    x = x.simplified()
    if len(x.terms) != 1 or uniform(x.terms[0].coef) != 1.0 or uniform(x.const) != 0.0:
        raise Reject("shares of a softmax that are changed before they are used", feature="softmax")
    shares: Any = x.terms[0].base
    scores = shares.scores
    if not np.array_equal(x.terms[0].index.reshape(-1), np.arange(shares.rows * shares.width)):
        raise Reject("shares of a softmax in another order", feature="score order")
    past, new, kv, factor = cached(lift, v, "values")
    if factor != 1.0 or not np.array_equal(kv, np.repeat(np.arange(scores.kv_heads), scores.groups)):
        raise Reject("values of the cache in another order than its keys", feature="head order")
    v_rows = heads_first(rows(lift, new), new.shape[0], "values")
    return attended(lift, name, shares, past, v_rows, new.shape[2])


def attended(lift: Lifter, name: str, shares: Shares, past: Past, v: Rows, size: int) -> Form:
    """The value [1, heads, tokens, head_dim] that attention computes."""
    s = shares.scores
    if size != s.head_dim:
        raise Reject(f"values of {size} elements for keys of {s.head_dim}", feature="head sizes")
    base = Attended(
        name,
        lift.tokens,
        s.heads * size,
        s.q,
        s.k,
        v,
        s.past,
        past,
        s.heads,
        s.kv_heads,
        size,
        s.scale * shares.scale,
        s.cap,
        shares.mask,
        shares.sinks,
        shares.again,
        s.groups,
    )
    lift.attentions.append(base)
    index = np.arange(lift.tokens * s.heads * size, dtype=np.int32).reshape(lift.tokens, s.heads, size).swapaxes(0, 1)
    return Form((1, s.heads, lift.tokens, size), (Term(base, index[None]),))
