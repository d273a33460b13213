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
    """The thresholds within the layers of a graph, by the value that they cut."""
    return {n.inputs[0]: n.op.value for n in graph.nodes if isinstance(n.op, Threshold)}


def with_thresholds(graph: Graph, values: Mapping[str, float]) -> Graph:
    """`graph` whose linear layers read the values of that name through thresholds; those that they have are taken out.

    A threshold elsewhere, such as before the head, stays.
    """
    by_name, wanted = {n.name: n for n in graph.nodes}, sparse_inputs(graph)
    behind: dict[str, str] = {}
    for readers in wanted.values():
        for node in readers:
            source = node.inputs[0]
            while isinstance(by_name[source].op, Threshold):
                source = by_name[source].inputs[0]
            behind[node.name] = source
    plain = [replace(n, inputs=(behind[n.name],)) if n.name in behind else n for n in graph.nodes]
    while unread := {n.name for n in plain if isinstance(n.op, Threshold)} - {i for n in plain for i in n.inputs}:
        plain = [n for n in plain if n.name not in unread]
    nodes, new = [], dict[str, str]()
    for node in plain:
        cut = node.name in behind and node.inputs[0] in new
        nodes.append(replace(node, inputs=(new[node.inputs[0]],)) if cut else node)
        if node.name in values:
            new[node.name] = f"{node.name}.live"
            nodes.append(Node(new[node.name], Threshold(values[node.name]), (node.name,), node.layer, "live"))
    made = graph.replace(nodes=tuple(nodes))
    made.check()
    return made
