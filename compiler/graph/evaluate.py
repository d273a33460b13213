# SPDX-License-Identifier: Apache-2.0
"""evaluate: the meaning of a Graph, written slowly and obviously in float32 numpy.  Rung 1 of the ladder.

Not bit-exact with the hardware and not meant to be: exponentials, roots and sums are numpy's own.  With
`quantized=True` the compiler's INT8 activations, INT8 KV cache and 16-bit probabilities are applied where the
hardware applies them (docs/arithmetic.md), so that rung 2 must agree to a small tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Activation, Add, Attention, Embedding, Head, Linear, Norm, Rotary, Threshold
from meadow.machine.arithmetic.fp16 import half

AT_ONCE = 1 << 22
"""Elements of a matrix that are dequantized at a time where it is not kept."""
Floats = NDArray[np.float32]
Observe = Callable[[Node, Floats], None]
"""observe(node, input) is called with the input [T, K] of every linear and of the head."""
Attended = Callable[[int, int, Floats], None]


@dataclass
class State:
    """The KV cache: float32 [tokens, kv_heads, head_dim] for each layer, and how many tokens it holds."""

    keys: dict[int, Floats] = field(default_factory=dict)
    values: dict[int, Floats] = field(default_factory=dict)
    position: int = 0


class _Dequantized(dict[str, Floats]):
    """Weights by name, dequantized when first used and kept."""

    def __init__(self, graph: Graph):
        super().__init__()
        self.graph = graph

    def __missing__(self, name: str) -> Floats:
        self[name] = self.graph.weights[name].dequantize()
        return self[name]


class Evaluator:
    """A Graph with its weights dequantized once.  `run` may be called again and again with the same State.

    keep      keep what is dequantized; else some rows at a time are dequantized for every use
    attended  called with (layer, head, probabilities [T, seen]) of each head, where it is not None
    """

    def __init__(self, graph: Graph, quantized: bool, keep: bool = True, attended: Attended | None = None):
        self.graph = graph
        self.quantized = quantized
        self.keep = keep
        self.attended = attended
        self.weights = _Dequantized(graph)

    def run(self, tokens: NDArray[np.integer[Any]], state: State, observe: Observe | None = None) -> Floats:
        """Logits float32 [T, vocab] of `tokens` [T], which follow those that `state` holds."""
        logits = self.follow(self.graph.nodes, {}, tokens, state, observe)
        state.position += len(tokens)
        return logits

    def follow(
        self,
        nodes: Sequence[Node],
        values: dict[str, Floats],
        tokens: NDArray[np.integer[Any]],
        state: State,
        observe: Observe | None = None,
    ) -> Floats:
        """What the last of `nodes` computes, given `values` [T, width] by node name; the position of `state` stays."""
        values = dict(values)
        for node in nodes:
            inputs = [values[name] for name in node.inputs]
            if observe is not None and isinstance(node.op, Linear):
                observe(node, inputs[0])
            values[node.name] = self.node(node, inputs, tokens, state)
        return values[nodes[-1].name]

    def node(self, node: Node, inputs: list[Floats], tokens: NDArray[np.integer[Any]], state: State) -> Floats:
        """What one node computes of its inputs [T, width]; the position of `state` stays."""
        position = np.arange(state.position, state.position + len(tokens))
        with np.errstate(over="ignore", invalid="ignore"):  # IEEE's infinities and NaN, as the file has them
            return self._node(node, inputs, tokens, position, state)

    def _node(
        self,
        node: Node,
        inputs: list[Floats],
        tokens: NDArray[np.integer[Any]],
        position: NDArray[np.intp],
        state: State,
    ) -> Floats:
        match node.op:
            case Embedding() as op:
                x = self._rows(op.weight, tokens)
                x = x if op.factor == 1 else x * np.float32(op.factor)
                return x if op.positions is None else x + self._rows(op.positions, position + op.shift)
            case Norm() as op:
                return self._norm(op, inputs[0])
            case Head() as op:
                return self._head(op, inputs[0])
            case Linear() as op:
                return self._linear(op, inputs[0])
            case Rotary() as op:
                return self._rope(op, inputs[0], position)
            case Attention() as op:
                return self._attend(op, node.layer or 0, inputs, state)
            case Activation() as op:
                return activate(op, inputs)
            case Add():
                return inputs[0] + inputs[1]
            case Threshold() as op:
                return np.where(np.abs(inputs[0]) > np.float32(op.value), inputs[0], np.float32(0))
        raise ValueError(f"%{node.name}: {node.op.title} has no meaning here")

    def _norm(self, op: Norm, x: Floats) -> Floats:
        if op.heads > 1:
            parts = self._norm(replace(op, heads=1), x.reshape(len(x), op.heads, -1))
            return parts.reshape(len(x), -1)
        x = x - np.mean(x, axis=-1, keepdims=True) if op.kind == "layer" else x
        x = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(op.eps))
        if op.gain is not None:
            gain = self.graph.vectors[op.gain]
            x = x * (gain + np.float32(op.offset) if op.offset else gain)
        return x if op.bias is None else x + self.graph.vectors[op.bias]

    def _linear(self, op: Linear, x: Floats) -> Floats:
        grouped = self.graph.weights[op.weight].elem.group
        y = _scaled(self._product(self._half(x) if grouped else self._int8(x), op.weight), op.factor)
        return y if op.bias is None else y + self.graph.vectors[op.bias]

    def _head(self, op: Head, x: Floats) -> Floats:
        return _capped(self._linear(op, x), op.softcap)

    def _product(self, x: Floats, name: str) -> Floats:
        """x @ W.T."""
        if self.keep:
            return x @ self.weights[name].T
        weight = self.graph.weights[name]
        rows = max(1, AT_ONCE // weight.cols)
        starts = range(0, weight.rows, rows)
        parts = (weight.take(slice(n, n + rows)) for n in starts)
        return np.concatenate([x @ part.T for part in parts], axis=1)

    def _rows(self, name: str, places: NDArray[np.integer[Any]]) -> Floats:
        """Rows of a table."""
        return self.graph.weights[name].take(np.asarray(places))

    def _int8(self, x: Floats) -> Floats:
        """x rounded to 255 levels of its last axis' largest magnitude, if activations are INT8."""
        if not self.quantized:
            return x
        scale = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
        return np.rint(x / np.where(scale == 0, 1, scale)).astype(np.float32) * scale

    def _half(self, x: Floats) -> Floats:
        """x rounded to FP16, as pacq_gemv takes it."""
        return half(x).astype(np.float32) if self.quantized else x

    def _rope(self, op: Rotary, x: Floats, position: NDArray[np.intp]) -> Floats:
        angle = position[:, None, None] * np.array(op.frequencies)
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        if op.factor != 1:
            cos, sin = cos * np.float32(op.factor), sin * np.float32(op.factor)
        heads = x.reshape(len(x), op.heads, op.head_dim)
        turned, rest = heads[..., : 2 * len(op.frequencies)], heads[..., 2 * len(op.frequencies) :]
        if op.interleaved:
            low, high = turned[..., 0::2], turned[..., 1::2]
            turned = np.stack([low * cos - high * sin, high * cos + low * sin], axis=-1).reshape(turned.shape)
        else:
            low, high = np.split(turned, 2, axis=-1)
            turned = np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
        return np.concatenate([turned, rest], axis=-1).reshape(len(x), -1) if rest.size else turned.reshape(len(x), -1)

    def _attend(self, op: Attention, layer: int, inputs: list[Floats], state: State) -> Floats:
        tokens = len(inputs[0])
        q, *new = (self._int8(x.reshape(tokens, -1, op.head_dim)) for x in inputs)
        if op.keys_from is None:
            if layer in state.keys:
                new = [np.concatenate([state.keys[layer], new[0]]), np.concatenate([state.values[layer], new[1]])]
            state.keys[layer], state.values[layer] = new
        source = layer if op.keys_from is None else op.keys_from
        k, v = state.keys[source], state.values[source]
        distance = np.arange(state.position, state.position + tokens)[:, None] - np.arange(len(k))
        hidden = distance < 0 if op.causal else np.zeros_like(distance, dtype=bool)
        if op.window:
            hidden = hidden | (distance >= op.window)
        out = np.empty_like(q)
        for head, kv in enumerate(op.kv_of_heads):
            score = _capped(q[:, head] @ k[:, kv].T * np.float32(op.scale), op.softcap)
            score[hidden] = -np.inf
            top = score.max(axis=-1, keepdims=True)
            sink = None if op.sinks is None else self.graph.vectors[op.sinks][head]
            top = top if sink is None else np.maximum(top, sink)
            weight = np.exp(score - top)
            if self.quantized:
                weight = np.rint(weight * np.float32(65535))
            total = weight.sum(axis=-1, keepdims=True)
            total = total if sink is None else total + np.exp(sink - top) * np.float32(65535 if self.quantized else 1)
            out[:, head] = weight @ v[:, kv] / total
            if self.attended is not None:
                self.attended(layer, head, weight / total)
        return out.reshape(tokens, -1)


