# SPDX-License-Identifier: Apache-2.0
"""Attention and rotary embeddings as one operator: ONNX 23's, and those of onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from meadow.compiler.sources.onnx.lift.attention import attended, cached, heads_first, one_by_one, scored, softmax
from meadow.compiler.sources.onnx.lift.elementwise import add
from meadow.compiler.sources.onnx.lift.form import Form, Reject, joined
from meadow.compiler.sources.onnx.lift.lifter import Lifter, given, rule
from meadow.compiler.sources.onnx.lift.settle import cache_of, derived, form_of, rows
from meadow.compiler.sources.onnx.lift.values import Const, Curve, Past, Value


def split_heads(form: Form, heads: int) -> Form:
    """[1, tokens, heads * head_dim] as [1, heads, tokens, head_dim]."""
    shape = (form.shape[0], form.shape[1], heads, form.shape[2] // heads)
    return form.view(lambda v: v.reshape(shape).swapaxes(1, 2))


def merged_heads(form: Form) -> Form:
    """[1, heads, tokens, head_dim] as [1, tokens, heads * head_dim]."""
    b, h, t, d = form.shape
    return form.view(lambda v: v.swapaxes(1, 2).reshape(b, t, h * d))


def turned(x: Form, cos: Any, sin: Any, interleaved: bool, count: int) -> Form:
    """The first `count` elements of the last axis rotated by the angles of cos and sin [..., count / 2]."""
    size = x.shape[-1]
    first, second = (
        (np.arange(0, count, 2), np.arange(1, count, 2))
        if interleaved
        else (np.arange(count // 2), np.arange(count // 2, count))
    )
    low, high = x.view(lambda v: v[..., first]), x.view(lambda v: v[..., second])
    a = low.scaled(cos).added(high.scaled(-np.asarray(sin)))
    b = high.scaled(cos).added(low.scaled(sin))
    order = np.argsort(np.concatenate([first, second]), kind="stable")
    whole = joined([a, b], -1).view(lambda v: v[..., order])
    return whole if count == size else joined([whole, x.view(lambda v: v[..., count:])], -1)


def rows_of(table: Any, positions: Any) -> Any:
    """The rows of a table of angles at these positions."""
    if positions.max(initial=0) >= len(table):
        raise Reject(f"a rotary table of {len(table)} positions", feature="positions")
    return table[positions.astype(np.int64)]


def bare(lift: Lifter, form: Form) -> Form:
    """The form without constants of its own, so that it can be turned."""
    return form if isinstance(form.const, float) and form.const == 0.0 else derived(lift, form)


@rule("RotaryEmbedding")
def _rotary(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    x = bare(lift, form_of(lift, xs[0]))
    if node.domain == "com.microsoft":
        positions, cos, sin = (lift.array(v) for v in xs[1:4])
        positions = positions.reshape(-1)
        positions = positions if positions.size == lift.tokens else positions[0] + np.arange(lift.tokens)
        cos, sin = rows_of(cos, positions)[None], rows_of(sin, positions)[None]
    else:
        cos, sin = lift.array(xs[1]), lift.array(xs[2])
        for table in xs[1:3]:
            if table.varies:
                lift.factors[table.name] = table
        if given(xs, 3) is not None:
            positions = lift.array(xs[3])
            cos, sin = rows_of(cos, positions), rows_of(sin, positions)
    flat = len(x.shape) == 3
    heads = int(a.get("num_heads", 0)) or (x.shape[2] // (2 * cos.shape[-1]) if flat else 0)
    x = split_heads(x, heads) if flat else x
    count = int(a.get("rotary_embedding_dim", 0)) or min(x.shape[-1], 2 * cos.shape[-1])
    if a.get("scale", 1.0) != 1.0:
        raise Reject(f"RotaryEmbedding with scale={a['scale']}", feature="rotary scale")
    made = turned(x, cos[:, None, :, : count // 2], sin[:, None, :, : count // 2], bool(a.get("interleaved", 0)), count)
    return merged_heads(made) if flat else made


def appended(lift: Lifter, past: Value, new: Form, what: str) -> Form:
    """The cache with the new keys or values [1, kv_heads, tokens, head_dim] behind it."""
    if past is None:
        raise Reject(f"{what} without a cache", feature="cache")
    if isinstance(past, Past):  # its shape is the new ones'
        past = cache_of(lift, past, new.shape[1], new.shape[3])
    return joined([form_of(lift, past), new], 2)


def _repeated(k: Form, heads: int) -> Form:
    each = heads // k.shape[1]
    return k if each == 1 else k.view(lambda v: np.repeat(v, each, axis=1))


def core(
    lift: Lifter, name: str, q: Form, k: Form, v: Form, scale: float, cap: float, mask: Any, sinks: Any, again: Any
) -> Form:
    """softmax(cap(scale q k.T) + mask) v, heads first."""
    heads = q.shape[1]
    scores: Form = scored(lift, name + ".scores", q, _repeated(k, heads), scale)
    if cap:
        scores = form_of(lift, Curve(scores, lambda z: cap * np.tanh(z / cap)))
    shares = softmax(lift, name + ".softmax", scores.plus(mask), name)
    base: Any = shares.terms[0].base
    base.sinks, base.again = sinks, again
    past, new, _kv, factor = cached(lift, _repeated(v, heads), "values")
    if factor != 1.0:
        raise Reject("values of the cache with a factor", feature="cache factors")
    return attended(lift, name, base, past, heads_first(rows(lift, new), new.shape[0], "values"), new.shape[2])


def causal(lift: Lifter, window: int = 0) -> Any:
    """What is added to scores [tokens, past + tokens]."""
    distance = np.arange(lift.past, lift.past + lift.tokens)[:, None] - np.arange(lift.past + lift.tokens)
    hidden = (distance < 0) | ((distance >= window) if window > 0 else False)
    return np.where(hidden, -np.inf, 0.0)


def _mask(lift: Lifter, value: Value) -> Any:
    """An attention mask: what is added, of booleans too."""
    if value is None:
        return 0.0
    found = lift.array(value)
    return np.where(found, 0.0, -np.inf) if found.dtype == bool else found


GROUPED = frozenset(
    [
        "num_heads",
        "kv_num_heads",
        "scale",
        "softcap",
        "local_window_size",
        "do_rotary",
        "rotary_interleaved",
        "smooth_softmax",
        "outputs",
        "qk_output",
        "k_quant_type",
        "v_quant_type",
        "kv_cache_bit_width",
    ]
)
"""Attributes of GroupQueryAttention that are known."""
ABSENT = ("smooth_softmax", "qk_output", "kv_cache_bit_width", "k_quant_type", "v_quant_type")
"""Those of which only the default is served."""
DEFAULTS = (0, -1, "NONE")
MULTI_HEAD = frozenset(["num_heads", "scale", "unidirectional", "mask_filter_value", "outputs"])
"""Attributes of MultiHeadAttention that are known.  mask_filter_value belongs to the padding mask, which is refused."""


def _grouped_inputs(lift: Lifter, a: dict[str, Any], xs: list[Value]) -> tuple[Form, Form, Form]:
    """q, k, v of GroupQueryAttention, heads first and turned."""
    heads, kv_heads = int(a["num_heads"]), int(a["kv_num_heads"])
    q = form_of(lift, xs[0])
    if xs[1] is None:
        size = q.shape[2] // (heads + 2 * kv_heads)
        cuts = [heads * size, (heads + kv_heads) * size]
        q, k, v = (q.view(lambda t, n=n: np.split(t, cuts, 2)[n]) for n in range(3))  # type: ignore[misc]
    else:
        k, v = form_of(lift, xs[1]), form_of(lift, xs[2])
    q, k, v = split_heads(q, heads), split_heads(k, kv_heads), split_heads(v, kv_heads)
    if a.get("do_rotary", 0):
        positions = lift.optional(xs, 9)
        at = np.arange(lift.past, lift.past + lift.tokens) if positions is None else positions.reshape(-1)
        cos, sin = (rows_of(lift.array(x), at) for x in xs[7:9])
        interleaved, count = bool(a.get("rotary_interleaved", 0)), 2 * cos.shape[-1]
        q, k = (turned(bare(lift, x), cos[None, None], sin[None, None], interleaved, count) for x in (q, k))
    return q, k, v


@rule("GroupQueryAttention")
def _grouped(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    strange = sorted(k for k in a if k not in GROUPED) or [k for k in ABSENT if a.get(k, 0) not in DEFAULTS]
    if strange:
        raise Reject(
            f"GroupQueryAttention with {strange[0]}={a[strange[0]]}", feature=f"GroupQueryAttention {strange[0]}"
        )

    def mask(sub: Lifter, bias: Value) -> Any:
        return causal(sub, int(a.get("local_window_size", -1))) + (
            0.0 if bias is None else sub.array(bias).reshape(-1, sub.tokens, sub.past + sub.tokens)[0]
        )

    def again(sub: Lifter) -> Any:
        values = [sub.value(i) if place not in (3, 4) else None for place, i in enumerate(node.input)]
        q, k, _ = _grouped_inputs(sub, a, values)
        return (*one_by_one(sub, q, k), mask(sub, given(values, 10)), 1.0)

    if any(v is not None for v in xs[12:]):
        raise Reject("GroupQueryAttention with a cache of integers", feature="GroupQueryAttention k_quant_type")
    q, k, v = _grouped_inputs(lift, a, xs)
    keys, values = appended(lift, xs[3], k, "keys"), appended(lift, xs[4], v, "values")
    sinks = None if given(xs, 11) is None else lift.array(xs[11]).reshape(-1)
    scale = float(a.get("scale", 0.0)) or q.shape[3] ** -0.5
    cap = float(a.get("softcap", 0.0))
    made = core(lift, node.output[0], q, keys, values, scale, cap, mask(lift, given(xs, 10)), sinks, again)
    return [merged_heads(made), keys, values]


@rule("Attention")
def _attention(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    if node.domain == "com.microsoft":
        raise Reject("onnxruntime's Attention with packed weights", feature="operator com.microsoft.Attention")
    known = {
        "scale",
        "softcap",
        "is_causal",
        "q_num_heads",
        "kv_num_heads",
        "softmax_precision",
        "qk_matmul_output_mode",
        "outputs",
    }
    strange = sorted(k for k in a if k not in known) or (
        ["qk_matmul_output_mode"] if a.get("qk_matmul_output_mode", 0) else []
    )
    if strange:
        raise Reject(
            f"Attention with {strange[0]}={a[strange[0]]}, which is not known here", feature=f"Attention {strange[0]}"
        )
    q, k, v = (form_of(lift, x) for x in xs[:3])
    flat = len(q.shape) == 3
    if flat:
        q, k, v = (
            split_heads(q, int(a["q_num_heads"])),
            split_heads(k, int(a["kv_num_heads"])),
            split_heads(v, int(a["kv_num_heads"])),
        )
    if given(xs, 4) is not None:
        k, v = appended(lift, xs[4], k, "keys"), appended(lift, xs[5], v, "values")
    own = given(xs, 4) is not None

    def mask(sub: Lifter, value: Value) -> Any:
        found = _mask(sub, value)
        if a.get("is_causal", 0):  # counted from the first key where the cache is no input of the operator
            whole = np.tri(sub.tokens, sub.past + sub.tokens, sub.past if own else 0)
            found = found + np.where(whole > 0, 0.0, -np.inf)
        return _flat_mask(sub, found)

    def again(sub: Lifter) -> Any:
        q = form_of(sub, sub.value(node.input[0]))
        k = form_of(sub, sub.value(node.input[1] if own else sub.appended_name(lift_past)))
        q, k = (split_heads(x, int(a[n])) if flat else x for x, n in ((q, "q_num_heads"), (k, "kv_num_heads")))
        return (*one_by_one(sub, q, k), mask(sub, sub.value(node.input[3]) if len(node.input) > 3 else None), 1.0)

    scale = float(a.get("scale", q.shape[3] ** -0.5))
    made = core(
        lift, node.output[0], q, k, v, scale, float(a.get("softcap", 0.0)), mask(lift, given(xs, 3)), None, again
    )
    lift_past = lift.attentions[-1].past_k.name
    return [merged_heads(made) if flat else made, k, v]


@rule("MultiHeadAttention")
def _multi_head(lift: Lifter, node: onnx.NodeProto, a: dict[str, Any], xs: list[Value]) -> Value:
    heads = int(a["num_heads"])
    strange = sorted(k for k in a if k not in MULTI_HEAD)
    if strange or any(v is not None for v in xs[8:]):
        what = f"{strange[0]}={a[strange[0]]}" if strange else "a cache that is shared or indexed"
        raise Reject(f"MultiHeadAttention with {what}", feature="MultiHeadAttention " + (strange or ["cache"])[0])
    if given(xs, 4) is not None:
        raise Reject("MultiHeadAttention with a key padding mask", feature="MultiHeadAttention padding mask")
    q, k, v = (form_of(lift, x) for x in xs[:3])
    q, k, v = (_biased(lift, x, node, n) for n, x in enumerate((q, k, v)))
    q = split_heads(q, heads)
    k, v = (split_heads(x, heads) if len(x.shape) == 3 else x for x in (k, v))
    keys = appended(lift, xs[6], k, "keys") if given(xs, 6) is not None else k
    values = appended(lift, xs[7], v, "values") if given(xs, 7) is not None else v
    scale = float(a.get("scale", 0.0)) or q.shape[3] ** -0.5

    def mask(sub: Lifter, value: Value) -> Any:
        return _flat_mask(sub, _mask(sub, value) + (causal(sub) if a.get("unidirectional", 0) else 0.0))

    def again(sub: Lifter) -> Any:
        q = split_heads(_biased(sub, sub.value(node.input[0]), node, 0), heads)
        if own:
            k = _biased(sub, sub.value(node.input[1]), node, 1)
            k = split_heads(k, heads) if len(k.shape) == 3 else k
        else:
            k = form_of(sub, sub.value(sub.appended_name(lift_past)))
        return (*one_by_one(sub, q, k), mask(sub, sub.value(node.input[5]) if len(node.input) > 5 else None), 1.0)

    own = given(xs, 6) is not None
    made = core(lift, node.output[0], q, keys, values, scale, 0.0, mask(lift, given(xs, 5)), None, again)
    lift_past = lift.attentions[-1].past_k.name
    return [merged_heads(made), keys, values]


def _biased(lift: Lifter, value: Value, node: onnx.NodeProto, part: int) -> Form:
    """q, k or v of MultiHeadAttention with its part of the bias."""
    if len(node.input) < 4 or not node.input[3]:
        return form_of(lift, value)
    bias = np.split(lift.array(lift.value(node.input[3])).reshape(-1), 3)[part]
    return form_of(lift, add(lift, value, Const("", lambda: bias, False), ""))


def _flat_mask(lift: Lifter, mask: Any) -> Any:
    """A mask that is the same for all heads as [tokens, seen]; as it is where heads differ."""
    found = np.asarray(mask, np.float64)
    shape = (lift.tokens, lift.past + lift.tokens)
    if found.ndim > 2:
        flat = found.reshape(-1, *found.shape[-2:])
        if (flat == flat[:1]).all():
            found = flat[0]
    return np.broadcast_to(found, shape) if found.ndim <= 2 else found
