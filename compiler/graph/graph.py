# SPDX-License-Identifier: Apache-2.0
"""Level 1, what is computed: a language model as a short list of nodes in topological order.

Knows nothing of files (sources/ made it), of hardware or of addresses.

    graph  = model, node*, weights, vectors
    node   = name, op, inputs*, layer, role
    op     = Embedding | Norm | Linear | Rotary | Attention | Activation | Add | Head     (ops.py has their attributes)

A node's name is its layer and its role ("l3.q"), for people; whoever needs the layer or the role asks the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.graph.ops import Head, Op, Tensors
from meadow.machine.types import Weight


@dataclass(frozen=True)
class Model:
    """The numbers of a model for people and for the host; what is computed stands in the nodes.

    heads, kv_heads, ffn  of the layer that has most, where layers differ
    context      the longest context the model was made for, in tokens; 0 when the file does not say
    activations  "int8" when the file asks for INT8 activations, else "float"
    """

    name: str
    layers: int
    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int = 0
    activations: str = "float"

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, dim {self.dim}, {self.heads} heads of {self.head_dim} over {self.kv_heads} KV heads, "
            f"ffn {self.ffn}, vocab {self.vocab}"
        )


@dataclass(frozen=True)
class Node:
    """One operation.

    layer  number of the decoder layer it belongs to; None before the first and after the last
    role   what it is in its layer, the same word in every layer: attn_norm, q, k, v, attend, o, ...
    """

    name: str
    op: Op
    inputs: tuple[str, ...] = ()
    layer: int | None = None
    role: str = ""

    @property
    def weight(self) -> str | None:
        """The matrix that the node multiplies with or gathers from."""
        return getattr(self.op, "weight", None)

    def __str__(self) -> str:
        args = [f"%{i}" for i in self.inputs] if self.op.operands[1] else ["ids"]
        return f"%{self.name} = {self.op.title}({', '.join([*args, *self.op.arguments()])})"


def name_of(layer: int | None, role: str) -> str:
    """The name of the node that is `role` in `layer`."""
    return role if layer is None else f"l{layer}.{role}"


@dataclass(frozen=True, eq=False)
class Graph:
    """A whole model.  Weights are shared by name: a tied head and embedding are one entry.

    source     the file it was read from
    metadata   that file's own key-value pairs
    positions  up to which the file was tried against this graph (sources/onnx/confirm.py); 0 where it was not
    notes      what was read otherwise than it is written, such as roundings to FP16 that are left out
    """

    model: Model
    nodes: tuple[Node, ...]
    weights: Mapping[str, Weight] = field(repr=False)
    vectors: Mapping[str, NDArray[np.float32]] = field(repr=False)
    source: str = ""
    metadata: dict[str, str] = field(default_factory=dict, repr=False)
    positions: int = 0
    notes: tuple[str, ...] = ()

    def replace(self, **changes: object) -> Graph:
        return replace(self, **changes)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise ValueError unless every node reads what an earlier one computed and every weight exists and fits."""
        widths = self.widths()
        if not self.nodes or not isinstance(self.nodes[-1].op, Head):
            raise ValueError("the last node must be the head")
        if widths[self.nodes[-1].name] != self.model.vocab:
            raise ValueError(f"the head has {widths[self.nodes[-1].name]} rows, the vocabulary {self.model.vocab}")

    def widths(self) -> dict[str, int]:
        """Columns of every node's value, by name.  Raises ValueError for a node that does not fit what it reads."""
        widths: dict[str, int] = {}
        tensors = Tensors(self.weights, self.vectors)
        for node in self.nodes:
            low, high = node.op.operands
            if not low <= len(node.inputs) <= high:
                raise ValueError(f"%{node.name}: {node.op.title} takes {low} to {high} inputs, not {len(node.inputs)}")
            for name in node.inputs:
                if name not in widths:
                    raise ValueError(f"%{node.name} reads %{name} before it is computed")
            if node.name in widths:
                raise ValueError(f"%{node.name} is computed twice")
            try:
                widths[node.name] = node.op.width([widths[i] for i in node.inputs], tensors)
            except ValueError as error:
                raise ValueError(f"%{node.name}: {error}") from None
            except KeyError as missing:
                raise ValueError(f"%{node.name}: there is no tensor {missing}") from None
        return widths

    def weight_of(self, node: Node) -> Weight:
        """The matrix of a linear, head or embedding."""
        return self.weights[node.weight or ""]

    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read each node's value, by its name."""
        found: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                found[name].append(node)
        return found

    def layer(self, number: int) -> tuple[Node, ...]:
        """The nodes of one layer; the last of them is what the next layer reads."""
        return tuple(node for node in self.nodes if node.layer == number)

    def entry(self, number: int) -> Node:
        """The node whose value layer `number` reads: the last before it."""
        first = next(n for n, node in enumerate(self.nodes) if node.layer == number)
        return self.nodes[first - 1]

    def node(self, role: str, layer: int | None = None) -> Node:
        """The node that is `role` in `layer`.  Raises KeyError when there is none."""
        found = next((n for n in self.nodes if n.role == role and n.layer == layer), None)
        if found is None:
            raise KeyError(f"{role} in layer {layer}")
        return found

    def used(self) -> Graph:
        """The graph without the tensors that no node names."""
        names = {getattr(n.op, f) for n in self.nodes for f in (*n.op.names, *n.op.vectors)}
        return self.replace(
            weights={k: w for k, w in self.weights.items() if k in names},
            vectors={k: v for k, v in self.vectors.items() if k in names},
        )

    def __str__(self) -> str:
        lines = [f"graph {self.model.name}: {self.model}"]
        for node in self.nodes:
            kind = f"  : {self.weights[node.weight]}" if node.weight is not None else ""
            lines.append(f"  {node}{kind}")
        return "\n".join(lines) + "\n"
