# SPDX-License-Identifier: Apache-2.0
"""thresholds: a Graph whose linear layers read what is above a threshold (Liu et al., 2024: TEAL; Yin et al., 2025: DuoGPT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Activation, Attention, Linear, Norm, Threshold


def sparse_inputs(graph: Graph) -> dict[str, list[Node]]:
    """The linear layers that read each value which may be cut: of norms, attention and activations within a layer, by its name."""
    by_name, found = {n.name: n for n in graph.nodes}, dict[str, list[Node]]()
    for node in graph.nodes:
        if type(node.op) is Linear and node.layer is not None:
            source = by_name[node.inputs[0]]
            while isinstance(source.op, Threshold):
                source = by_name[source.inputs[0]]
            if isinstance(source.op, (Norm, Attention, Activation)):
                found.setdefault(source.name, []).append(node)
    return found


def thresholds_of(graph: Graph) -> dict[str, float]:
    """The thresholds of a graph, by the value that they cut."""
    return {n.inputs[0]: n.op.value for n in graph.nodes if isinstance(n.op, Threshold)}


def with_thresholds(graph: Graph, values: Mapping[str, float]) -> Graph:
    """`graph` whose linear layers read the values of that name through thresholds; those that it has are taken out."""
    behind = {n.name: n.inputs[0] for n in graph.nodes if isinstance(n.op, Threshold)}
    nodes, new = [], dict[str, str]()
    for node in graph.nodes:
        if isinstance(node.op, Threshold):
            continue
        inputs = tuple(behind.get(name, name) for name in node.inputs)
        linear = type(node.op) is Linear and node.layer is not None
        nodes.append(replace(node, inputs=tuple(new.get(i, i) for i in inputs) if linear else inputs))
        if node.name in values:
            new[node.name] = f"{node.name}.live"
            nodes.append(Node(new[node.name], Threshold(values[node.name]), (node.name,), node.layer, "live"))
    made = graph.replace(nodes=tuple(nodes))
    made.check()
    return made
