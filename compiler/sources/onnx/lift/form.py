# SPDX-License-Identifier: Apache-2.0
"""Forms: symbolic tensors of which every element is a sum of factor * element of a value, plus a constant.

value    rows [tokens, width] that one node of the graph computes (Base)
form     terms (value, which element of it, factor) for each element of a tensor, and a constant
rows     a form whose last axis are features of one value, the same for every token: what a node reads
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Indices = NDArray[np.int32]


class Reject(Exception):
    """A part of a graph that is not served; `where` it is, and what it is.

    feature  a short name of what is not served, for tables
    """

    def __init__(self, found: str, where: str = "", feature: str = "", todo: str = ""):
        super().__init__(found)
        self.found, self.where, self.feature, self.todo = found, where, feature, todo


MOST_ELEMENTS = 1 << 28
"""Of one tensor that is followed: a file that has more is hostile."""
_COUNT = itertools.count()


@dataclass(eq=False)
class Base:
    """A value [rows, width] that one node computes.

    name   of the ONNX value that it is first
    order  of its making: after everything that it is made of
    """

    name: str
    rows: int
    width: int
    order: int = field(default_factory=lambda: next(_COUNT), init=False)


@dataclass(frozen=True, eq=False)
class Term:
    """One summand of every element: factor * element of base.  `coef` is a number, or an array that broadcasts to the shape."""

    base: Base
    index: Indices
    coef: Any = 1.0


def uniform(value: Any) -> float | None:
    """The number that all elements of `value` are; None when they differ."""
    if isinstance(value, float):
        return value
    flat = np.asarray(value).reshape(-1)
    return float(flat[0]) if flat.size and bool((flat == flat[0]).all()) else None


def plain(value: Any) -> Any:
    """`value` as a number where it is one throughout."""
    found = uniform(value)
    return value if found is None else found


@dataclass(frozen=True, eq=False)
class Form:
    """A tensor of `shape`: the sum of its terms, plus `const` (a number, or an array that broadcasts to the shape)."""

    shape: tuple[int, ...]
    terms: tuple[Term, ...]
    const: Any = 0.0

    @staticmethod
    def of(base: Base, shape: tuple[int, ...]) -> Form:
        """The whole of a value, in the order of its elements."""
        if math.prod(shape) > MOST_ELEMENTS:
            raise Reject(f"a tensor of {list(shape)} elements", base.name, "size")
        return Form(shape, (Term(base, np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)),))

    def view(self, move: Callable[[Array], Array]) -> Form:
        """The same elements elsewhere: `move` is applied to indices, factors and constants."""

        def moved(value: Any) -> Any:
            return value if isinstance(value, float) else move(np.broadcast_to(value, self.shape))

        terms = tuple(Term(t.base, move(t.index), moved(t.coef)) for t in self.terms)
        shape = terms[0].index.shape if terms else move(np.zeros(self.shape, np.int8)).shape
        return Form(shape, terms, moved(self.const))

    def broadcast(self, shape: tuple[int, ...]) -> Form:
        return self if shape == self.shape else self.view(lambda a: np.broadcast_to(a, shape))

    def scaled(self, factor: Any) -> Form:
        """Times a constant number or array."""
        factor = plain(factor)
        if isinstance(factor, float):
            if factor == 1.0:
                return self
            return Form(
                self.shape, tuple(Term(t.base, t.index, t.coef * factor) for t in self.terms), self.const * factor
            )
        factor = np.asarray(factor, np.float64)
        wide = self.broadcast(np.broadcast_shapes(self.shape, factor.shape))
        return Form(wide.shape, tuple(Term(t.base, t.index, t.coef * factor) for t in wide.terms), wide.const * factor)

    def plus(self, constant: Any) -> Form:
        """Plus a constant number or array."""
        constant = plain(constant)
        if isinstance(constant, float):
            return self if constant == 0.0 else Form(self.shape, self.terms, self.const + constant)
        constant = np.asarray(constant, np.float64)
        wide = self.broadcast(np.broadcast_shapes(self.shape, constant.shape))
        return Form(wide.shape, wide.terms, wide.const + constant)

    def added(self, other: Form) -> Form:
        """The sum of two forms; equal terms join."""
        shape = np.broadcast_shapes(self.shape, other.shape)
        a, b = self.broadcast(shape), other.broadcast(shape)
        terms = list(a.terms)
        for term in b.terms:
            for n, mine in enumerate(terms):
                if mine.base is term.base and np.array_equal(mine.index, term.index):
                    terms[n] = Term(mine.base, mine.index, plain(mine.coef + term.coef))
                    break
            else:
                terms.append(term)
        return Form(shape, tuple(terms), plain(a.const + b.const))

    def select(self, where: Array, other: Form) -> Form:
        """This one where `where` is true, else `other`."""
        shape = np.broadcast_shapes(where.shape, self.shape, other.shape)
        chosen = np.broadcast_to(where, shape).astype(np.float64)
        kept = self.broadcast(shape)._masked(chosen)
        return kept.added(other.broadcast(shape)._masked(1.0 - chosen)).simplified()

    def _masked(self, chosen: Array) -> Form:
        """Elements where `chosen` is 1; nothing elsewhere, also of infinite constants."""
        const = (
            np.where(chosen > 0, self.const, 0.0) if not (isinstance(self.const, float) and self.const == 0) else 0.0
        )
        return Form(self.shape, tuple(Term(t.base, t.index, t.coef * chosen) for t in self.terms), const)

    def simplified(self) -> Form:
        """Without terms whose factors are all 0, and with numbers for arrays that are one number."""
        terms = tuple(Term(t.base, t.index, plain(t.coef)) for t in self.terms)
        return Form(self.shape, tuple(t for t in terms if not _zero(t.coef)), plain(self.const))

    def bases(self) -> list[Base]:
        """The values that it is made of."""
        return list(dict.fromkeys(t.base for t in self.terms))

    def same(self, other: Form) -> bool:
        """Whether both are the same elements with the same factors."""
        if self is other:
            return True
        if self.shape != other.shape or len(self.terms) != len(other.terms):
            return False
        pairs = zip(self.terms, other.terms, strict=True)
        return _equal(self.const, other.const) and all(
            a.base is b.base and _equal(a.coef, b.coef) and np.array_equal(a.index, b.index) for a, b in pairs
        )

    def unit(self) -> tuple[Form, float]:
        """(form, factor): the form without the one factor that all of it has."""
        factors = {uniform(t.coef) for t in self.terms}
        factor = next(iter(factors)) if len(factors) == 1 else None
        return (self.scaled(1.0 / factor), factor) if factor else (self, 1.0)


def _zero(value: Any) -> bool:
    return value == 0.0 if isinstance(value, float) else not np.any(value)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-6 * max(abs(a), abs(b))
    return bool(np.allclose(a, b, rtol=1e-6, atol=0))


def joined(parts: list[Form], axis: int) -> Form:
    """Concat of forms along an axis.  Values that some parts lack get the factor 0 there."""
    slots: list[tuple[Base, int]] = []
    held: list[dict[tuple[Base, int], Term]] = []
    for part in parts:
        mine: dict[tuple[Base, int], Term] = {}
        for term in part.terms:
            key = (term.base, sum(1 for b, _ in mine if b is term.base))
            mine[key] = term
            if key not in slots:
                slots.append(key)
        held.append(mine)
    terms = []
    for key in slots:
        index = [m[key].index if key in m else np.zeros(p.shape, np.int32) for m, p in zip(held, parts, strict=True)]
        coef = [m[key].coef if key in m else 0.0 for m in held]
        factor = _joined(coef, parts, axis)
        terms.append(Term(key[0], np.concatenate(index, axis), factor))
    shape = np.concatenate([np.zeros(p.shape, np.int8) for p in parts], axis).shape
    return Form(shape, tuple(terms), _joined([p.const for p in parts], parts, axis))


def _joined(values: list[Any], parts: list[Form], axis: int) -> Any:
    first = values[0]
    if isinstance(first, float) and all(isinstance(v, float) and v == first for v in values):
        return first
    return np.concatenate(
        [np.broadcast_to(np.asarray(v, np.float64), p.shape) for v, p in zip(values, parts, strict=True)], axis
    )


@dataclass(frozen=True, eq=False)
class Rows:
    """What a node reads: for each token, features `cols` of one value, times `coef`, plus `const`.

    tokens  of the value that are read, in order
    cols    [n] features
    coef    number or [n]
    const   number or [n]
    """

    base: Base
    tokens: NDArray[np.intp]
    cols: NDArray[np.intp]
    coef: Any = 1.0
    const: Any = 0.0

    @property
    def width(self) -> int:
        return len(self.cols)

    @property
    def whole(self) -> bool:
        """Whether it is the value itself."""
        ordered = np.array_equal(self.cols, np.arange(self.base.width))
        return ordered and self.plain

    @property
    def plain(self) -> bool:
        """Whether there is neither factor nor constant."""
        return isinstance(self.coef, float) and self.coef == 1.0 and isinstance(self.const, float) and self.const == 0.0


@dataclass
class Arrangement:
    """Rows, and where each of them stands in the tensor: place[element] = token number * width + rank."""

    rows: Rows
    place: Indices
    ordered: bool = field(default=True)
    """Whether the tensor holds the rows in order."""


def arrange(form: Form, where: str) -> Arrangement:
    """The rows that a form of one term consists of.  Raises Reject when it is no such form."""
    form = form.simplified()
    if len(form.terms) != 1:
        names = ", ".join(repr(b.name) for b in form.bases()) or "nothing"
        raise Reject(f"a tensor made of {len(form.terms)} values at once ({names})", where, "mixed values")
    (term,) = form.terms
    width, flat = term.base.width, term.index.reshape(-1)
    if flat.size % width == 0 and flat.size and _is_range(flat):
        order, tokens = None, np.arange(flat[0] // width, flat[-1] // width + 1)
        cols = np.arange(width)
    else:
        token = flat // width
        order = np.argsort(token, kind="stable")
        tokens = np.unique(token)
        if not len(tokens) or flat.size % len(tokens):
            raise Reject("other features for some tokens than for others", where, "features by token")
        table = (flat % width)[order].reshape(len(tokens), -1)
        if (table != table[0]).any() or (token[order].reshape(table.shape) != tokens[:, None]).any():
            raise Reject("other features for some tokens than for others", where, "features by token")
        cols = table[0].astype(np.intp)
        if np.array_equal(order, np.arange(flat.size)):
            order = None
    size = len(cols)
    coef = _by_column(term.coef, form.shape, order, size, "factors", where)
    const = _by_column(form.const, form.shape, order, size, "constants", where)
    place = np.arange(flat.size, dtype=np.int32)
    if order is not None:
        inverse = np.empty(flat.size, np.int32)
        inverse[order] = place
        place = inverse
    return Arrangement(Rows(term.base, tokens, cols, coef, const), place.reshape(form.shape), order is None)


def _is_range(flat: Indices) -> bool:
    return int(flat[-1]) - int(flat[0]) == flat.size - 1 and bool((np.diff(flat) == 1).all())


def _by_column(value: Any, shape: tuple[int, ...], order: Any, size: int, what: str, where: str) -> Any:
    """A factor or constant as a number or [size]; Reject when it differs by token."""
    if isinstance(value, float):
        return value
    flat = np.broadcast_to(value, shape).reshape(-1)
    table = (flat if order is None else flat[order]).reshape(-1, size)
    if (table != table[0]).any():
        raise Reject(f"{what} that differ from token to token", where, f"{what} by token")
    return plain(table[0])
