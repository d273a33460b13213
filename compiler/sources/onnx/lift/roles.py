# SPDX-License-Identifier: Apache-2.0
"""Layers, roles, names and the order of the nodes of a Graph that is read: all told by what reads what."""

from __future__ import annotations

import heapq

import numpy as np

from meadow.compiler.graph.graph import Node, name_of
from meadow.compiler.graph.ops import Activation, Add, Attention, Embedding, Linear, Norm, Threshold
from meadow.compiler.sources.onnx.lift.assemble import Assembly

RANK = (
    "attn_norm",
    "qkv_live",
    "q",
    "k",
    "v",
    "q_norm",
    "k_norm",
    "q_rope",
    "k_rope",
    "attend",
    "o_live",
    "o",
    "attn_post_norm",
    "attn_add",
    "ffn_norm",
    "ffn_live",
    "gate",
    "up",
    "glu",
    "act",
    "down_live",
    "down",
    "ffn_post_norm",
    "ffn_add",
    "norm",
    "logits",
)
"""The order of roles within a layer, where the data flow leaves a choice."""


def finished(a: Assembly, head: int) -> tuple[Node, ...]:
    """The nodes that the head needs, with layers, roles and names, in order."""
    used, stack = set(), [head]
    while stack:
        n = stack.pop()
        if n not in used:
            used.add(n)
            stack += a.made[n].inputs
    readers: dict[int, list[int]] = {n: [] for n in used}
    for n in sorted(used):
        for i in a.made[n].inputs:
            readers[i].append(n)
    _layers(a, head, used)
    _roles(a, head, used, readers)
    order = _ordered(a, used)
    names: dict[int, str] = {}
    taken: set[str] = set()
    for n in order:
        made = a.made[n]
        name = name_of(made.layer, made.role)
        while name in taken:
            made.role += "2"
            name = name_of(made.layer, made.role)
        taken.add(name)
        names[n] = name
    a.tensors.name_all([(n, a.made[n]) for n in order])
    a.order = [a.made[n] for n in order]
    return tuple(
        Node(names[n], a.made[n].op, tuple(names[i] for i in a.made[n].inputs), a.made[n].layer, a.made[n].role)
        for n in order
    )


def _layers(a: Assembly, head: int, used: set[int]) -> None:
    """The layer of each node: an attention's own number, and what lies between sums goes with the sum."""
    number = {n: i for i, n in enumerate(sorted(n for n in used if isinstance(a.made[n].op, Attention)))}
    depth: dict[int, int] = {}
    for n in sorted(used):
        depth[n] = max([number.get(n, -1), *(depth[i] for i in a.made[n].inputs)])
    placed: dict[int, int | None] = {}

    def back(start: int, layer: int | None) -> None:
        stack = [start]
        while stack:
            n = stack.pop()
            if n in placed or (n != start and isinstance(a.made[n].op, (Add, Embedding, Attention))):
                continue
            placed[n] = layer
            stack += a.made[n].inputs

    for n, layer in number.items():
        back(n, layer)
    back(head, None)
    for n in sorted(used):
        if isinstance(a.made[n].op, Add) and depth[n] >= 0:
            back(n, depth[n])
    for n in used:
        found = placed.get(n, None if depth[n] < 0 else depth[n])
        a.made[n].layer = found


def _roles(a: Assembly, head: int, used: set[int], readers: dict[int, list[int]]) -> None:
    """What each node is in its layer, told by what reads it and what it reads."""
    made = a.made
    for n in sorted(used):
        if isinstance(made[n].op, Attention):
            made[n].role = "attend"
            for role, start in zip("qkv", made[n].inputs, strict=False):
                _heads_of(a, start, role)
    for n in sorted(used):
        op = made[n].op
        if isinstance(op, Activation):
            made[n].role = "glu" if op.gated else "act"
            for role, i in zip(("gate", "up") if op.gated else ("up",), made[n].inputs, strict=False):
                made[i].role = made[i].role or role
    for n in sorted(used):
        if type(made[n].op) is Linear and not made[n].role:
            source = _behind(a, made[n].inputs[0])
            made[n].role = {"attend": "o", "glu": "down", "act": "down"}.get(made[source].role, "linear")
    made[head].role = "logits"
    for n in sorted(used):
        if isinstance(made[n].op, Norm) and not made[n].role:
            made[n].role = _norm_role(_read_by(a, n, readers), made[made[n].inputs[0]].role)
        elif isinstance(made[n].op, Embedding):
            made[n].role = "embed"
    for n in sorted(used):
        if isinstance(made[n].op, Threshold):
            made[n].role = LIVE.get(made[_behind(a, n)].role, "live")
    for layer in {made[n].layer for n in used}:
        adds = [n for n in sorted(used) if isinstance(made[n].op, Add) and made[n].layer == layer]
        for place, n in enumerate(adds):
            made[n].role = "ffn_add" if place == len(adds) - 1 and len(adds) > 1 else "attn_add"
    for n in used:
        made[n].role = made[n].role or made[n].op.title


LIVE = {"attn_norm": "qkv_live", "attend": "o_live", "ffn_norm": "ffn_live", "glu": "down_live", "act": "down_live"}
"""The role of a threshold, by that of what it reads."""


def _behind(a: Assembly, n: int) -> int:
    """What is read through thresholds."""
    while isinstance(a.made[n].op, Threshold):
        (n,) = a.made[n].inputs
    return n


def _read_by(a: Assembly, n: int, readers: dict[int, list[int]]) -> set[str]:
    """The roles of what reads a node, through thresholds."""
    found = set()
    for r in readers[n]:
        found |= _read_by(a, r, readers) if isinstance(a.made[r].op, Threshold) else {a.made[r].role}
    return found


def _heads_of(a: Assembly, n: int, role: str) -> None:
    """Q, K or V from what attention reads, back to its linear."""
    while not a.made[n].role:
        op = a.made[n].op
        suffix = {"rope": "_rope", "norm": "_norm", "linear": ""}.get(op.title)
        if suffix is None:
            return
        a.made[n].role = role + suffix
        if op.title == "linear":
            return
        n = a.made[n].inputs[0]


def _norm_role(readers: set[str], source: str) -> str:
    if readers & {"q", "k", "v"}:
        return "attn_norm"
    if readers & {"gate", "up"}:
        return "ffn_norm"
    if "logits" in readers:
        return "norm"
    return {"o": "attn_post_norm", "down": "ffn_post_norm"}.get(source, "norm")


def _ordered(a: Assembly, used: set[int]) -> list[int]:
    """Every node after what it reads; layers, and roles within them, in their usual order where that leaves a choice."""

    def key(n: int) -> tuple[float, int, int]:
        made = a.made[n]
        layer = made.layer if made.layer is not None else (-1 if isinstance(made.op, Embedding) else np.inf)
        return (layer, RANK.index(made.role) if made.role in RANK else len(RANK), n)

    waiting = {n: sum(1 for i in set(a.made[n].inputs)) for n in used}
    readers: dict[int, set[int]] = {n: set() for n in used}
    for n in used:
        for i in a.made[n].inputs:
            readers[i].add(n)
    ready = [(*key(n), n) for n in used if not waiting[n]]
    heapq.heapify(ready)
    order = []
    while ready:
        n = heapq.heappop(ready)[-1]
        order.append(n)
        for r in readers[n]:
            waiting[r] -= 1
            if not waiting[r]:
                heapq.heappush(ready, (*key(r), r))
    return order
