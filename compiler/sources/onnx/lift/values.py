# SPDX-License-Identifier: Apache-2.0
"""What stands on the edges of a graph while it is followed: constants, forms, and the few things that are neither.

Const     does not depend on tokens or cache
Form      see form.py
Curve     one function of each element of a form
Squared, Centred, Stat    parts of a norm
GroupSum  sums over groups of features, which only minima of weights are multiplied with
Nothing   an output that no node has
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.sources.onnx.lift.form import Array, Base, Form, Rows
from meadow.machine.types import Weight


class Const:
    """A constant, computed when it is asked for.

    name    of the ONNX value
    varies  whether it depends on the number of tokens or on positions
    """

    def __init__(self, name: str, make: Callable[[], Array], varies: bool):
        self.name, self._make, self.varies = name, make, varies
        self.computed: Array | None = None

    @property
    def array(self) -> Array:
        if self.computed is None:
            self.computed = self._make()
        return self.computed


@dataclass(frozen=True, eq=False)
class Curve:
    """fn of each element of `x`, a form whose own factor is 1 (Form.unit); `own` are the factors that it had."""

    x: Form
    fn: Callable[[Array], Array]
    own: frozenset[float] = frozenset()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape


@dataclass(frozen=True, eq=False)
class Centred:
    """x minus its mean along the last axis."""

    x: Form

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape


@dataclass(frozen=True, eq=False)
class Squared:
    """The square of each element."""

    x: Form | Centred

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape


@dataclass(frozen=True, eq=False)
class Stat:
    """A number per row of the last axis of `x`: its mean, or (mean square + eps) ** power."""

    x: Form | Centred
    kind: str
    shape: tuple[int, ...]
    eps: float = 0.0
    power: float = 1.0


@dataclass(frozen=True, eq=False)
class GroupSum:
    """Sums [tokens, groups] of consecutive features of `x`."""

    x: Form
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Minima:
    """Sums of groups of features of `base` times the constant `table`: what minima of weights add to a product."""

    base: Base
    table: str


@dataclass(frozen=True, eq=False)
class Looked:
    """Rows of a constant that the tokens name, which are not features yet: codes, or scales.  `table` is its ONNX name."""

    table: str
    shape: tuple[int, ...]


class Nothing:
    """An output that does not exist."""


Value = Any
"""One of the above."""


def _none() -> Any:
    """What fields after the first of a value are until they are given."""
    return None


# -- values that nodes compute -----------------------------------------------------------------------------------------


@dataclass(eq=False)
class Embedded(Base):
    """Rows of a table.

    table   its ONNX name
    node    the operator that looks them up
    weight  the table, where it is put together of codes and scales
    """

    table: str = ""
    node: Any = None
    weight: Weight | None = None


@dataclass(eq=False)
class Positioned(Base):
    """Rows of an embedding plus rows of another table by position.

    source  the embedding
    added   float64 [tokens, width]
    constant  the ONNX value that they are
    """

    source: Rows = field(default_factory=_none)
    added: NDArray[np.float64] = field(default_factory=_none)
    constant: str = ""


@dataclass(eq=False)
class Product(Base):
    """x @ W.T.

    node    the ONNX operator that holds W
    minima  the ONNX value that sums of groups are multiplied with
    output  the ONNX value with these minima, where there are some
    """

    source: Rows = field(default_factory=_none)
    node: Any = None
    minima: str = ""
    output: str = ""


@dataclass(eq=False)
class Derived(Base):
    """Rows of another value with their factors and constants, as a value of its own.

    constant  the ONNX value that these are
    """

    source: Rows = field(default_factory=_none)
    constant: str = ""


@dataclass(eq=False)
class Normed(Base):
    """A norm without gain: its factors are the gain and its constants the bias."""

    source: Rows = field(default_factory=_none)
    kind: str = "rms"
    eps: float = 0.0
    heads: int = 1


@dataclass(eq=False)
class Turned(Base):
    """A rotation by position.

    table        float64 [tokens, pairs, 2]: cosine and sine of each pair, times the factor
    interleaved  pairs are neighbours; else halves
    """

    source: Rows = field(default_factory=_none)
    heads: int = 1
    head_dim: int = 0
    table: NDArray[np.float64] = field(default_factory=_none)
    interleaved: bool = False


@dataclass(eq=False)
class Past(Base):
    """A cache input [kv_heads, past, head_dim]: rows are (head, token)."""


@dataclass(eq=False)
class Scored(Base):
    """q k.T [heads, tokens, seen], with `cap` applied where it is not 0.

    queries  the ONNX value that the queries are, where they are one
    groups   query heads of each KV head
    """

    q: Rows = field(default_factory=_none)
    k: Rows = field(default_factory=_none)
    past: Past = field(default_factory=_none)
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    scale: float = 1.0
    cap: float = 0.0
    seen: int = 0
    queries: str = ""
    groups: tuple[int, ...] = ()


@dataclass(eq=False)
class Shares(Base):
    """Softmax of scores [heads, tokens, seen].

    mask   float64 [tokens, seen]: what was added to the scores
    again  see Attended
    """

    scores: Scored = field(default_factory=_none)
    mask: NDArray[np.float64] = field(default_factory=_none)
    scale: float = 1.0
    sinks: NDArray[np.float64] | None = None
    again: Any = None


@dataclass(eq=False)
class Attended(Base):
    """softmax(q k.T) v [tokens, heads * head_dim].

    groups  query heads of each KV head
    again  the same at another number of tokens, by a lifter that is cut at the linears: (queries, new keys, mask, scale)
    """

    q: Rows = field(default_factory=_none)
    k: Rows = field(default_factory=_none)
    v: Rows = field(default_factory=_none)
    past_k: Past = field(default_factory=_none)
    past_v: Past = field(default_factory=_none)
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    scale: float = 1.0
    cap: float = 0.0
    mask: NDArray[np.float64] = field(default_factory=_none)
    sinks: NDArray[np.float64] | None = None
    again: Any = None
    groups: tuple[int, ...] = ()


@dataclass(eq=False)
class Acted(Base):
    """act(gate), or act(gate) * up."""

    kind: str = ""
    gate: Rows = field(default_factory=_none)
    up: Rows | None = None


@dataclass(eq=False)
class Live(Base):
    """x where |x| is above `threshold`, else 0."""

    source: Rows = field(default_factory=_none)
    threshold: float = 0.0


@dataclass(eq=False)
class Summed(Base):
    """a + b."""

    a: Rows = field(default_factory=_none)
    b: Rows = field(default_factory=_none)


@dataclass(eq=False)
class Guard(Base):
    """Whether elements are NaN: asked of rows that see nothing, which there are none of."""


@dataclass(eq=False)
class Tokens(Base):
    """The tokens themselves, [1, tokens]."""


@dataclass(eq=False)
class Unknown(Base):
    """A value of something that is not served: a problem was noted, and the rest is followed all the same."""
