# SPDX-License-Identifier: Apache-2.0
"""cut: a Graph without some of its attention heads or MLP channels.  Matrices become smaller; nothing else changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.graph import Graph, Node
from meadow.compiler.graph.ops import Activation, Attention, Linear, Norm, Rotary, Threshold
from meadow.machine.errors import UsageError
from meadow.machine.types import F32, Weight

Places = NDArray[np.intp]


@dataclass(frozen=True)
class Block:
    """The attention of a layer: its node, and the nodes that make queries, keys and values, from the linear on; and what reads it."""

    attend: Node
    q: tuple[Node, ...]
    k: tuple[Node, ...]
    v: tuple[Node, ...]
    o: Node

    @property
    def op(self) -> Attention:
        assert isinstance(self.attend.op, Attention)
        return self.attend.op


@dataclass(frozen=True)
class Mlp:
    """The MLP of a layer: the linears that make its channels, the activation, and the linear that reads them."""

    makers: tuple[Node, ...]
    act: Node
    down: Node

    @property
    def op(self) -> Activation:
        assert isinstance(self.act.op, Activation)
        return self.act.op


def attention_blocks(graph: Graph) -> dict[int, Block]:
    """The attention of every layer.  Raises UsageError where heads of one cannot be taken out."""
    by_name, readers = {n.name: n for n in graph.nodes}, graph.readers()
    found = {}
    for node in graph.nodes:
        if not isinstance(node.op, Attention):
            continue
        if node.op.keys_from is not None or any(
            isinstance(n.op, Attention) and n.op.keys_from == node.layer for n in graph.nodes
        ):
            raise UsageError(f"%{node.name} shares a cache with another layer; heads that do are not pruned")
        counts = (node.op.heads, node.op.kv_heads, node.op.kv_heads)
        chains = [_made(by_name, readers, *both) for both in zip(node.inputs, counts, strict=True)]
        reader = _readers(readers, node.name)
        if len(reader) != 1 or type(reader[0].op) is not Linear:
            raise UsageError(f"%{node.name} is not read by one matrix alone; its heads cannot be pruned")
        found[node.layer or 0] = Block(node, chains[0], chains[1], chains[2], reader[0])
    _refuse_shared(graph, [n for b in found.values() for n in (b.q[0], b.k[0], b.v[0], b.o)])
    return found


def mlps(graph: Graph) -> dict[int, Mlp]:
    """The MLP of every layer.  Raises UsageError where channels of one cannot be taken out."""
    by_name, readers = {n.name: n for n in graph.nodes}, graph.readers()
    found = {}
    for node in graph.nodes:
        if not isinstance(node.op, Activation):
            continue
        makers, reader = tuple(by_name[name] for name in node.inputs), _readers(readers, node.name)
        alone = all(type(m.op) is Linear and len(readers[m.name]) == 1 for m in makers)
        if not alone or len(reader) != 1 or type(reader[0].op) is not Linear:
            raise UsageError(f"%{node.name} does not stand between matrices of its own; its channels cannot be pruned")
        found[node.layer or 0] = Mlp(makers, node, reader[0])
    _refuse_shared(graph, [n for m in found.values() for n in (*m.makers, m.down)])
    return found


def _readers(readers: Mapping[str, Sequence[Node]], name: str) -> list[Node]:
    """What reads a value, through thresholds."""
    found: list[Node] = []
    for node in readers[name]:
        found += _readers(readers, node.name) if isinstance(node.op, Threshold) else [node]
    return found


def _made(
    by_name: Mapping[str, Node], readers: Mapping[str, Sequence[Node]], name: str, heads: int
) -> tuple[Node, ...]:
    """The nodes from a linear on that make the value `name`, head by head."""
    chain = [by_name[name]]
    while isinstance(chain[0].op, (Rotary, Norm)):
        if chain[0].op.heads != heads:
            raise UsageError(f"%{chain[0].name} norms all heads together; they cannot be pruned")
        chain.insert(0, by_name[chain[0].inputs[0]])
    if type(chain[0].op) is not Linear or any(len(readers[n.name]) != 1 for n in chain):
        raise UsageError(f"%{name} is not made by a matrix of its own; its heads cannot be pruned")
    return tuple(chain)


def _refuse_shared(graph: Graph, nodes: Sequence[Node]) -> None:
    """Raise UsageError where a matrix or bias of `nodes` serves another node too."""
    users: dict[str, int] = {}
    for node in graph.nodes:
        for key in (*node.op.names, "bias"):
            name = getattr(node.op, key, None)
            if name is not None:
                users[name] = users.get(name, 0) + 1
    for node in nodes:
        for name in (node.weight, getattr(node.op, "bias", None)):
            if name is not None and users[name] > 1:
                raise UsageError(f"{name} serves {users[name]} nodes, %{node.name} among them; it is not pruned")


@dataclass
class _Edit:
    """A graph whose nodes and tensors are being replaced."""

    graph: Graph
    nodes: dict[str, Node] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = {n.name: n for n in self.graph.nodes}
        self.weights, self.vectors = dict(self.graph.weights), dict(self.graph.vectors)

    def rows(self, node: Node, kept: Places) -> None:
        """Keep some output features of a linear."""
        assert isinstance(node.op, Linear)
        weight = self.weights[node.op.weight]
        self.weights[node.op.weight] = weight.only(kept, weight.name)
        if node.op.bias is not None:
            self.vectors[node.op.bias] = self.vectors[node.op.bias][kept]

    def columns(self, node: Node, kept: Places) -> None:
        """Keep some input features of a linear."""
        assert isinstance(node.op, Linear)
        self.weights[node.op.weight] = columns(self.weights[node.op.weight], kept)

    def set(self, node: Node, **changes: Any) -> None:
        """Replace attributes of a node."""
        self.nodes[node.name] = replace(node, op=replace(node.op, **changes))

    def done(self) -> Graph:
        """The graph, with the numbers that people see."""
        nodes = tuple(self.nodes.values())
        ops = [n.op for n in nodes if isinstance(n.op, Attention)]
        model = self.graph.model
        heads = max((op.heads for op in ops), default=model.heads)
        kv_heads = max((op.kv_heads for op in ops), default=model.kv_heads)
        made = self.graph.replace(nodes=nodes, weights=self.weights, vectors=self.vectors)
        widths = made.widths()
        ffn = max((widths[n.name] for n in nodes if isinstance(n.op, Activation)), default=model.ffn)
        made = made.replace(model=replace(model, ffn=ffn, heads=heads, kv_heads=kv_heads))
        made.check()
        return made


def without_heads(graph: Graph, gone: Mapping[int, Collection[int]]) -> Graph:
    """`graph` without some query heads of each layer; a KV head goes where all its query heads do.

    KV heads with as many query heads stand side by side afterwards, so that attention takes as few instructions as may be.
    Raises UsageError where heads cannot be taken out, or none would be left.
    """
    edit = _Edit(graph)
    for layer, block in attention_blocks(graph).items():
        lost, op = set(gone.get(layer, ())), block.op
        if not lost:
            continue
        members: list[list[int]] = [[] for _ in range(op.kv_heads)]
        for head, kv in enumerate(op.kv_of_heads):
            if head not in lost:
                members[kv].append(head)
        kv_kept = [kv for kv in sorted(range(op.kv_heads), key=lambda kv: -len(members[kv])) if members[kv]]
        if not kv_kept:
            raise UsageError(f"layer {layer} would have no head left")
        kept = [head for kv in kv_kept for head in members[kv]]
        counts = tuple(len(members[kv]) for kv in kv_kept)
        _keep_heads(edit, block.q, kept, op.head_dim)
        _keep_heads(edit, block.k, kv_kept, op.head_dim)
        _keep_heads(edit, block.v, kv_kept, op.head_dim)
        edit.columns(block.o, places(kept, op.head_dim))
        if op.sinks is not None:
            edit.vectors[op.sinks] = edit.vectors[op.sinks][kept]
        groups = counts if len(set(counts)) > 1 else ()
        edit.set(block.attend, heads=len(kept), kv_heads=len(kv_kept), groups=groups)
    return edit.done()


def without_channels(graph: Graph, gone: Mapping[int, Collection[int]]) -> Graph:
    """`graph` without some channels of each layer's MLP.  Raises UsageError where they cannot be taken out, or none would be left."""
    edit, widths = _Edit(graph), graph.widths()
    for layer, mlp in mlps(graph).items():
        width = widths[mlp.act.name]
        kept = np.setdiff1d(np.arange(width), np.array(sorted(gone.get(layer, ())), np.intp))
        if not len(kept):
            raise UsageError(f"layer {layer} would have no channel left")
        if len(kept) == width:
            continue
        made = places(kept.tolist(), 2) if mlp.op.alternating else kept
        for maker in mlp.makers:
            edit.rows(maker, made)
        edit.columns(mlp.down, kept)
    return edit.done()


