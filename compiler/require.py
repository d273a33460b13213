# SPDX-License-Identifier: Apache-2.0
"""What the engines run: every node and every matrix of a graph is asked for, and what they lack is said by name.

The readers of files say what a model is.  Whether it can run is said by the rule of each kind of node (program/nodes/) and by the
planner of each engine (engines/), and asked here.
"""

from __future__ import annotations

from pathlib import Path

from meadow.compiler.engines.engine import Problem, planner_for
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Activation, Attention, Linear, Norm, Threshold
from meadow.compiler.program.nodes.node import rule_of
from meadow.compiler.sources.source import is_hugging_face
from meadow.machine.engines.table import engine_for
from meadow.machine.errors import UnsupportedModel


def require_engines(graph: Graph) -> None:
    """Raise UnsupportedModel, with every problem, unless the engines run every node and multiply every matrix."""
    lacking = [problem for node in graph.nodes for problem in lacks(node)] + misplaced(graph)
    if lacking:
        raise UnsupportedModel("the engines do not compute all of this model:", tuple(_first(lacking)))
    problems = matrix_problems(graph)
    if problems:
        kinds = sorted({row[1] for row in problems})
        raise UnsupportedModel(
            f"{len(problems)} of {len(graph.weights)} matrices cannot run ({', '.join(kinds[:4])}).\n  {remedy(graph)}",
            tuple(_first(problems)),
        )
    kinds_needed = {engine_for(graph.weight_of(n).elem) for n in graph.nodes if isinstance(n.op, Linear)}
    if graph.model.activations != "int8" and any(k is not None and k.activations == "int8" for k in kinds_needed):
        raise UnsupportedModel(
            "the file does not ask for INT8 activations, and the engine multiplies INT8 with INT8 only.\n"
            f"  To ask for them: {quantize_command(graph)}-int8 --activations int8"
        )


def _first(problems: list[Problem], count: int = 6) -> list[Problem]:
    return problems[:count] + [("...", f"{len(problems) - count} more", "")] * (len(problems) > count)


def lacks(node: Node) -> list[Problem]:
    """What keeps a node from the engines: each attribute that no unit has."""
    return [
        (f"%{node.name}", f"has {what}", f"the engines run {served}")
        for wrong, what, served in rule_of(node).lacks(node.op)
        if wrong
    ]


def misplaced(graph: Graph) -> list[Problem]:
    """Thresholds that stand elsewhere than before linear layers."""
    by_name, readers = {n.name: n for n in graph.nodes}, graph.readers()
    return [
        (
            f"%{n.name}",
            f"cuts what %{n.inputs[0]} gives",
            "the engines cut what linear layers read of a norm, attention or an activation",
        )
        for n in graph.nodes
        if isinstance(n.op, Threshold)
        and not (
            isinstance(by_name[n.inputs[0]].op, (Norm, Attention, Activation))
            and all(isinstance(r.op, Linear) for r in readers[n.name])
        )
    ]


def matrix_problems(graph: Graph) -> list[Problem]:
    """The matrices that no engine multiplies.  A table of floats that is only looked up is the host's."""
    multiplied = {n.weight for n in graph.nodes if isinstance(n.op, Linear)}
    problems: list[Problem] = []
    for name, weight in graph.weights.items():
        if weight.scale is None and name not in multiplied:
            continue
        planner = planner_for(weight.elem)
        if planner is None or weight.scale is None:
            served = "the engines take int8 with a scale per tensor or row, and 2, 4 or 8 bits in groups"
            problems.append((name, f"is {weight.elem}", served))
        else:
            problems += planner.problems(weight)
    return problems


def remedy(graph: Graph) -> str:
    """The command that makes a model for the engines of this one, and keeps the codes of what is grouped already."""
    widths = {w.elem.bits for w in graph.weights.values() if w.elem.group}
    if not widths:
        return f"To make an INT8 model of it: {quantize_command(graph)}-int8 --weights int8 --granularity channel --activations int8"
    if max(widths) == 8:
        return f"To keep its codes and give the rest 8 bits: {quantize_command(graph)}-int8 --weights int8 --granularity group"
    return f"To keep its codes and give the rest {max(widths)} bits: {quantize_command(graph)}-int{max(widths)} --weights int{max(widths)}"


def quantize_command(graph: Graph) -> str:
    """What to type to quantize this model, up to the end of the output folder's name."""
    file = Path(graph.source)
    if file.name == "model.onnx" or is_hugging_face(file):
        return f"meadowc quantize {file.parent} -o {file.parent}"
    return f"meadowc quantize {file} -o {file.with_suffix('')}"
