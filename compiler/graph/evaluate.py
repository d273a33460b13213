# SPDX-License-Identifier: Apache-2.0
"""evaluate: the meaning of a Graph, written slowly and obviously in float32 numpy.  Rung 1 of the ladder.

Not bit-exact with the hardware and not meant to be: exponentials, roots and sums are numpy's own.  With
`quantized=True` the compiler's INT8 activations, INT8 KV cache and 16-bit probabilities are applied where the
hardware applies them (docs/arithmetic.md), so that rung 2 must agree to a small tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph, Node, Op
from meadow.machine.arithmetic.fp16 import half

Floats = NDArray[np.float32]
Observe = Callable[[Node, Floats], None]
"""observe(node, input) is called with the input [T, K] of every linear and of the head."""


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
    """A Graph with its weights dequantized once.  `run` may be called again and again with the same State."""

    def __init__(self, graph: Graph, quantized: bool):
        self.graph = graph
        self.quantized = quantized
        self.weights = _Dequantized(graph)

    def run(self, tokens: NDArray[np.integer[Any]], state: State, observe: Observe | None = None) -> Floats:
        """Logits float32 [T, vocab] of `tokens` [T], which follow those that `state` holds."""
        logits = self.follow(self.graph.nodes, {}, tokens, state, observe)
        state.position += len(tokens)
        return logits

    def follow(self, nodes: Sequence[Node], values: dict[str, Floats], tokens: NDArray[np.integer[Any]], state: State,
               observe: Observe | None = None) -> Floats:  # fmt: skip
        """What the last of `nodes` computes, given `values` [T, width] by node name; the position of `state` stays."""
        position = np.arange(state.position, state.position + len(tokens))
        values = dict(values)
        with np.errstate(over="ignore", invalid="ignore"):  # IEEE's infinities and NaN, as the file has them
            for node in nodes:
                inputs = [values[name] for name in node.inputs]
                if observe is not None and node.op in (Op.LINEAR, Op.HEAD):
                    observe(node, inputs[0])
                values[node.name] = self._node(node, inputs, tokens, position, state)
        return values[nodes[-1].name]

    def _node(self, node: Node, inputs: list[Floats], tokens: NDArray[np.integer[Any]], position: NDArray[np.intp],
              state: State) -> Floats:  # fmt: skip
        model = self.graph.model
        match node.op:
            case Op.EMBED:
                return self.weights[node.weight or ""][tokens]
            case Op.NORM:
                x = inputs[0]
                root = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(model.eps))
                return x / root * self.graph.gains[node.weight or ""]
            case Op.LINEAR | Op.HEAD:
                grouped = self.graph.weight_of(node).elem.group
                x = self._half(inputs[0]) if grouped else self._int8(inputs[0])
                return x @ self.weights[node.weight or ""].T
            case Op.ROPE:
                return self._rope(inputs[0], node.heads, position)
            case Op.ATTEND:
                return self._attend(node, inputs, state)
            case Op.GLU:
                gate, up = inputs if len(inputs) == 2 else (inputs[0][:, 0::2], inputs[0][:, 1::2])
                return gate / (1 + np.exp(-gate)) * up
            case Op.ADD:
                return inputs[0] + inputs[1]

    def _int8(self, x: Floats) -> Floats:
        """x rounded to 255 levels of its last axis' largest magnitude, if activations are INT8."""
        if not self.quantized:
            return x
        scale = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
        return np.rint(x / np.where(scale == 0, 1, scale)).astype(np.float32) * scale

    def _half(self, x: Floats) -> Floats:
        """x rounded to FP16, as pacq_gemv takes it."""
        return half(x).astype(np.float32) if self.quantized else x

    def _rope(self, x: Floats, heads: int, position: NDArray[np.intp]) -> Floats:
        angle = position[:, None, None] * np.array(self.graph.model.inv_freq)
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        low, high = np.split(x.reshape(len(x), heads, -1), 2, axis=-1)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1).reshape(len(x), -1)

    def _attend(self, node: Node, inputs: list[Floats], state: State) -> Floats:
        model, layer = self.graph.model, node.layer or 0
        tokens = len(inputs[0])
        q, k, v = (self._int8(x.reshape(tokens, -1, model.head_dim)) for x in inputs)
        if layer in state.keys:
            k = np.concatenate([state.keys[layer], k])
            v = np.concatenate([state.values[layer], v])
        state.keys[layer], state.values[layer] = k, v
        future = np.arange(len(k)) > np.arange(state.position, state.position + tokens)[:, None]
        out = np.empty_like(q)
        for head in range(model.heads):
            kv = head // (model.heads // model.kv_heads)
            score = q[:, head] @ k[:, kv].T * np.float32(model.head_dim**-0.5)
            score[future] = -np.inf
            weight = np.exp(score - score.max(axis=-1, keepdims=True))
            if self.quantized:
                weight = np.rint(weight * np.float32(65535))
            out[:, head] = weight @ v[:, kv] / weight.sum(axis=-1, keepdims=True)
        return out.reshape(tokens, -1)


def evaluate(graph: Graph, tokens: NDArray[np.integer[Any]], quantized: bool | None = None) -> Floats:
    """Logits float32 [T, vocab] of a prompt from an empty cache.

    quantized  apply the compiler's INT8 activations; by default as the file's metadata wishes
    """
    wish = graph.model.activations == "int8" if quantized is None else quantized
    return Evaluator(graph, wish).run(np.asarray(tokens), State())