def _keep_heads(edit: _Edit, chain: Sequence[Node], kept: Sequence[int], size: int) -> None:
    """Keep some heads of what makes queries, keys or values."""
    edit.rows(chain[0], places(kept, size))
    for node in chain[1:]:
        edit.set(node, heads=len(kept))


def places(kept: Sequence[int], size: int) -> Places:
    """The features of heads of `size` elements that lie side by side."""
    return (np.asarray(kept, np.intp)[:, None] * size + np.arange(size)).reshape(-1)


def columns(weight: Weight, kept: Places) -> Weight:
    """Some input features of a matrix, as they are stored; groups of them that are cut become float32."""
    group = weight.elem.group
    if not group:
        return Weight(weight.name, weight.elem, np.ascontiguousarray(weight.codes[:, kept]), weight.scale)
    whole = not len(kept) % group and (kept.reshape(-1, group) == kept[::group, None] + np.arange(group)).all()
    if not whole or (kept[::group] % group).any():
        return Weight(weight.name, F32, np.ascontiguousarray(weight.dequantize()[:, kept]))
    groups = kept[::group] // group
    scale, minimum = (None if part is None else part[:, groups] for part in (weight.scale, weight.minimum))
    return Weight(weight.name, weight.elem, np.ascontiguousarray(weight.codes[:, kept]), scale, minimum)
