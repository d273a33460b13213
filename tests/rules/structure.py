# SPDX-License-Identifier: Apache-2.0
"""Rules of structure: dataflow regions, call sites of units, loop nests, carried floats, dividers.  UG1399 (dataflow, loop_flatten),
UG1448 214-114, 214-169, 200-977."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rules.source import Finding, K, Scope, Source, calls, descend

SMALL = ("load", "store", "kept_at", "count_")
"""Beginnings of the names of functions that may be built several times: they move beats, and multiply nothing."""


def dataflow(source: Source) -> Iterator[Finding]:
    """A region is declarations of streams and calls of processes with plain names; an array, a port or a stream belongs to one
    reader and one writer."""
    for function in source.functions:
        if not function.pragma("DATAFLOW"):
            continue
        body = next(c for c in function.cursor.get_children() if c.kind is K.COMPOUND_STMT)
        found = list(_region(source, body))
        processes = [one for one in found if not isinstance(one, Finding)]
        yield from (one for one in found if isinstance(one, Finding))
        used: Counter[str] = Counter()
        streams: set[str] = set()
        for call in processes:
            for argument in source.arguments(call):
                text, kind = source.text(argument), argument.type.get_canonical().spelling
                if re.search(r"[-+*/%<>?!&|]|\.|->|\w\(", re.sub(r"::", "", text)):
                    yield Finding(
                        "dataflow statement",
                        source.where(call),
                        f"{source.called(call)} is given the expression {text}",
                    )
                if _shared(argument):
                    used[text] += 1
                if "stream<" in kind:
                    streams.add(text)
        for name, times in used.items():
            if times > (2 if name in streams else 1):
                where = source.where(function.cursor)
                yield Finding("dataflow sharing", where, f"{times} processes of {function.name} use {name}")


def _region(source: Source, body: Any) -> Iterator[Any]:
    """The processes of a region, and findings for statements that are none."""
    for statement in body.get_children():
        text = source.text(statement)
        if statement.kind is K.CALL_EXPR:
            yield statement
        elif statement.kind is K.UNEXPOSED_EXPR and list(calls(statement)):
            yield next(calls(statement))
        elif statement.kind is K.IF_STMT and text.startswith("if constexpr"):
            parts = list(statement.get_children())
            yield from _region(source, parts[1])
        elif statement.kind is K.DECL_STMT:
            for declared in statement.get_children():
                if declared.kind is K.VAR_DECL and "stream" not in declared.type.get_canonical().spelling:
                    yield Finding(
                        "dataflow statement", source.where(declared), f"a region declares {declared.spelling}"
                    )
        else:
            yield Finding("dataflow statement", source.where(statement), f"a region has the statement {text[:60]}")


def _shared(argument: Any) -> bool:
    """Whether an argument is no scalar, nor a record of scalars that is handed over as a copy."""
    declared = next((c.referenced for c in [argument, *descend(argument)] if c.kind is K.DECL_REF_EXPR), None)
    if declared is None:
        return False
    kind = declared.type.get_canonical()
    text = kind.spelling
    if "*" in text or "[" in text or "stream<" in text or "&" in text:
        return not text.endswith("(&)")
    fields = [f.type.get_canonical().spelling for f in kind.get_fields()]
    return any("[" in f or "*" in f for f in fields)


def call_sites(source: Source) -> Iterator[Finding]:
    """A unit is built wherever it is called, so it is called in one place (UG1399: ALLOCATION does not apply to sub-functions)."""
    own = {f.name: f for f in source.functions}
    sites: dict[str, set[str]] = {}
    for function in source.functions:
        for call in calls(function.cursor):
            name = source.called(call)
            if name in own and not own[name].pragma("INLINE") and not name.startswith(SMALL):
                # Each template argument is another unit on purpose: one of each port.
                sites.setdefault(re.split(r"\(", source.text(call))[0], set()).add(source.where(call))
    for name, places in sites.items():
        if len(places) > 1 and _is_unit(source, own[name.split("<")[0]], own):
            yield Finding(
                "call sites",
                sorted(places)[0],
                f"{name} is called in {len(places)} places: {', '.join(sorted(places))}",
            )


def _is_unit(source: Source, function: Scope, own: dict[str, Scope]) -> bool:
    """Whether it has a loop or a region, or calls what has one."""
    if list(function.loops()) or function.pragma("DATAFLOW") is not None:
        return True
    below = {source.called(c) for c in calls(function.cursor)} & own.keys() - {function.name}
    return any(_is_unit(source, own[name], own) for name in below if not name.startswith(SMALL))


def nests(source: Source) -> Iterator[Finding]:
    """A pipelined loop alone in another of variable bounds pays its latency each time: such nests do not flatten."""
    for function in source.functions:
        for loop in function.loops():
            if loop.pragma("LOOP_FLATTEN"):
                yield Finding(
                    "loop nest",
                    source.where(loop.cursor),
                    "LOOP_FLATTEN is for constant inner bounds; take one loop with counters",
                )
            if loop.pragma("PIPELINE") or loop.pragma("UNROLL") or len(loop.inner) != 1:
                continue
            inner = loop.inner[0]
            alone = [c for c in _statements(loop.cursor) if not source.text(c).startswith("count_loop")]
            if inner.pragma("PIPELINE") and len(alone) == 1 and not _constant(source, inner):
                yield Finding(
                    "loop nest", source.where(loop.cursor), "the nest does not flatten; take one loop with counters"
                )


def _statements(loop: Any) -> list[Any]:
    body = list(loop.get_children())[-1]
    while body.kind is K.LABEL_STMT:
        body = list(body.get_children())[-1]
    return list(body.get_children()) if body.kind is K.COMPOUND_STMT else [body]


def _constant(source: Source, loop: Scope) -> bool:
    return source.value(bound_of(source, loop) or "?", source.constants) is not None


def bound_of(source: Source, loop: Scope) -> str | None:
    """What the counter of a loop is compared with."""
    header = source.text(loop.cursor).split("{")[0]
    match = re.match(r"for \((.*?);(.*?);", header)
    compared = re.search(r"<\s*(.*)$", match[2]) if match else None
    return compared[1].strip() if compared else None


def carried_floats(source: Source) -> Iterator[Finding]:
    """A float that an iteration makes of the one before takes the latency of an operator an iteration."""
    for function in source.functions:
        for loop in function.loops():
            if not loop.pragma("PIPELINE"):
                continue
            extent = loop.cursor.extent
            for child in descend(loop.cursor):
                if child.kind not in (K.BINARY_OPERATOR, K.COMPOUND_ASSIGNMENT_OPERATOR):
                    continue
                parts = list(child.get_children())
                if len(parts) != 2 or parts[0].type.get_canonical().spelling != "float":
                    continue
                target, value = source.text(parts[0]), source.text(parts[1])
                between = source.text(child)[len(target) :].lstrip()
                assigned = re.match(r"([-+*/]?=)(?!=)", between)
                names = [
                    c.referenced for c in [parts[0], *descend(parts[0])] if c.kind is K.DECL_REF_EXPR and c.referenced
                ]
                outside = names and not (extent.start.line <= names[0].location.line <= extent.end.line)
                again = assigned and (len(assigned[1]) == 2 or target in value)
                if again and outside:
                    yield Finding("carried float", source.where(child), f"{target} is made of itself in each iteration")


def dividers(source: Source) -> Iterator[Finding]:
    """An integer divided by a variable is a unit of tens of cycles and a thousand LUTs: not in a loop."""
    for function in source.functions:
        inline = function.pragma("INLINE") is not None
        scopes = [function] if inline else [one for one in function.loops() if one.pragma("PIPELINE")]
        for scope in scopes:
            for child in descend(scope.cursor):
                if child.kind is not K.BINARY_OPERATOR or child.type.get_canonical().spelling in ("float", "double"):
                    continue
                parts = list(child.get_children())
                if len(parts) != 2:
                    continue
                left, whole, right = source.text(parts[0]), source.text(child), source.text(parts[1])
                operator = whole[len(left) :].lstrip()[:1]
                if operator in "/%" and operator and source.value(right, _template_names(source)) is None:
                    yield Finding("divider", source.where(child), f"{whole} divides by a variable")


def _template_names(source: Source) -> dict[str, Any]:
    return {**source.constants, "kCount": 4, "kBanks": 16, "kDepth": 64, "kPort": 0}


CHECKS = (dataflow, call_sites, nests, carried_floats, dividers)
