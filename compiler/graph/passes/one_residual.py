# SPDX-License-Identifier: Apache-2.0
"""Bring a graph into the shape of one running residual: sums one after another, and norms before the sums that follow what they read.

    %s = add(%attn, %mlp)                %y1 = add(%x, %attn)
    %y = add(%s, %x)          becomes    %y  = add(%y1, %mlp)        and every norm of %x comes before %y1

Sums are made in another order, which is a rounding of FP32 apart (docs/decisions/0031-what-is-folded.md).
"""

from __future__ import annotations

from dataclasses import replace

from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Add, Embedding, Norm


def one_residual(graph: Graph) -> Graph:
    """The graph with the residual first in every sum, and norms as early as they can be."""
    return _early_norms(_one_by_one(graph))


def _one_by_one(graph: Graph) -> Graph:
    by_name = {n.name: n for n in graph.nodes}
    order = {n.name: place for place, n in enumerate(graph.nodes)}  # what is computed first is added first
    readers = graph.readers()
    inner = {n.name: n for n in graph.nodes if isinstance(n.op, Add) and [type(r.op) for r in readers[n.name]] == [Add]}

    def terms(node: Node) -> list[str]:
        found: list[str] = []
        for name in node.inputs:
            found += terms(inner[name]) if name in inner else [name]
        return found

    def _is_residual(name: str) -> bool:
        """Whether a value is a running residual: an embedding, or a sum that norms read too."""
        return isinstance(by_name[name].op, Embedding) or (isinstance(by_name[name].op, Add) and name not in inner)

    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name in inner:
            continue  # made part of the sum that reads it
        parts = terms(node) if isinstance(node.op, Add) else []
        first = [t for t in parts if _is_residual(t)]
        if len(parts) < 3 or len(first) != 1:
            nodes.append(node)
            continue
        running, rest = first[0], sorted((t for t in parts if t != first[0]), key=order.__getitem__)
        for number, term in enumerate(rest):
            last = number == len(rest) - 1
            name = node.name if last else f"{node.name}.{number}"
            nodes.append(
                replace(node, name=name, inputs=(running, term), role=node.role if last else f"{node.role}.{number}")
            )
            running = name
    return graph.replace(nodes=tuple(nodes))


def _early_norms(graph: Graph) -> Graph:
    """Every norm right behind what it reads, unless it reads a linear's results."""
    by_name = {n.name: n for n in graph.nodes}
    moved: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if isinstance(node.op, Norm) and isinstance(by_name[node.inputs[0]].op, (Add, Embedding)):
            moved.setdefault(node.inputs[0], []).append(node)
    early = {n.name for some in moved.values() for n in some}
    nodes = []
    for node in graph.nodes:
        if node.name not in early:
            nodes += [node, *moved.get(node.name, [])]
    return graph.replace(nodes=tuple(nodes))
