# SPDX-License-Identifier: Apache-2.0
"""Parts: the rows of each weight matrix that one LINEAR step streams, as the matrix's engine cuts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from meadow.compiler.engines.engine import planner_for
from meadow.compiler.engines.stored import Part
from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Attention, Linear, Norm, Rotary
from meadow.machine.design import Design


def on_heads(node: Node, readers: Mapping[str, list[Node]]) -> bool:
    """Whether a norm is of queries, keys or values, head by head, before they turn or attend."""
    return isinstance(node.op, Norm) and any(isinstance(r.op, (Rotary, Attention)) for r in readers[node.name])


def tile_rows(node: Node, readers: Mapping[str, list[Node]], design: Design) -> int:
    """Output features per tile: whole heads for Q, K and V, else the design's."""
    for reader in readers[node.name]:
        if on_heads(reader, readers):
            return tile_rows(reader, readers, design)
        if isinstance(reader.op, (Rotary, Attention)):
            return reader.op.head_dim
    return design.tile_rows


class Heads(NamedTuple):
    """Neighbouring KV heads with as many query heads each: what one instruction of attention takes."""

    first: int
    heads: int
    first_kv: int
    kv_heads: int


def alike_heads(op: Attention) -> list[Heads]:
    """All heads of an attention, in as few pieces as may be."""
    found: list[Heads] = []
    for kv, some in enumerate(op.heads_of_kv):
        last = found[-1] if found else None
        if last is not None and last.heads == some * last.kv_heads:
            found[-1] = last._replace(heads=last.heads + some, kv_heads=last.kv_heads + 1)
        else:
            found.append(Heads(last.first + last.heads if last else 0, some, kv, 1))
    return found


def queried(node: Node, readers: Mapping[str, list[Node]]) -> Attention | None:
    """The attention whose queries a linear makes."""
    for reader in readers[node.name]:
        if isinstance(reader.op, Attention) and reader.inputs[0] == node.name:
            return reader.op
        if isinstance(reader.op, Rotary) or on_heads(reader, readers):
            return queried(reader, readers)
    return None


def weight_parts(graph: Graph, design: Design) -> dict[str, list[Part]]:
    """The parts of every matrix that an engine streams, by weight name."""
    found, readers = {}, graph.readers()
    for node in graph.nodes:
        if isinstance(node.op, Linear):
            weight = graph.weight_of(node)
            planner = planner_for(weight.elem, design)
            assert planner is not None, weight
            engine, tile = design.engine(planner.kind), tile_rows(node, readers, design)
            op = queried(node, readers)
            pieces = alike_heads(op) if op is not None else []
            if op is None or len(pieces) < 2:
                found[weight.name] = planner.parts(weight, engine, tile)
                continue
            made = []
            for some in pieces:
                first, count = some.first * op.head_dim, some.heads * op.head_dim
                cut = planner.parts(weight.only(slice(first, first + count), weight.name), engine, tile)
                made += [replace(part, first_row=first + part.first_row) for part in cut]
            found[weight.name] = [replace(part, number=n) for n, part in enumerate(made)]
    return found
