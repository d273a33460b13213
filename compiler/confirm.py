# SPDX-License-Identifier: Apache-2.0
"""confirm: what was matched by structure is checked by numbers, on the parts of the graph between its weights.

A pattern can fit a graph that means something else: another softmax axis, a window in the mask, halves swapped in the
rotation.  So each norm, attention core and gated activation is cut out, run by onnx's own reference evaluator on small
random inputs, and compared with what the compiler will compute.  Weights are cut away: this costs milliseconds a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from meadow.compiler.onnx_weight import OnnxGraph

TOKENS, PAST = 3, 2
"""Of the trial: enough for causality, order of positions and the cache to show."""
TOLERANCE = 1e-3
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Core:
    """The values around one layer's weightless parts, by name in the ONNX graph.

    norms  (input, output, gain, epsilon) of each norm
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


class Difference(Exception):
    """A part of the graph computes something else than was matched."""


def confirm(
    g: OnnxGraph, core: Core, heads: int, kv_heads: int, head_dim: int, inv_freq: tuple[float, ...]
) -> list[str]:
    """Sentences on what differs in one layer; empty when everything means what it looked like."""
    random = np.random.default_rng(core.layer)
    found = []
    for check in (_norms, _glu):
        try:
            check(g, core, random)
        except Difference as difference:
            found.append(str(difference))
    try:
        _attention(g, core, random, heads, kv_heads, head_dim, np.array(inv_freq))
    except Difference as difference:
        found.append(str(difference))
    return found


def run(g: OnnxGraph, output: str, values: dict[str, NDArray[np.generic]], what: str) -> Array:
    """The value `output` when the graph is cut at `values`.  Raises Difference when it needs anything else."""
    needed: set[str] = set()
    nodes: set[int] = set()
    stack = [output]
    index = {out: i for i, n in enumerate(g.graph.node) for out in n.output}
    while stack:
        name = stack.pop()
        if not name or name in needed or name in values:
            continue
        needed.add(name)
        if name in index:
            nodes.add(index[name])
            stack += list(g.graph.node[index[name]].input)
        elif name not in g.initializers:
            raise Difference(f"{what} also depends on {name!r}")
    chosen = [g.graph.node[i] for i in sorted(nodes)]
    used = {i for n in chosen for i in n.input}
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape))
        for n, v in values.items() if n in used
    ]  # fmt: skip
    tensors = []
    for name in sorted(used & g.initializers.keys() - values.keys()):
        array = g.array(name)
        assert array is not None
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(chosen, "part", inputs, [result], tensors)
    try:
        model = helper.make_model(graph, opset_imports=list(g.model.opset_import), ir_version=g.model.ir_version)
        feeds = {i.name: values[i.name] for i in inputs}
        with np.errstate(all="ignore"):
            answer = ReferenceEvaluator(model).run(None, feeds)[0]
    except Exception as error:  # the reference evaluator raises whatever numpy does with a shape that does not fit
        raise Difference(f"{what} could not be evaluated: {type(error).__name__}: {str(error)[:120]}") from None
    return np.asarray(answer, np.float64)


def _compare(found: Array, expected: Array, what: str) -> None:
    if found.size != expected.size:
        raise Difference(f"{what} has {found.size} elements, {expected.size} were expected")
    worst = float(np.abs(found.reshape(-1) - expected.reshape(-1)).max())
    if not worst <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise Difference(f"{what} computes something else than it looks like (differs by {worst:.3g})")


def _norms(g: OnnxGraph, core: Core, random: np.random.Generator) -> None:
    for source, output, gain, eps in core.norms:
        x = random.normal(0, 1, (1, TOKENS, gain.size)).astype(np.float32)
        expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=-1, keepdims=True) + eps) * gain
        _compare(run(g, output, {source: x}, f"layer {core.layer}, the norm {output!r}"), expected,
                 f"layer {core.layer}, the norm {output!r}")  # fmt: skip


def _glu(g: OnnxGraph, core: Core, random: np.random.Generator) -> None:
    gate, up = (random.normal(0, 2, (1, TOKENS, 5)).astype(np.float32) for _ in range(2))
    what = f"layer {core.layer}, silu(gate) * up"
    expected = gate / (1 + np.exp(-gate.astype(np.float64))) * up
    _compare(run(g, core.gated, {core.gate: gate, core.up: up}, what), expected, what)


def _attention(g: OnnxGraph, core: Core, random: np.random.Generator, heads: int, kv_heads: int, head_dim: int,
               inv_freq: Array) -> None:  # fmt: skip
    """Everything between the projections: rotation, cache, repetition of KV heads, mask, softmax, order of heads."""
    what = f"layer {core.layer}, attention"
    q = random.normal(0, 1, (1, TOKENS, heads * head_dim)).astype(np.float32)
    k, v = (random.normal(0, 1, (1, TOKENS, kv_heads * head_dim)).astype(np.float32) for _ in range(2))
    past = {kind: random.normal(0, 1, (1, kv_heads, PAST, head_dim)).astype(np.float32) for kind in ("key", "value")}
    values: dict[str, NDArray[np.generic]] = {
        core.q: q, core.k: k, core.v: v,
        "input_ids": np.zeros((1, TOKENS), np.int64),
        "attention_mask": np.ones((1, PAST + TOKENS), np.int64),
        "position_ids": np.arange(PAST, PAST + TOKENS, dtype=np.int64)[None],
    }  # fmt: skip
    layers = range(sum(i.startswith("past_key_values.") and i.endswith(".key") for i in g.inputs))
    values |= {f"past_key_values.{n}.{kind}": past[kind] for n in layers for kind in past}
    angle = np.arange(PAST, PAST + TOKENS)[:, None, None] * inv_freq

    def rotate(x: NDArray[np.float32], count: int) -> Array:
        low, high = np.split(x.reshape(TOKENS, count, head_dim).astype(np.float64), 2, axis=-1)
        return np.concatenate(
            [low * np.cos(angle) - high * np.sin(angle), high * np.cos(angle) + low * np.sin(angle)], axis=-1
        )

    keys = np.concatenate([past["key"][0].swapaxes(0, 1), rotate(k, kv_heads)])
    rows = np.concatenate([past["value"][0].swapaxes(0, 1), v.reshape(TOKENS, kv_heads, head_dim)])
    queries, future = rotate(q, heads), np.arange(PAST + TOKENS) > np.arange(PAST, PAST + TOKENS)[:, None]
    expected = np.empty((TOKENS, heads, head_dim))
    for head in range(heads):
        kv = head // (heads // kv_heads)
        score = queries[:, head] @ keys[:, kv].T / np.sqrt(head_dim)
        weight = np.exp(np.where(future, -np.inf, score))
        expected[:, head] = weight @ rows[:, kv] / weight.sum(axis=-1, keepdims=True)
    _compare(run(g, core.attended, values, what), expected, what)