def _scaled(x: Floats, factor: float) -> Floats:
    """x * factor; x where the factor is 1."""
    return x if factor == 1 else x * np.float32(factor)


def _capped(x: Floats, cap: float) -> Floats:
    """cap * tanh(x / cap); x where cap is 0."""
    return x if not cap else np.tanh(x / np.float32(cap)) * np.float32(cap)


def activate(op: Activation, inputs: list[Floats]) -> Floats:
    x = inputs[0]
    gate, up = (x[:, 0::2], x[:, 1::2]) if op.alternating else (x, inputs[1] if op.gated else None)
    found = _ACTIVATIONS[op.kind](gate)
    return found if up is None else found * up


def _erf(x: Floats) -> Floats:
    return np.vectorize(math.erf, otypes=[np.float32])(x) if x.size else x


_ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + _erf(x * np.float32(0.5**0.5))) * np.float32(0.5),
    "gelu_tanh": lambda x: (
        x * (1 + np.tanh(np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x * x * x))) * np.float32(0.5)
    ),
    "quick_gelu": lambda x: x / (1 + np.exp(np.float32(-1.702) * x)),
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "relu2": lambda x: np.square(np.maximum(x, np.float32(0))),
}


def evaluate(graph: Graph, tokens: NDArray[np.integer[Any]], quantized: bool | None = None) -> Floats:
    """Logits float32 [T, vocab] of a prompt from an empty cache.

    quantized  apply the compiler's INT8 activations; by default as the file's metadata wishes
    """
    wish = graph.model.activations == "int8" if quantized is None else quantized
    return Evaluator(graph, wish).run(np.asarray(tokens), State())
