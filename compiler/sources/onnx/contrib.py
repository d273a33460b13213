# SPDX-License-Identifier: Apache-2.0
"""onnxruntime's attention operators in numpy, as its ContribOperators.md says; batch 1.

Written apart from lift/fused.py, which they check.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.sources.onnx.shapes import NotEvaluated

Array = NDArray[Any]


def rotate(x: Array, cos: Array, sin: Array, interleaved: bool) -> Array:
    """x [heads, tokens, size] with its first 2 * cos.shape[-1] elements turned by angles [tokens, n]."""
    n = cos.shape[-1]
    turned, rest = x[..., : 2 * n], x[..., 2 * n :]
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else (turned[..., :n], turned[..., n:])
    low: Array = a * cos - b * sin
    high: Array = b * cos + a * sin
    if interleaved:
        made = np.stack([low, high], axis=-1).reshape(turned.shape)
    else:
        made = np.concatenate([low, high], axis=-1)
    return np.concatenate([made, rest], axis=-1)


def rotary(a: dict[str, Any], x: Array, positions: Array, cos: Array, sin: Array) -> Array:
    """com.microsoft.RotaryEmbedding."""
    flat = x.ndim == 3
    heads = int(a.get("num_heads", 0)) or (x.shape[2] // (2 * cos.shape[1]) if flat else x.shape[1])
    by_head = x[0].reshape(x.shape[1], heads, -1).swapaxes(0, 1) if flat else x[0]
    tokens = by_head.shape[1]
    at = positions.reshape(-1)
    at = at if at.size == tokens else at[0] + np.arange(tokens)
    made = rotate(by_head, cos[at], sin[at], bool(a.get("interleaved", 0)))
    return made.swapaxes(0, 1).reshape(x.shape) if flat else made[None]


def heads_of(x: Array, heads: int) -> Array:
    """[1, tokens, heads * size] as [heads, tokens, size]."""
    return x[0].reshape(x.shape[1], heads, -1).swapaxes(0, 1)


def attend(
    q: Array, k: Array, v: Array, scale: float, mask: Array, cap: float = 0.0, sinks: Array | None = None
) -> Array:
    """[1, tokens, heads * size] of q [heads, tokens, size] and k, v [kv_heads, seen, size]."""
    group = len(q) // len(k)
    out = []
    for head in range(len(q)):
        score = q[head] @ k[head // group].T * np.float32(scale)
        score = np.tanh(score / np.float32(cap)) * np.float32(cap) if cap else score
        score = score + mask
        top = score.max(axis=-1, keepdims=True)
        top = top if sinks is None else np.maximum(top, sinks[head])
        share = np.exp(score - top)
        total = share.sum(axis=-1, keepdims=True)
        total = total if sinks is None else total + np.exp(sinks[head] - top)
        out.append(share @ v[head // group] / total)
    made = np.stack(out, axis=1)
    return made.reshape(1, len(made), -1).astype(np.float32)


def grouped(
    a: dict[str, Any],
    q: Array,
    k: Array | None,
    v: Array | None,
    past_k: Array | None = None,
    past_v: Array | None = None,
    seqlens: Array | None = None,
    total: Array | None = None,
    cos: Array | None = None,
    sin: Array | None = None,
    positions: Array | None = None,
    bias: Array | None = None,
    sinks: Array | None = None,
    *more: Array | None,
) -> list[Array]:
    """com.microsoft.GroupQueryAttention."""
    heads, kv_heads = int(a["num_heads"]), int(a["kv_num_heads"])
    if k is None or v is None:
        size = q.shape[2] // (heads + 2 * kv_heads)
        q, k, v = np.split(q, [heads * size, (heads + kv_heads) * size], axis=2)
    q, k, v = heads_of(q, heads), heads_of(k, kv_heads), heads_of(v, kv_heads)
    past = 0 if past_k is None else past_k.shape[2]
    tokens = q.shape[1]
    if seqlens is not None and int(seqlens.reshape(-1)[0]) != past + tokens - 1:
        raise NotEvaluated(
            f"GroupQueryAttention of {seqlens.reshape(-1)[0]} + 1 positions, with {past} cached and {tokens} new"
        )
    if any(v is not None for v in more):
        raise NotEvaluated("GroupQueryAttention with a cache of integers")
    if a.get("do_rotary", 0):
        assert cos is not None and sin is not None
        at = np.arange(past, past + tokens) if positions is None else positions.reshape(-1)
        q, k = (rotate(x, cos[at], sin[at], bool(a.get("rotary_interleaved", 0))) for x in (q, k))
    if past_k is not None and past_v is not None:
        k, v = np.concatenate([past_k[0], k], axis=1), np.concatenate([past_v[0], v], axis=1)
    distance = np.arange(past, past + tokens)[:, None] - np.arange(past + tokens)
    window = int(a.get("local_window_size", -1))
    hidden = (distance < 0) | ((distance >= window) if window > 0 else False)
    mask = np.where(hidden, -np.inf, 0.0).astype(np.float32)
    mask = mask if bias is None else mask + bias.reshape(-1, *bias.shape[-2:])[0]
    scale = float(a.get("scale", 0.0)) or q.shape[2] ** -0.5
    made = attend(q, k, v, scale, mask, float(a.get("softcap", 0.0)), None if sinks is None else sinks.reshape(-1))
    return [made, k[None], v[None]]


def multi_head(
    a: dict[str, Any],
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None = None,
    padding: Array | None = None,
    mask: Array | None = None,
    past_k: Array | None = None,
    past_v: Array | None = None,
    *more: Array | None,
) -> list[Array]:
    """com.microsoft.MultiHeadAttention."""
    heads = int(a["num_heads"])
    if padding is not None:
        raise NotEvaluated("MultiHeadAttention with a key padding mask")
    if bias is not None:
        parts = np.split(bias.reshape(-1), 3)
        q, k, v = q + parts[0], k + parts[1], v + parts[2]
    q = heads_of(q, heads)
    k, v = (heads_of(x, heads) if x.ndim == 3 else x[0] for x in (k, v))
    if past_k is not None and past_v is not None:
        k, v = np.concatenate([past_k[0], k], axis=1), np.concatenate([past_v[0], v], axis=1)
    seen = np.zeros((q.shape[1], k.shape[1]), np.float32) if mask is None else mask.reshape(-1, *mask.shape[-2:])[0]
    if a.get("unidirectional", 0):
        distance = np.arange(k.shape[1] - q.shape[1], k.shape[1])[:, None] - np.arange(k.shape[1])
        seen = seen + np.where(distance < 0, -np.inf, 0.0).astype(np.float32)
    scale = float(a.get("scale", 0.0)) or q.shape[2] ** -0.5
    return [attend(q, k, v, scale, seen), k[None], v[None]]
