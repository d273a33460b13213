# SPDX-License-Identifier: Apache-2.0
"""The one residual that the engine keeps: what lowering assumes of a graph, checked."""

from __future__ import annotations

from meadow.compiler.graph.graph import Graph, Node, Op
from meadow.machine.errors import UnsupportedModel


def check_residual(graph: Graph) -> None:
    """Raise UnsupportedModel unless one running value, kept in one buffer, is what every norm reads and every sum adds to.

    A sum is written over the running value as soon as its linear runs; a later reader of the value before would get the sum.
    """
    by_name = {n.name: n for n in graph.nodes}
    users: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    running, problems = "", []
    for node in graph.nodes:
        if node.op is Op.EMBED:
            running = node.name
        elif node.op is Op.NORM and node.inputs[0] != running:
            problems.append(
                (node.name, f"the norm reads %{node.inputs[0]}, and the running residual there is %{running}")
            )
        elif node.op is Op.LINEAR and any(u.op is Op.ADD for u in users.get(node.name, [])):
            (add, *more) = users[node.name]
            if more or add.op is not Op.ADD or set(add.inputs) != {running, node.name}:
                problems.append(
                    (
                        node.name,
                        f"its sum adds {' and '.join(f'%{i}' for i in add.inputs)}, and the running residual there is %{running}",
                    )
                )
            running = add.name
        elif node.op is Op.ADD and not any(by_name[i].op is Op.LINEAR for i in node.inputs):
            problems.append((node.name, "the sum adds no linear layer"))
    if problems:
        raise UnsupportedModel("the engine keeps one residual, and this model needs more (a parallel block?):",
                               tuple((name, found, "") for name, found in problems))  # fmt: skip
