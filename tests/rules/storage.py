# SPDX-License-Identifier: Apache-2.0
"""Rules of storage: what an iteration reads and writes of each memory, against the two ports that a bank has (UG1399, array_partition)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from rules.source import Finding, K, Scope, Source, calls, descend, python
from rules.structure import bound_of

PORTS = 2


@dataclass(frozen=True)
class Linear:
    """A sum of unknowns with whole coefficients, and a number."""

    terms: tuple[tuple[str, int], ...] = ()
    number: int = 0

    def _with(self, other: Any, sign: int) -> Linear:
        other = other if isinstance(other, Linear) else Linear((), int(other))
        terms = dict(self.terms)
        for name, n in other.terms:
            terms[name] = terms.get(name, 0) + sign * n
        return Linear(tuple(sorted((k, n) for k, n in terms.items() if n)), self.number + sign * other.number)

    def __add__(self, other: Any) -> Linear:
        return self._with(other, 1)

    def __sub__(self, other: Any) -> Linear:
        return self._with(other, -1)

    def __radd__(self, other: Any) -> Linear:
        return self + other

    def __rsub__(self, other: Any) -> Linear:
        return Linear((), other) - self

    def __mul__(self, other: Any) -> Linear:
        if isinstance(other, Linear):
            return Linear(((f"({self})*({other})", 1),))
        return Linear(tuple((k, n * other) for k, n in self.terms), self.number * other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Linear:
        return Linear(((f"({self})/{other}", 1),))

    def __mod__(self, other: Any) -> Any:
        if isinstance(other, int) and all(n % other == 0 for _, n in self.terms):
            return self.number % other
        return Linear(((f"({self})%{other}", 1),))

    def __and__(self, other: Any) -> Linear:
        return Linear(((f"({self})&{other}", 1),))

    def __str__(self) -> str:
        return "+".join([*(f"{n}{k}" for k, n in self.terms), str(self.number)])


Layout = dict[int, int]
"""By dimension, from 1: the factor of its partition, 0 for complete; dimension 0 is all."""


def partitions(source: Source) -> dict[tuple[str, str], Layout]:
    """By function and name of an array; a member of a record goes by its name alone."""
    found: dict[tuple[str, str], Layout] = {}
    for function in source.functions:
        for text in [p for scope in [function, *function.loops()] for p in scope.pragmas]:
            match = re.match(r"ARRAY_(?:PARTITION|RESHAPE) variable=(\S+)(.*)", text)
            if not match:
                continue
            name = re.split(r"[.>]", match[1])[-1]
            dim = re.search(r"dim=(\d+)", match[2])
            factor = re.search(r"factor=(\w+)", match[2])
            size = source.constants.get(factor[1]) if factor and not factor[1].isdigit() else factor and int(factor[1])
            where = "" if "." in match[1] else function.name
            found.setdefault((where, name), {})[int(dim[1]) if dim else 1] = int(size or 0)
    return found


def accesses(source: Source) -> Iterator[Finding]:
    """At most two accesses of a bank an iteration, and the bank known where there are more accesses."""
    known = _by_parameter(source, partitions(source))
    for function in source.functions:
        for loop in function.loops():
            if not loop.pragma("PIPELINE"):
                continue
            interval = int(re.search(r"II=(\d+)", loop.pragma("PIPELINE") or "II=1")[1])  # type: ignore[index]
            yield from _loop(source, function, loop, known, interval)


def _by_parameter(source: Source, found: dict[tuple[str, str], Layout]) -> dict[tuple[str, str], Layout]:
    """The same, with the names under which functions know the arrays that they are given: what all of these have in common."""
    known = dict(found)
    by_name = {f.name: f for f in source.functions}
    names = {f.name: [c.spelling for c in f.cursor.get_children() if c.kind is K.PARM_DECL] for f in source.functions}
    for _ in range(4):
        given: dict[tuple[str, str], list[Layout]] = {}
        for function in source.functions:
            for call in calls(function.cursor):
                for name, argument in zip(names.get(source.called(call), []), source.arguments(call), strict=False):
                    whole = source.text(argument)
                    text, taken = re.sub(r"\[.*", "", whole), whole.count("[")  # of an array of arrays
                    key = ("" if "." in text else function.name, re.split(r"[.>]", text)[-1])
                    waits = text in names[function.name] and key not in known
                    if name and re.fullmatch(r"[\w.]+", text) and not waits:
                        given.setdefault((by_name[source.called(call)].name, name), []).append(
                            {d - taken: f for d, f in known.get(key, {}).items() if d > taken}
                        )
        for key, layouts in given.items():
            known[key] = {d: f for d, f in layouts[0].items() if all(one.get(d) == f for one in layouts)}
    return known


def _loop(
    source: Source, function: Scope, loop: Scope, known: dict[tuple[str, str], Layout], interval: int
) -> Iterator[Finding]:
    seen: dict[str, set[tuple[Any, ...]]] = {}
    for subscript, unrolled in _subscripts(loop, []):
        base, indices = _split(subscript)
        declared = _declared(base)
        if declared is None or not _is_memory(declared) or _inside(declared, loop):
            continue
        text = source.text(base)
        name = re.split(r"[.>]", text)[-1]
        layout = known.get(("" if "." in text else function.name, name), {})
        if 0 in layout or all(layout.get(d) == 0 for d in range(1, len(indices) + 1)):
            continue  # registers
        ranges = [_values(source, one) for one in unrolled]
        if any(r is None for r in ranges):
            continue
        for values in product(*[r for r in ranges if r is not None]):
            bound = dict(zip([_counter(source, one) for one in unrolled], values, strict=True))
            place = [_evaluate(source, index, bound) for index in indices]
            seen.setdefault(name, set()).add(tuple(str(p) for p in _place(place, layout)))
    for name, places in seen.items():
        banks: dict[tuple[Any, ...], int] = {}
        for one in places:  # a bank that is not known may be that of all the others
            bank = tuple(p for p in one if p.startswith("bank ") and "?" not in p)
            banks[bank] = banks.get(bank, 0) + 1
        unknown = any("?" in part for one in places for part in one)
        worst = max(banks.values())
        if worst > PORTS * interval:
            what = "in banks that are not known" if unknown else "of one bank"
            where = source.where(loop.cursor)
            yield Finding(
                "storage", where, f"{function.name} takes {worst} words of {name} {what} in {interval} cycles"
            )


def _place(place: list[Any], layout: dict[int, int]) -> list[str]:
    """Each dimension as its bank, and what addresses it there."""
    found = []
    for number, index in enumerate(place, 1):
        if number not in layout:
            found.append(f"at {index}")
            continue
        factor = layout[number]
        bank = index if factor == 0 else index % factor
        found.append(
            f"bank {bank}"
            if isinstance(bank, int) or (isinstance(bank, Linear) and not bank.terms)
            else f"bank ? {bank}"
        )
        if factor:
            found.append(f"at {index}")
    return found


def _subscripts(scope: Scope, unrolled: list[Scope]) -> Iterator[tuple[Any, list[Scope]]]:
    inner = {s.cursor.hash: s for s in scope.inner}

    def visit(cursor: Any) -> Iterator[tuple[Any, list[Scope]]]:
        for child in cursor.get_children():
            if child.hash in inner:
                yield from _subscripts(inner[child.hash], [*unrolled, inner[child.hash]])
            elif child.kind is K.ARRAY_SUBSCRIPT_EXPR:
                yield child, unrolled
                yield from visit(list(child.get_children())[1])
            else:
                yield from visit(child)

    yield from visit(scope.cursor)


def _split(subscript: Any) -> tuple[Any, list[Any]]:
    """The array and its indices, the first dimension first."""
    indices: list[Any] = []
    while subscript.kind is K.ARRAY_SUBSCRIPT_EXPR:
        base, index = list(subscript.get_children())
        indices.insert(0, index)
        subscript = base
        while subscript.kind is K.UNEXPOSED_EXPR and len(list(subscript.get_children())) == 1:
            subscript = next(subscript.get_children())
    return subscript, indices


def _declared(base: Any) -> Any:
    for cursor in [base, *descend(base)]:
        if cursor.kind in (K.DECL_REF_EXPR, K.MEMBER_REF_EXPR) and cursor.referenced is not None:
            return cursor.referenced
    return None


def _is_memory(declared: Any) -> bool:
    """Not the lanes of a word, nor a port, nor an array that is small or constant."""
    kind = declared.type.get_canonical().spelling
    parent = declared.semantic_parent
    word = parent is not None and parent.spelling.endswith("_t") and parent.spelling != "results_t"
    return (
        ("[" in kind or "*" in kind)
        and "ap_uint" not in kind
        and "stream" not in kind
        and not word
        and declared.spelling not in ("word", "base", "at")
    )


def _inside(declared: Any, loop: Scope) -> bool:
    line, extent = declared.location.line, loop.cursor.extent
    return bool(declared.location.file.name == extent.start.file.name and extent.start.line <= line <= extent.end.line)


def _counter(source: Source, loop: Scope) -> str:
    match = re.match(r"for \(\w+ (\w+)", source.text(loop.cursor))
    return match[1] if match else "?"


def _values(source: Source, loop: Scope) -> list[int] | None:
    header = source.text(loop.cursor).split("{")[0]
    start = re.match(r"for \(\w+ \w+ = (.*?);", header)
    step = re.search(r"(\w+) \+= (.*?)\)", header)
    bound = source.value(bound_of(source, loop) or "?", {**source.constants, "kBanks": 16, "kCount": 4})
    first = source.value(start[1], source.constants) if start else None
    by = source.value(step[2], source.constants) if step else 1
    return list(range(first, bound, by)) if not (bound is None or first is None or by is None) else None


def _evaluate(source: Source, index: Any, bound: dict[str, int]) -> Any:
    names: dict[str, Any] = {**source.constants, **bound}

    def known(match: re.Match[str]) -> str:
        if match[0] in names:
            return match[0]
        name = f"unknown_{abs(hash(match[0]))}"
        names[name] = Linear(((match[0], 1),))
        return name

    text = re.sub(r"static_cast<[^>]*>", "", source.text(index))
    text = re.sub(r"[A-Za-z_][\w.]*(?:\[[^]]*\])?", known, text)
    try:
        return eval(python(text), {"__builtins__": {}}, names)
    except Exception:  # nothing that this algebra knows: its bank is unknown
        return Linear(((text, 1),))


CHECKS = (accesses,)
