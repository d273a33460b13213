# SPDX-License-Identifier: Apache-2.0
"""The kinds of nodes that a graph is made of: one frozen class per kind, with its attributes, its width and its text.

What a kind computes is in evaluate.py; how it looks in ONNX is in sources/onnx/write.py; whether an engine runs it is the
engine's answer.  An attribute that is absent is no operation: no bias is not a bias of zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from meadow.machine.types import Weight


@dataclass(frozen=True)
class Tensors:
    """What the nodes of a graph refer to by name: matrices [N, K], and vectors (gains, biases, sinks)."""

    weights: Mapping[str, Weight]
    vectors: Mapping[str, NDArray[np.float32]]

    def vector(self, name: str, length: int, what: str) -> None:
        """Raise ValueError unless `name` is a vector of `length` elements."""
        found = self.vectors[name].shape
        if found != (length,):
            raise ValueError(f"{what} {list(found)} for a width of {length}")


@dataclass(frozen=True)
class Op:
    """One kind of node.  `operands` are the numbers of inputs that it takes, `title` its name in text."""

    title: ClassVar[str] = ""
    operands: ClassVar[tuple[int, int]] = (1, 1)
    names: ClassVar[tuple[str, ...]] = ()
    """Fields that name a matrix of the graph."""
    vectors: ClassVar[tuple[str, ...]] = ()
    """Fields that name a vector of the graph."""

    def width(self, inputs: Sequence[int], tensors: Tensors) -> int:
        """Columns of the result, given those of the inputs.  Raises ValueError (or KeyError) for what does not fit."""
        return inputs[0]

    def arguments(self) -> list[str]:
        """The attributes that are not their default, as text."""
        shown = []
        for f in fields(self):
            value: Any = getattr(self, f.name)
            if value == f.default or f.name == "frequencies":
                continue
            named = f.name in self.names or f.name in self.vectors
            first = named and f.name in ("weight", "gain")
            text = f"@{value}" if named else f"{value:.6g}" if isinstance(value, float) else str(value)
            shown.append(text if first else f"{f.name}={text}")
        return shown


@dataclass(frozen=True)
class Embedding(Op):
    """The rows of W that the tokens name, times `factor`, plus the rows of `positions` from row `shift` on.  [T, dim]"""

    title = "embed"
    operands = (0, 0)
    names = ("weight", "positions")
    weight: str
    factor: float = 1.0
    positions: str | None = None
    shift: int = 0

    def width(self, inputs: Sequence[int], tensors: Tensors) -> int:
        cols = tensors.weights[self.weight].cols
        if self.positions is not None and tensors.weights[self.positions].cols != cols:
            raise ValueError(f"{tensors.weights[self.positions]} positions for an embedding of {cols}")
        return cols


@dataclass(frozen=True)
class Norm(Op):
    """rms: x / sqrt(mean(x^2) + eps) * (gain + offset); layer: the same of x - mean(x), plus bias.  Gain None: ones.

    heads  parts of the row that are normed apart, each with the same gain and bias
    """

    title = "norm"
    vectors = ("gain", "bias")
    gain: str | None
    eps: float
    kind: str = "rms"
    bias: str | None = None
    offset: float = 0.0
    heads: int = 1

    def width(self, inputs: Sequence[int], tensors: Tensors) -> int:
        if self.kind not in ("rms", "layer"):
            raise ValueError(f"a norm of kind {self.kind!r}; rms and layer are known")
        if self.heads < 1 or inputs[0] % self.heads:
            raise ValueError(f"{self.heads} parts of a row of {inputs[0]}")
        for what, name in (("gain", self.gain), ("bias", self.bias)):
            if name is not None:
                tensors.vector(name, inputs[0] // self.heads, what)
        return inputs[0]

    def arguments(self) -> list[str]:
        return [a for a in super().arguments() if not a.startswith("eps=")]


@dataclass(frozen=True)
class Linear(Op):
    """factor * (x @ W.T) + bias.  [T, K] -> [T, N]"""

    title = "linear"
    names = ("weight",)
    vectors = ("bias",)
    weight: str
    bias: str | None = None
    factor: float = 1.0

    def width(self, inputs: Sequence[int], tensors: Tensors) -> int:
        weight = tensors.weights[self.weight]
        if weight.cols != inputs[0]:
            raise ValueError(f"{weight} for an input of {inputs[0]}")
        if self.bias is not None:
            tensors.vector(self.bias, weight.rows, "bias")
        return weight.rows


@dataclass(frozen=True)
class Head(Linear):
    """Logits: those of a linear, or softcap * tanh(them / softcap) where softcap is not 0.  [T, vocab]"""

    title = "head"
    softcap: float = 0.0


@dataclass(frozen=True)
class Rotary(Op):
    """Rotary position of each head: the first 2 * len(frequencies) elements of a head are turned, the others pass.

    frequencies  radians per position of each pair
    interleaved  pairs are neighbours (2i, 2i + 1); else halves (i, i + len(frequencies))
    factor       of cosine and sine (YaRN's attention factor)
    """

    title = "rope"
    heads: int
    head_dim: int
    frequencies: tuple[float, ...]
    interleaved: bool = False
    factor: float = 1.0

    def width(self, inputs: Sequence[int], tensors: Tensors) -> int:
        if inputs[0] != self.heads * self.head_dim or 2 * len(self.frequencies) > self.head_dim:
            raise ValueError(
                f"{inputs[0]} is not {self.heads} heads of {self.head_dim}, of which {2 * len(self.frequencies)} turn"
            )
        return inputs[0]

    def arguments(self) -> list[str]:
        return [a for a in super().arguments() if not a.startswith("head_dim=")]


@dataclass(frozen=True)
class Attention(Op):
    """softmax(scale * q k.T) v over what a token sees, with the cache of its layer.  [T, heads * head_dim]

    window     tokens that a token sees at most, itself among them; 0 is all
    softcap    scores become softcap * tanh(score / softcap); 0 is no cap
    sinks      a vector [heads]: one more score of each head, whose value is nothing
    causal     a token sees itself and those before it; else all
    keys_from  the layer whose cache is read instead of an own one; inputs are then q alone
    groups     query heads of each KV head, which lie side by side, where these are not as many for all
    """

    title = "attend"
    operands = (1, 3)
    vectors = ("sinks",)
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: str | None = None
    causal: bool = True
    keys_from: int | None = None
    groups: tuple[int, ...] = ()

    @property
    def heads_of_kv(self) -> tuple[int, ...]:
        """Query heads of each KV head."""
        return self.groups or (self.heads // self.kv_heads,) * self.kv_heads

    @property
    def kv_of_heads(self) -> tuple[int, ...]:
        """The KV head of each query head."""
        return tuple(kv for kv, some in enumerate(self.heads_of_kv) for _ in range(some))

    def width(self, inputs: Sequence[int], tensors: Tensors) -> int:
        wanted = [self.heads * self.head_dim] + [self.kv_heads * self.head_dim] * 2
        wanted = wanted[:1] if self.keys_from is not None else wanted
        if list(inputs) != wanted:
            raise ValueError(f"q, k, v are {list(inputs)} wide, not {wanted}")
        if self.groups and len(set(self.groups)) == 1:
            raise ValueError(f"groups of {self.groups[0]} query heads each, which are none to name")
        if [len(self.heads_of_kv), sum(self.heads_of_kv)] != [self.kv_heads, self.heads] or min(self.heads_of_kv) < 1:
            named = f" in groups of {', '.join(map(str, self.groups))}" if self.groups else ""
            raise ValueError(f"{self.heads} heads over {self.kv_heads} KV heads{named}")
        if self.sinks is not None:
            tensors.vector(self.sinks, self.heads, "sinks")
        return wanted[0]

    def arguments(self) -> list[str]:
        usual = abs(self.scale - self.head_dim**-0.5) < 1e-6 * self.scale
        hidden = ("kv_heads=", "head_dim=", "scale=") if usual else ("kv_heads=", "head_dim=")
        return [a for a in super().arguments() if not a.startswith(hidden)]


KINDS = ("silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2")


@dataclass(frozen=True)
class Activation(Op):
    """act(x), or act(gate) * up of two inputs (gated), or of one whose columns are gate 0, up 0, gate 1, up 1, ... (alternating)."""

    title = "act"
    operands = (1, 2)
    kind: str
    gated: bool = True
    alternating: bool = False

    def width(self, inputs: Sequence[int], tensors: Tensors) -> int:
        if self.kind not in KINDS:
            raise ValueError(f"an activation of kind {self.kind!r}; {', '.join(KINDS)} are known")
        if len(inputs) != 1 + (self.gated and not self.alternating) or len(set(inputs)) != 1:
            raise ValueError(f"inputs of {list(inputs)} columns")
        return inputs[0] // 2 if self.alternating else inputs[0]

    def arguments(self) -> list[str]:
        return [self.kind] + ["alternating"] * self.alternating + ["plain"] * (not self.gated)


@dataclass(frozen=True)
class Threshold(Op):
    """x where |x| is above `value`, else 0: what a sparse linear reads."""

    title = "live"
    value: float

    def width(self, inputs: Sequence[int], tensors: Tensors) -> int:
        if not 0 <= self.value < float("inf") or str(self.value).startswith("-"):
            raise ValueError(f"a threshold of {self.value:g}")
        return inputs[0]


@dataclass(frozen=True)
class Add(Op):
    """a + b: the residual sum, of any two earlier values."""

    title = "add"
    operands = (2, 2)

    def width(self, inputs: Sequence[int], tensors: Tensors) -> int:
        if inputs[0] != inputs[1]:
            raise ValueError(f"adds {inputs[0]} to {inputs[1]}")
        return inputs[0]
