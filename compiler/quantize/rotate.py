# SPDX-License-Identifier: Apache-2.0
"""Rotate (Ashkboos et al., 2024: QuaRot): the residual stream and the values of attention turned by orthogonal matrices that the weights
take in, which changes no function and no cost, and leaves no channel that is much larger than the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Add, Attention, Embedding, Head, Linear, Norm, Rotary
from meadow.machine.errors import UsageError
from meadow.machine.types import F32, Weight

Doubles = NDArray[np.float64]


def rotate(graph: Graph, seed: int) -> Graph:
    """The same function with rotated weights, in floats: gains of norms go into the matrices that read them, and a tied head is given
    weights of its own.  Raises UsageError for a graph whose residual stream cannot be turned."""
    reasons = obstacles(graph)
    if reasons:
        raise UsageError(f"--rotate: {'; '.join(reasons)}")
    random = np.random.default_rng(seed)
    turn = orthogonal(graph.model.dim, random)
    head = graph.nodes[-1]
    apart = head.weight or ""
    if apart == graph.nodes[0].weight:
        apart = "output.weight" if "output.weight" not in graph.weights else f"{apart}.head"
    w = {name: weight.dequantize().astype(np.float64) for name, weight in graph.weights.items()}
    w[apart] = w[head.weight or ""]
    nodes = (*graph.nodes[:-1], replace(head, op=replace(head.op, weight=apart)))  # type: ignore[call-arg]
    vectors, readers = dict(graph.vectors), graph.readers()
    by_name = {node.name: node for node in graph.nodes}
    w[graph.nodes[0].weight or ""] = w[graph.nodes[0].weight or ""] @ turn
    for node in graph.nodes:
        match node.op:
            case Norm() as op if not _on_heads(node, readers):
                gain = np.ones(graph.model.dim) if op.gain is None else vectors[op.gain].astype(np.float64) + op.offset
                for reader in readers[node.name]:
                    name = apart if reader is head else reader.weight or ""
                    w[name] = (w[name] * gain) @ turn
                if op.gain is not None:
                    vectors[op.gain] = np.full_like(vectors[op.gain], 1 - op.offset)
            case Add():
                for name in node.inputs:
                    source = by_name[name]
                    if isinstance(source.op, Linear):
                        w[source.weight or ""] = turn.T @ w[source.weight or ""]
                        if source.op.bias is not None:
                            vectors[source.op.bias] = (vectors[source.op.bias] @ turn).astype(np.float32)
            case Attention() as op if op.keys_from is None:
                _values(op, by_name[node.inputs[2]], readers[node.name], w, vectors, random)
    made = {name: Weight(name, F32, values.astype(np.float32)) for name, values in w.items()}
    return graph.replace(nodes=nodes, weights=made, vectors=vectors).used()


def _values(
    op: Attention,
    v: Node,
    readers: list[Node],
    w: dict[str, Doubles],
    vectors: dict[str, NDArray[np.float32]],
    random: np.random.Generator,
) -> None:
    """Turn each head's values by one matrix, and back in the projection of the results; where something else reads them, not."""
    if len(readers) != 1 or type(readers[0].op) is not Linear or type(v.op) is not Linear:
        return
    turn, o = orthogonal(op.head_dim, random), readers[0].weight or ""
    values = v.weight or ""
    split = w[values].reshape(op.kv_heads, op.head_dim, -1)
    w[values] = np.einsum("hdk,de->hek", split, turn).reshape(w[values].shape)
    if v.op.bias is not None:
        vectors[v.op.bias] = (
            (vectors[v.op.bias].reshape(op.kv_heads, op.head_dim) @ turn).reshape(-1).astype(np.float32)
        )
    split = w[o].reshape(-1, op.heads, op.head_dim)
    w[o] = np.einsum("nhd,de->nhe", split, turn).reshape(w[o].shape)


def obstacles(graph: Graph) -> list[str]:
    """What keeps the residual stream of a graph from being turned."""
    found = []
    embedding, by_name, readers = graph.nodes[0].op, {n.name: n for n in graph.nodes}, graph.readers()
    assert isinstance(embedding, Embedding)
    if embedding.positions is not None:
        found.append("learned positions are added to the embedding")
    stream = {graph.nodes[0].name, *(n.name for n in graph.nodes if isinstance(n.op, Add))}
    for node in graph.nodes:
        reads = [name for name in node.inputs if name in stream]
        if isinstance(node.op, Norm) and not _on_heads(node, readers):
            if node.op.kind != "rms" or node.op.bias is not None:
                found.append(f"%{node.name} is no RMS norm without a bias")
            elif not reads:
                found.append(f"%{node.name} norms what is no residual stream")
            elif any(not isinstance(r.op, Linear) for r in readers[node.name]):
                found.append(f"%{node.name} is read by more than matrices")
        elif reads and not isinstance(node.op, Add):
            found.append(f"%{node.name} reads the residual stream without a norm")
        if isinstance(node.op, Add):
            found += [
                f"%{node.name} adds %{name}, which is no matrix's result"
                for name in node.inputs
                if name not in stream and not isinstance(by_name[name].op, Linear)
            ]
    shared = [n.weight for n in graph.nodes if type(n.op) is Linear]
    if len(set(shared)) != len(shared):
        found.append("a matrix serves two nodes")
    if any(isinstance(n.op, Rotary) for n in graph.nodes if n.name in stream):
        found.append("a rotation of positions lies in the stream")
    if not isinstance(graph.nodes[-1].op, Head):
        found.append("the graph ends in no head")
    return found[:4]


def _on_heads(node: Node, readers: Mapping[str, Sequence[Node]]) -> bool:
    """Whether a norm is of queries, keys or values, and not of the stream."""
    return any(isinstance(r.op, (Rotary, Attention)) for r in readers[node.name])


def orthogonal(n: int, random: np.random.Generator) -> Doubles:
    """A random orthogonal matrix [n, n], of the uniform distribution (Mezzadri, 2007)."""
    q, r = np.linalg.qr(random.normal(size=(n, n)))
    return np.asarray(q * np.sign(np.diag(r)))
