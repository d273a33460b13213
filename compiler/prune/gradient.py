# SPDX-License-Identifier: Apache-2.0
"""gradient: the derivative of a text's surprise by every value of a Graph, in floats, by going through the graph backwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.evaluate import Evaluator, State, activate
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Activation, Add, Attention, Embedding, Head, Linear, Norm, Rotary, Threshold

Floats = NDArray[np.float32]
STEP = 1e-4
"""Of the central differences, in float64, by which the derivative of an activation is found."""


def gradients(evaluator: Evaluator, tokens: NDArray[np.integer[Any]]) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """(values, derivatives) [T, width] by node name; derivatives of the mean surprise, in nats, of each token after the first."""
    graph, state, values = evaluator.graph, State(), dict[str, Floats]()
    for node in graph.nodes:
        values[node.name] = evaluator.node(node, [values[name] for name in node.inputs], tokens, state)
    found: dict[str, Floats] = {graph.nodes[-1].name: _of_logits(values[graph.nodes[-1].name], tokens)}
    for node in reversed(graph.nodes):
        if isinstance(node.op, Embedding) or node.name not in found:
            continue
        inputs = [values[name] for name in node.inputs]
        for name, gradient in zip(node.inputs, _back(evaluator, node, inputs, values, found[node.name]), strict=True):
            found[name] = found[name] + gradient if name in found else gradient
    return values, found


def _of_logits(logits: Floats, tokens: NDArray[np.integer[Any]]) -> Floats:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(tokens) - 1), tokens[1:]] -= 1
    p[-1] = 0
    return np.asarray(p / (len(tokens) - 1), np.float32)


def _back(
    evaluator: Evaluator, node: Node, inputs: list[Floats], values: Mapping[str, Floats], g: Floats
) -> list[Floats]:
    """Derivatives by the inputs of a node, from those by its value."""
    match node.op:
        case Norm() as op:
            return [_norm(evaluator.graph, op, inputs[0], g)]
        case Linear() as op:  # and the head
            if isinstance(op, Head) and op.softcap:
                g = g * (1 - np.square(values[node.name] / np.float32(op.softcap)))
            return [g @ evaluator.weights[op.weight] * np.float32(op.factor)]
        case Rotary() as op:  # a rotation backwards
            back = replace(node, op=replace(op, frequencies=tuple(-f for f in op.frequencies)))
            return [evaluator.node(back, [g], np.zeros(len(g), np.int64), State())]
        case Attention() as op:
            sinks = None if op.sinks is None else evaluator.graph.vectors[op.sinks]
            return _attention(op, inputs, g, sinks)
        case Activation() as op:
            return _activation(op, inputs, g)
        case Add():
            return [g, g]
        case Threshold():
            return [g * (values[node.name] != 0)]
    raise ValueError(f"%{node.name}: {node.op.title} has no derivative here")


def _norm(graph: Graph, op: Norm, x: Floats, g: Floats) -> Floats:
    shape = (len(x), op.heads, -1)
    x, g = x.reshape(shape), g.reshape(shape)
    if op.gain is not None:
        g = g * (graph.vectors[op.gain] + np.float32(op.offset))
    if op.kind == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    root = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(op.eps))
    unit = x / root
    made = g - unit * np.mean(g * unit, axis=-1, keepdims=True)
    if op.kind == "layer":
        made = made - g.mean(axis=-1, keepdims=True)
    return np.asarray((made / root).reshape(len(x), -1))


def _attention(op: Attention, inputs: list[Floats], g: Floats, sinks: Floats | None) -> list[Floats]:
    """Of queries, keys and values, from an empty cache."""
    tokens = len(g)
    q, k, v = (x.reshape(tokens, -1, op.head_dim) for x in inputs)
    g = g.reshape(tokens, -1, op.head_dim)
    distance = np.arange(tokens)[:, None] - np.arange(tokens)
    hidden = (distance < 0) if op.causal else np.zeros_like(distance, dtype=bool)
    hidden = hidden | (distance >= op.window) if op.window else hidden
    made = [np.zeros_like(x) for x in (q, k, v)]
    for head, kv in enumerate(op.kv_of_heads):
        score = q[:, head] @ k[:, kv].T * np.float32(op.scale)
        slope = np.float32(1)
        if op.softcap:
            level = np.tanh(score / np.float32(op.softcap))
            score, slope = level * np.float32(op.softcap), 1 - np.square(level)
        score[hidden] = -np.inf
        top = score.max(axis=-1, keepdims=True)
        top = top if sinks is None else np.maximum(top, sinks[head])
        p = np.exp(score - top)
        p /= p.sum(axis=-1, keepdims=True) + (0 if sinks is None else np.exp(sinks[head] - top))
        made[2][:, kv] += p.T @ g[:, head]
        dp = g[:, head] @ v[:, kv].T
        ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) * slope * np.float32(op.scale)
        made[0][:, head] = ds @ k[:, kv]
        made[1][:, kv] += ds.T @ q[:, head]
    return [x.reshape(tokens, -1) for x in made]


def _activation(op: Activation, inputs: list[Floats], g: Floats) -> list[Floats]:
    x = inputs[0]
    gate, up = (x[:, 0::2], x[:, 1::2]) if op.alternating else (x, inputs[1] if op.gated else None)
    plain = replace(op, gated=False, alternating=False)
    wide = gate.astype(np.float64)
    slope = (activate(plain, [wide + STEP]) - activate(plain, [wide - STEP])) / (2 * STEP)
    by_gate = np.asarray(g * slope * (1 if up is None else up), np.float32)
    if up is None:
        return [by_gate]
    by_up = g * activate(plain, [gate])
    if not op.alternating:
        return [by_gate, by_up]
    return [np.stack([by_gate, by_up], axis=-1).reshape(len(g), -1)]
