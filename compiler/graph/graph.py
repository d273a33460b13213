# SPDX-License-Identifier: Apache-2.0
"""Level 1, what is computed: a language model as a short list of nodes in topological order.

Knows nothing of ONNX (read.py made it), of hardware or of addresses.

    graph  = model, node*, weights, gains
    node   = name, op, inputs*, attributes
    op     = EMBED | NORM | LINEAR | ROPE | ATTEND | GLU | ADD | HEAD

    embed(ids; W)            the rows of W that the tokens name                         [T, dim]
    norm(x; gain)            x / sqrt(mean(x^2) + eps) * gain                           [T, dim]
    linear(x; W)             x @ W.T                                                    [T, N]
    rope(x; heads)           rotary position of each head, halves rotated               [T, heads * head_dim]
    attend(q, k, v; layer)   causal softmax(q k.T / sqrt(head_dim)) v with the KV cache [T, heads * head_dim]
    glu(g, u) or glu(gu)     silu(g) * u; with one input its columns are g0 u0 g1 u1 ... [T, ffn]
    add(a, b)                a + b                                                      [T, dim]
    head(x; W)               logits                                                     [T, vocab]
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from meadow.machine.types import Weight


class Op(Enum):
    EMBED = "embed"
    NORM = "norm"
    LINEAR = "linear"
    ROPE = "rope"
    ATTEND = "attend"
    GLU = "glu"
    ADD = "add"
    HEAD = "head"


OPERANDS = {
    Op.EMBED: (0, 0), Op.NORM: (1, 1), Op.LINEAR: (1, 1), Op.ROPE: (1, 1),
    Op.ATTEND: (3, 3), Op.GLU: (1, 2), Op.ADD: (2, 2), Op.HEAD: (1, 1),
}  # fmt: skip
WEIGHTED = {Op.EMBED, Op.NORM, Op.LINEAR, Op.HEAD}


@dataclass(frozen=True)
class Model:
    """The numbers of a model, each read from the graph itself.

    inv_freq  float64 [head_dim / 2], the rotary frequency of each pair
    context   the longest context the model was made for, in tokens; 0 when the file does not say
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
    eps: float
    inv_freq: tuple[float, ...]
    context: int = 0
    activations: str = "float"

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, dim {self.dim}, {self.heads} heads of {self.head_dim} over {self.kv_heads} KV heads, "
            f"ffn {self.ffn}, vocab {self.vocab}"
        )


@dataclass(frozen=True)
class Node:
    """One operation.  `weight` names an entry of Graph.weights (or of Graph.gains for a norm)."""

    name: str
    op: Op
    inputs: tuple[str, ...] = ()
    weight: str | None = None
    layer: int | None = None
    heads: int = 0

    def __str__(self) -> str:
        args = [f"%{i}" for i in self.inputs]
        if self.op is Op.EMBED:
            args = ["ids"]
        if self.weight is not None:
            args.append(f"@{self.weight}")
        if self.heads:
            args.append(f"heads={self.heads}")
        if self.op is Op.ATTEND:
            args.append(f"layer={self.layer}")
        return f"%{self.name} = {self.op.value}({', '.join(args)})"


@dataclass(frozen=True, eq=False)
class Graph:
    """A whole model.  Weights are shared by name: a tied head and embedding are one entry.

    source    the file it was read from
    metadata  that file's own key-value pairs
    positions  up to which the file was tried against this graph (confirm.py); 0 where it was not
    """

    model: Model
    nodes: tuple[Node, ...]
    weights: dict[str, Weight] = field(repr=False)
    gains: dict[str, NDArray[np.float32]] = field(repr=False)
    source: str = ""
    metadata: dict[str, str] = field(default_factory=dict, repr=False)
    positions: int = 0

    def replace(self, **changes: object) -> Graph:
        return replace(self, **changes)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise ValueError unless every node reads what an earlier one computed and every weight exists and fits."""
        widths: dict[str, int] = {}
        model = self.model
        for node in self.nodes:
            low, high = OPERANDS[node.op]
            if not low <= len(node.inputs) <= high:
                raise ValueError(f"%{node.name}: {node.op.value} takes {low} to {high} inputs, not {len(node.inputs)}")
            for name in node.inputs:
                if name not in widths:
                    raise ValueError(f"%{node.name} reads %{name} before it is computed")
            if node.name in widths:
                raise ValueError(f"%{node.name} is computed twice")
            if (node.weight is not None) != (node.op in WEIGHTED):
                raise ValueError(f"%{node.name}: {node.op.value} and its weight {node.weight!r} do not go together")
            widths[node.name] = self._width(node, [widths[i] for i in node.inputs])
        if not self.nodes or self.nodes[-1].op is not Op.HEAD:
            raise ValueError("the last node must be the head")
        if widths[self.nodes[-1].name] != model.vocab:
            raise ValueError(f"the head has {widths[self.nodes[-1].name]} rows, the vocabulary {model.vocab}")

    def _width(self, node: Node, inputs: list[int]) -> int:
        model = self.model
        if node.op is Op.NORM:
            assert node.weight is not None
            gain = self.gains[node.weight]
            if gain.shape != (inputs[0],):
                raise ValueError(f"%{node.name}: gain {gain.shape} for an input of {inputs[0]}")
            return inputs[0]
        if node.op in (Op.LINEAR, Op.HEAD):
            assert node.weight is not None
            weight = self.weights[node.weight]
            if weight.cols != inputs[0]:
                raise ValueError(f"%{node.name}: {weight} for an input of {inputs[0]}")
            return weight.rows
        if node.op is Op.EMBED:
            assert node.weight is not None
            return self.weights[node.weight].cols
        if node.op is Op.ATTEND:
            wanted = [model.heads * model.head_dim] + [model.kv_heads * model.head_dim] * 2
            if inputs != wanted:
                raise ValueError(f"%{node.name}: q, k, v are {inputs} wide, not {wanted}")
            return wanted[0]
        if node.op is Op.ROPE and inputs[0] != node.heads * model.head_dim:
            raise ValueError(f"%{node.name}: {inputs[0]} is not {node.heads} heads of {model.head_dim}")
        if node.op is Op.GLU:
            return inputs[0] if len(inputs) == 2 else inputs[0] // 2
        if node.op is Op.ADD and inputs[0] != inputs[1]:
            raise ValueError(f"%{node.name}: adds {inputs[0]} to {inputs[1]}")
        return inputs[0]

    def weight_of(self, node: Node) -> Weight:
        """The matrix of a linear, head or embed node."""
        assert node.weight is not None
        return self.weights[node.weight]

    def __str__(self) -> str:
        lines = [f"graph {self.model.name}: {self.model}"]
        for node in self.nodes:
            kind = ""
            if node.weight is not None and node.op is not Op.NORM:
                kind = f"  : {self.weights[node.weight]}"
            lines.append(f"  {node}{kind}")
        return "\n".join(lines) + "\n"
