# SPDX-License-Identifier: Apache-2.0
"""Floating-point operators that a synthesis tool builds of the emitted C++: what each unit's loops hold, through the call graph.

Within a loop every operator of an iteration is an instance of its own, times the copies that UNROLL makes; loops of a function that
run one after another share theirs (UG1399, "Optimizing for area").  Functions that are not inlined are units of their own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from meadow.machine.design import Design
from meadow.machine.operators import units
from rules.source import LOOPS, Finding, K, Scope, Source, descend

Operators = Counter[str]
WORDS = {
    **dict.fromkeys(("+", "-", "+=", "-="), "add"),
    **dict.fromkeys(("*", "*="), "multiply"),
    **dict.fromkeys(("/", "/="), "divide"),
    **dict.fromkeys(("<", ">", "<=", ">=", "==", "!="), "compare"),
}


def instances(source: Source) -> dict[str, Operators]:
    """By unit: its operators."""
    own = {f.name: f for f in source.functions}
    reached, waiting = set(), [f.name for f in source.functions if f.pragma("INTERFACE")]
    while waiting:
        name = waiting.pop()
        if name in own and name not in reached:
            reached.add(name)
            waiting += [source.called(c) for c in _live(source, own[name].cursor) if c.kind is K.CALL_EXPR]
    found = {name: _of_function(source, own, own[name]) for name in sorted(reached) if not own[name].pragma("INLINE")}
    return {name: operators for name, operators in found.items() if operators}


def _of_function(source: Source, own: dict[str, Scope], function: Scope) -> Operators:
    scopes = {s.cursor.hash: s for s in function.loops()}
    body = next(c for c in function.cursor.get_children() if c.kind is K.COMPOUND_STMT)
    return _of(source, own, scopes, body)


def _of(source: Source, own: dict[str, Scope], scopes: dict[int, Scope], cursor: Any) -> Operators:
    """Of a piece of code: what is not in loops, or the most that any of its loops has."""
    here, loops = _flat(source, own, scopes, cursor)
    for one in loops:
        here |= one
    return here


def _flat(
    source: Source, own: dict[str, Scope], scopes: dict[int, Scope], cursor: Any
) -> tuple[Operators, list[Operators]]:
    """Operators of one piece of code, and of each loop in it that takes time."""
    here: Operators = Counter()
    loops: list[Operators] = []
    if cursor.kind in LOOPS:
        scope = scopes[cursor.hash]
        inner, below = Counter(), []  # type: ignore[var-annotated]
        for child in cursor.get_children():
            some, more = _flat(source, own, scopes, child)
            inner += some
            below += more
        copies = _trips(source, cursor) if scope.pragma("UNROLL") is not None else 1
        inner = Counter({name: n * copies for name, n in inner.items()})
        if scope.pragma("UNROLL") is not None:
            return inner, below
        for one in below:
            inner |= one
        return here, [inner]
    parts = _parts(source, cursor)
    here[_operator(cursor)] += 1
    if cursor.kind is K.CALL_EXPR:
        name = source.called(cursor)
        if name in own and own[name].pragma("INLINE"):
            inner_scopes = {s.cursor.hash: s for s in own[name].loops()}
            body = next(c for c in own[name].cursor.get_children() if c.kind is K.COMPOUND_STMT)
            some, more = _flat(source, own, inner_scopes, body)
            here += some
            loops += more
        elif name == "sqrt":
            here["root"] += 1
    for part in parts:
        some, more = _flat(source, own, scopes, part)
        here += some
        loops += more
    del here[""]
    return here, loops


def _parts(source: Source, cursor: Any) -> list[Any]:
    """What an expression or a statement is made of, without what `if constexpr` leaves out."""
    parts = list(cursor.get_children())
    if cursor.kind is K.IF_STMT and source.text(cursor).startswith("if constexpr"):
        taken = source.value(source.text(parts[0]), dict(source.constants))
        return parts[1:2] if taken else parts[2:]
    return parts


def _live(source: Source, cursor: Any) -> Iterator[Any]:
    for part in _parts(source, cursor):
        yield part
        yield from _live(source, part)


def _operator(cursor: Any) -> str:
    """The name of the operator that an expression is, or nothing."""
    parts = list(cursor.get_children())
    if cursor.kind in (K.BINARY_OPERATOR, K.COMPOUND_ASSIGNMENT_OPERATOR) and len(parts) == 2:
        if "float" not in map(_kind, parts) or (_constant(parts[0]) and _constant(parts[1])):
            return ""
        tokens = [t.spelling for t in cursor.get_tokens()]
        before = len(list(parts[0].get_tokens()))
        return WORDS.get(tokens[before], "") if before < len(tokens) else ""
    if cursor.kind in (K.CXX_STATIC_CAST_EXPR, K.CSTYLE_CAST_EXPR) and _kind(cursor) == "float":
        inner = parts[-1]
        while inner.kind is K.UNEXPOSED_EXPR and (below := list(inner.get_children())):
            inner = below[0]  # the conversion itself
        return "to float" if "float" not in _kind(inner) and not _constant(inner) else ""
    return ""


def _kind(cursor: Any) -> str:
    return str(cursor.type.get_canonical().spelling).replace("const ", "")


def _constant(cursor: Any) -> bool:
    """Whether it is a number that is known before there is a circuit."""
    names = [c for c in [cursor, *descend(cursor)] if c.kind is K.DECL_REF_EXPR]
    return all(re.fullmatch(r"k[A-Z]\w*", c.spelling) for c in names) and not any(
        c.kind is K.CALL_EXPR for c in [cursor, *descend(cursor)]
    )


def _trips(source: Source, loop: Any) -> int:
    """Copies of an unrolled loop."""
    match = re.match(r"for \(\w+ (\w+) = (.*?); \1(?: \+ \w+)? < (.*?); (.*?)\)", source.text(loop))
    if not match:
        return 1
    names = dict(source.constants)
    start, end = source.value(match[2], names), source.value(match[3], names)
    by = re.search(r"\+= (\w+)", match[4])
    step = source.value(by[1], names) if by else 1
    if "*=" in match[4]:
        return max(1, int(end - 1).bit_length()) if end else 1
    return max(0, -(-(end - start) // step)) if None not in (start, end, step) else 1


def differences(source: Source, design: Design) -> Iterator[Finding]:
    """Units whose operators are not those that the design's resources are counted from."""
    counted, said = instances(source), units(design)
    for name in sorted(counted.keys() | said.keys()):
        if counted.get(name, Counter()) != said.get(name, Counter()):
            what = f"{dict(counted.get(name, {}))} are built, machine/operators.py says {dict(said.get(name, {}))}"
            yield Finding("operators", name, what)
