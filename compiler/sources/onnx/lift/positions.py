# SPDX-License-Identifier: Apache-2.0
"""What attention depends on positions for: rotary angles, what a token sees, the scale; read at many positions, and for all of them
where that is possible.

A graph is followed again at other lengths, cut at the linears, so that a window, a rotation that changes, or a mask for some positions is
seen and not guessed from a few tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meadow.compiler.sources.onnx.lift.attention import HIDDEN
from meadow.compiler.sources.onnx.lift.form import Base, Form, Reject, Rows, uniform
from meadow.compiler.sources.onnx.lift.lifter import Cut, Lifter
from meadow.compiler.sources.onnx.lift.values import Attended, Const, Embedded, Positioned, Product, Summed, Turned
from meadow.compiler.sources.onnx.shapes import NotEvaluated

PROMPT = 256
"""Tokens of the longest prompt whose mask is looked at as a whole."""
CHANGED = 1e-2
"""Radians by which an angle is another than those before it foretell."""
EXACT = 3e-6
"""By how much a frequency may differ, relatively, from the constant that it is."""


@dataclass(frozen=True)
class Places:
    """What one attention does with positions.

    scale        of the scores
    window       tokens that one sees at most, itself among them; 0 is all up to the positions that were tried
    frequencies  of the rotations of queries and keys, by their value's number; () where nothing turns
    """

    scale: float
    window: int
    frequencies: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Again:
    """Attention at another number of tokens: queries and new keys, the mask [tokens, seen], a factor of the scores."""

    q: Rows
    k: Rows
    mask: NDArray[np.float64]
    factor: float


@dataclass
class Positions:
    """The positions of every attention of a lifted graph, read once for layers that are alike."""

    lift: Lifter
    context: int
    known: dict[str, Places] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    stops: dict[str, tuple[Base, tuple[int, ...]]] = field(default_factory=dict)

    def of(self, attention: Attended) -> Places:
        """Raises Reject where positions mean something that is not served."""
        if attention.order not in self.keys:
            stops = set(self._cuts(1, 1)) | self.lift.features
            self.keys[attention.order] = self.lift.fingerprint([attention.name], stops)
        key = self.keys[attention.order]
        if key not in self.known:
            self.known[key] = self._read(attention)
        return self.known[key]

    def reach(self, positions: int) -> bool:
        """Whether the file has masks and tables for that many positions."""
        past = max(positions - 1, 1)
        try:
            for attention in self.lift.attentions[:1]:
                self.again(attention, past, 1)
            sub = self._sub(past, 1)
            for name in self.added:
                sub.array(sub.value(name))
        except (Reject, NotEvaluated):
            return False
        return not sub.problems

    @property
    def added(self) -> set[str]:
        """Constants by position that are added to the embedding."""
        forms = [v for v in self.lift.values.values() if isinstance(v, Form)]
        return {b.constant for v in forms for b in v.bases() if isinstance(b, Positioned)}

    # -- following again -------------------------------------------------------------------------------------------

    def _cuts(self, past: int, tokens: int) -> dict[str, Cut]:
        """Values at which the graph is cut, as they are for other numbers of tokens."""
        if not self.stops:
            for name, value in self.lift.values.items():
                if not isinstance(value, Form) or len(value.terms) != 1 or len(value.shape) < 2:
                    continue
                base = value.terms[0].base
                if not isinstance(base, (Product, Summed, Embedded, Positioned)):
                    continue
                whole = uniform(value.terms[0].coef) == 1.0 and uniform(value.const) == 0.0
                own = name == (getattr(base, "output", "") or base.name)
                if isinstance(
                    base, Positioned
                ):  # it is called as the embedding is, and stands where positions are added
                    index = value.terms[0].index.reshape(-1)
                    own = bool(value.shape[-1] == base.width and np.array_equal(index, np.arange(index.size)))
                if own and value.shape[-2] == self.lift.tokens and whole:
                    self.stops[name] = (base, value.shape)

        def cut(base: Base, shape: tuple[int, ...]) -> Cut:
            return Cut(shape, lambda: Form.of(Product(base.name, tokens, base.width), shape))

        return {n: cut(b, (*shape[:-2], tokens, shape[-1])) for n, (b, shape) in self.stops.items()}

    def _sub(self, past: int, tokens: int) -> Lifter:
        sub = Lifter(self.lift.g, past, tokens, self._cuts(past, tokens))
        sub.appended = self.lift.appended
        return sub

    def again(self, attention: Attended, past: int, tokens: int) -> Again:
        """The same attention at another number of cached and new tokens."""
        sub = self._sub(past, tokens)
        q, k, mask, factor = attention.again(sub)
        found = Again(q, k, mask, factor * (uniform(q.coef) or 0.0) * (uniform(k.coef) or 0.0))
        if sub.problems:
            raise sub.problems[0]
        for role, rows in (("q", found.q), ("k", found.k)):
            if _chain(rows) != _chain(getattr(attention, role)):
                raise Reject(
                    f"attention is another thing for {tokens} tokens after {past}",
                    attention.name,
                    "attention by length",
                )
        return found

    def _read(self, attention: Attended) -> Places:
        places = sorted({n for n in _samples(self.context) if 1 <= n < self.context} | {1})
        at = {p: self.again(attention, p, 1) for p in places}
        if self.lift.tokens > 1:
            prompt = self.again(attention, 1, max(1, min(PROMPT, self.context - 1)))
        else:  # a graph that takes prompts from an empty cache alone: confirm runs one
            prompt = at[1]
        scales = {float(np.float32(a.factor)) for a in (*at.values(), prompt)}
        if max(scales) - min(scales) > 1e-6 * max(scales):
            raise Reject("the scale of the scores changes with the position", attention.name, "scale by position")
        window = _window(attention.name, [a.mask for a in (prompt, *at.values())])
        turns = {}
        for role in ("q", "k"):
            first = turned_of(getattr(prompt, role))
            if first is not None:
                rows = {}
                for p, a in at.items():
                    turned = turned_of(getattr(a, role))
                    assert turned is not None
                    rows[p] = turned.table[0]
                turns[role] = self._frequencies(attention, rows)
                self._check_prompt(attention, first.table, turns[role])
        return Places(attention.scale, window, turns)

    # -- rotations -------------------------------------------------------------------------------------------------

    def _frequencies(self, attention: Attended, rows: dict[int, NDArray[np.float64]]) -> tuple[float, ...]:
        """Radians per position of each pair, of cosines and sines by position; verified at every position."""
        estimate = _estimate(rows)
        found = self._exact(attention, estimate)
        coarse = self._tolerance
        wrong = [p for p, row in sorted(rows.items()) if not _turns(row, found, p, coarse)]
        if wrong:
            place = self._first(attention, found, max([0, *(p for p in rows if p < min(wrong))]), min(wrong), coarse)
            raise Reject(
                f"the rotary positions are others from position {place} on (factors that change with the length or the position)",
                attention.name,
                "rotary by length",
                f"up to {place} positions it is served: --set context={place}",
            )
        self._all_positions(attention, found)
        return tuple(float(f) for f in found)

    def _check_prompt(self, attention: Attended, table: NDArray[np.float64], frequencies: tuple[float, ...]) -> None:
        """A long prompt turns as single tokens do."""
        coarse, found = self._tolerance, np.array(frequencies)
        wrong = [1 + n for n, row in enumerate(table) if not _turns(row, found, 1 + n, coarse)]
        if wrong:
            raise Reject(
                f"the rotary positions are others from position {wrong[0]} on, in a prompt of {len(table)} tokens",
                attention.name,
                "rotary by length",
                "a shorter context may be served: --set context=N",
            )

    @property
    def _tolerance(self) -> float:
        return 2e-3 if self.lift.coarse else 2e-5

    def _first(
        self, attention: Attended, frequencies: NDArray[np.float64], good: int, bad: int, tolerance: float
    ) -> int:
        """The first position between `good` and `bad` at which the rotation is another."""
        while bad - good > 1:
            middle = (good + bad) // 2
            turned = turned_of(self.again(attention, middle, 1).q) or turned_of(self.again(attention, middle, 1).k)
            if turned is None or not _turns(turned.table[0], frequencies, middle, tolerance):
                bad = middle
            else:
                good = middle
        return bad

    def _exact(self, attention: Attended, estimate: NDArray[np.float64]) -> NDArray[np.float64]:
        """The constant among those that the angles are computed from which the estimates are; else the estimates in FP32."""
        for array in self._constants(estimate.size):
            if (np.abs(array - estimate) <= EXACT * np.abs(estimate) + 1e-9).all():
                return array
        count = estimate.size
        first = estimate[0]
        if count > 1 and abs(first - 1.0) < 1e-5:
            theta = float(estimate[-1] ** (-count / (count - 1)))
            for base in (round(theta), round(theta, -2)):
                wanted = 1.0 / np.float32(base) ** (
                    np.arange(0, 2 * count, 2, dtype=np.float32) / np.float32(2 * count)
                )
                if (np.abs(wanted - estimate) <= EXACT * (100 if self.lift.coarse else 10) * np.abs(estimate)).all():
                    return np.asarray(wanted, np.float64)
        return estimate.astype(np.float32).astype(np.float64)

    def _constants(self, size: int) -> Iterable[NDArray[np.float64]]:
        """Arrays of `size` elements that the rotary factors are computed from."""
        g = self.lift.g
        for name in g.behind(self.lift.factors):
            value = self.lift.values.get(name)
            array = value.computed if isinstance(value, Const) else None
            if array is None and name in g.initializers and int(np.prod(g.initializers[name].dims)) == size:
                array = np.asarray(g.array(name))
            if array is not None and array.size == size and array.dtype.kind == "f":
                yield np.asarray(array, np.float64).reshape(-1)

    def _all_positions(self, attention: Attended, frequencies: NDArray[np.float64]) -> None:
        """Every cosine and sine that values are multiplied with, at every position of a prompt as long as the context."""
        tokens = self.context - 1
        if tokens < 1 or not self.lift.factors or self.lift.tokens == 1:
            return
        whole = self._sub(1, tokens)
        positions = np.arange(1, self.context)
        angle = positions[:, None] * frequencies
        waves = np.concatenate([np.cos(angle), np.sin(angle), -np.sin(angle)], axis=1)
        few = np.unique(np.clip(np.array([0, 1, 2, 6, tokens // 3, tokens - 1]), 0, tokens - 1))
        own = self._sub(1, 1)
        attention.again(own)
        for name in sorted(own.factors):
            small = self.lift.factors.get(name)
            if small is None:
                continue
            values = np.asarray(whole.array(whole.value(name)), np.float64)
            table = _by_token(values, tokens)
            if table is None or small.array.ndim != values.ndim:
                continue  # no table of angles: what it does is seen at the positions that are tried
            largest = float(np.abs(table).max())
            size = 1.0 if abs(largest - 1) < 1e-2 else largest or 1.0
            problem = _compare_waves(table, waves, few, size, self.context)
            if problem is not None:
                place = int(positions[problem])
                raise Reject(
                    f"the rotary positions are others from position {place} on, in a prompt of {tokens} tokens",
                    attention.name,
                    "rotary by length",
                    "a shorter context may be served: --set context=N",
                )


def _by_token(table: NDArray[np.float64], tokens: int) -> NDArray[np.float64] | None:
    """A constant as [tokens, features]; None when it is no such table."""
    axes = [n for n, size in enumerate(table.shape) if size == tokens]
    if tokens == 1 or len(axes) != 1:
        return None
    return np.moveaxis(table, axes[0], 0).reshape(tokens, -1)


def _compare_waves(
    table: NDArray[np.float64], waves: NDArray[np.float64], few: NDArray[np.intp], size: float, context: int
) -> int | None:
    """The first token at which a column is none of the waves; None when all are, at every token."""
    tolerance = max(2e-3, context * 2.0**-23)
    distance = np.abs(table[few][:, :, None] / size - waves[few][:, None, :]).max(axis=0)
    own = distance.argmin(axis=1)
    if distance[np.arange(len(own)), own].max() > 0.2:
        first = np.abs(table[: len(few)][:, :, None] / size - waves[: len(few)][:, None, :]).max(axis=0).argmin(axis=1)
        own = first
    wrong = (np.abs(table / size - waves[:, own]) > tolerance).any(axis=1)
    return int(np.argmax(wrong)) if wrong.any() else None


def _samples(context: int) -> set[int]:
    """Positions that are tried: powers of two and their neighbours, and the last."""
    found = {context - 1, context // 3, context // 2 + 1}
    power = 1
    while power < context:
        found |= {power, power + 1, power - 1}
        power *= 2
    return found


def turned_of(rows: Rows) -> Turned | None:
    """The rotation that rows are, if they are one."""
    return rows.base if isinstance(rows.base, Turned) else None


def _chain(rows: Rows) -> list[Any]:
    """What must be the same of queries and keys for every number of tokens."""
    found: list[Any] = []
    base: Base | None = rows.base
    while base is not None:
        found.append((type(base).__name__, base.name, getattr(base, "heads", 0), getattr(base, "interleaved", False)))
        inner = getattr(base, "source", None)
        base = inner.base if isinstance(inner, Rows) and not isinstance(base, Product) else None
    return found


def _window(name: str, masks: list[NDArray[np.float64]]) -> int:
    """The width of the window of all masks; 0 where a token sees everything before it."""
    width, first = 0, []
    for mask in masks:
        if mask.ndim != 2:
            raise Reject("a bias on the scores that differs by head (ALiBi)", name, "bias by head")
        distance, visible = _seen(mask)
        if visible[distance < 0].any():
            raise Reject("a token sees later ones", name, "not causal")
        if np.abs(mask[visible]).max(initial=0.0) > 1e-6:
            raise Reject("a bias on the scores by distance", name, "bias by distance")
        if not visible.any(axis=1).all():
            raise Reject("a token that sees nothing", name, "mask")
        hidden = ~visible & (distance >= 0)
        if hidden.any():
            width = width or int(distance[hidden].min())
            first.append(mask.shape[1] - mask.shape[0] + int(np.argmax(hidden.any(axis=1))))
    for mask in masks:
        distance, visible = _seen(mask)
        wrong = (visible != ((distance >= 0) & ((distance < width) if width else True))).any(axis=1)
        if wrong.any():
            raise Reject(
                f"what a token sees is neither everything before it nor a sliding window, from position {min(first)} on (a mask by "
                "position, or chunks)",
                name,
                "mask",
            )
    return width


def _seen(mask: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(how far each key lies behind each token, whether it is seen)."""
    tokens, seen = mask.shape
    return np.arange(seen - tokens, seen)[:, None] - np.arange(seen), mask > HIDDEN


def _estimate(rows: dict[int, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Frequencies of [pairs, 2] cosines and sines by position, finer with each doubled position up to where they change."""
    found = np.arctan2(rows[1][:, 1], rows[1][:, 0])
    for place in sorted(p for p in rows if p > 1 and p & (p - 1) == 0):
        angle = np.arctan2(rows[place][:, 1], rows[place][:, 0])
        rest = angle - place * found
        rest -= 2 * np.pi * np.round(rest / (2 * np.pi))
        if np.abs(rest).max(initial=0.0) > CHANGED:
            break
        found = found + rest / place
    return np.asarray(found)


def _turns(row: NDArray[np.float64], frequencies: NDArray[np.float64], place: int, tolerance: float) -> bool:
    """Whether [pairs, 2] are the cosines and sines at a position; angles are rounded to FP32."""
    angle = place * frequencies
    wanted = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return bool(np.abs(row - wanted).max(initial=0.0) <= max(tolerance, place * 2.0**-22))
