# SPDX-License-Identifier: Apache-2.0
"""The one residual that the engine keeps: what lowering assumes of a graph, checked."""

from __future__ import annotations

from collections.abc import Mapping

from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Add, Embedding, Linear, Norm
from meadow.compiler.program.parts import on_heads
from meadow.machine.errors import UnsupportedModel


def _post(node: Node, by_name: Mapping[str, Node]) -> bool:
    """Whether a norm is of a linear's results, between it and the sum that it goes into."""
    return isinstance(by_name[node.inputs[0]].op, Linear)


def _goes_on(node: Node, users: Mapping[str, list[Node]]) -> bool:
    """Whether what a node computes is added to or normed, so that it is a residual itself."""
    return any(isinstance(user.op, (Add, Norm)) for user in users[node.name])


def check_residual(graph: Graph) -> None:
    """Raise UnsupportedModel unless one running value, kept in one buffer, is what every norm reads and every sum adds to.

    A sum is written over the running value as soon as its linear runs; a later reader of the value before would get the sum.
    """
    by_name = {n.name: n for n in graph.nodes}
    users = graph.readers()
    running, problems = "", []
    for node in graph.nodes:
        if isinstance(node.op, Embedding):
            running = node.name
        elif (
            isinstance(node.op, Norm)
            and not on_heads(node, users)
            and not _post(node, by_name)
            and node.inputs[0] != running
        ):
            problems.append(
                (node.name, f"the norm reads %{node.inputs[0]}, and the running residual there is %{running}")
            )
        elif (
            isinstance(node.op, Norm)
            and not on_heads(node, users)
            and not _post(node, by_name)
            and _goes_on(node, users)
        ):
            running = node.name  # a norm of the sum, which is the residual from here on
        elif isinstance(node.op, (Linear, Norm)) and any(isinstance(u.op, Add) for u in users[node.name]):
            (add, *more) = users[node.name]
            if more or not isinstance(add.op, Add) or set(add.inputs) != {running, node.name}:
                problems.append(
                    (
                        node.name,
                        f"its sum adds {' and '.join(f'%{i}' for i in add.inputs)}, and the running residual there is %{running}",
                    )
                )
            running = add.name
        elif isinstance(node.op, Add) and not any(isinstance(by_name[i].op, (Linear, Norm)) for i in node.inputs):
            problems.append((node.name, "the sum adds no linear layer"))
    if problems:
        raise UnsupportedModel(
            "the engine keeps one residual, and this model needs more (a parallel block?):",
            tuple((name, found, "") for name, found in problems),
        )
