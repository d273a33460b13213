# SPDX-License-Identifier: Apache-2.0
"""The emitted C++ as the rules read it: functions, loops, calls and pragmas, by libclang; constants, by evaluating them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from clang import cindex

K = cindex.CursorKind


class Finding(NamedTuple):
    """What a rule found: its name, where, and what is wrong."""

    rule: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: {self.what}"


@dataclass
class Scope:
    """A function or a loop: its cursor, its pragmas, the scopes in it."""

    cursor: Any
    pragmas: list[str] = field(default_factory=list)
    inner: list[Scope] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.cursor.spelling)

    def pragma(self, word: str) -> str | None:
        return next((p for p in self.pragmas if p.split()[0] == word), None)

    def loops(self) -> Iterator[Scope]:
        """Every loop in it."""
        for scope in self.inner:
            yield scope
            yield from scope.loops()


LOOPS = (K.FOR_STMT, K.WHILE_STMT, K.DO_STMT)
FUNCTIONS = (K.FUNCTION_DECL, K.FUNCTION_TEMPLATE)
KEYWORDS = {"and", "or", "not"}


class Source:
    """The C++ of one design, in the folder hls/ of its package."""

    def __init__(self, folder: Path):
        self.folder = folder = folder.resolve()
        arguments = ["-std=c++17", "-D__SYNTHESIS__", f"-I{folder / 'sim'}", f"-I{folder}", *_builtin()]
        self.unit = cindex.Index.create().parse(str(folder / "top.cpp"), args=arguments)
        errors = [d.spelling for d in self.unit.diagnostics if d.severity >= cindex.Diagnostic.Error]
        if errors:
            raise ValueError(f"{folder}: {errors[0]}")
        self.lines = {p.name: p.read_text().splitlines() for p in folder.iterdir() if p.suffix in (".hpp", ".cpp")}

    @cached_property
    def functions(self) -> list[Scope]:
        found = []
        for cursor in _walk(self.unit.cursor):
            if cursor.kind in FUNCTIONS and cursor.is_definition() and self.own(cursor):
                scope = Scope(cursor)
                _nest(scope, cursor)
                self._pragmas_of(scope)
                found.append(scope)
        return found

    def own(self, cursor: Any) -> bool:
        """Whether it stands in a file of the folder itself."""
        file = cursor.location.file
        return file is not None and Path(file.name).resolve().parent == self.folder.resolve()

    def where(self, cursor: Any) -> str:
        return f"{Path(cursor.location.file.name).name}:{cursor.location.line}"

    def text(self, cursor: Any) -> str:
        """The source of a cursor, in one line."""
        start, end = cursor.extent.start, cursor.extent.end
        lines = self.lines[Path(start.file.name).name][start.line - 1 : end.line]
        if not lines:
            return ""
        lines = list(lines)
        lines[-1] = lines[-1][: end.column - 1]
        lines[0] = lines[0][start.column - 1 :]
        return " ".join(line.strip() for line in lines if not line.strip().startswith(("#", "//")))

    def arguments(self, call: Any) -> list[Any]:
        return list(call.get_arguments()) or list(call.get_children())[1:]

    def called(self, call: Any) -> str:
        """The name of what a call calls; in a template that is known by its text alone."""
        match = re.match(r"(?:\w+::)*(\w+)", self.text(call))
        return str(call.spelling) or (match[1] if match else "")

    def _pragmas_of(self, function: Scope) -> None:
        extent = function.cursor.extent
        name = Path(extent.start.file.name).name
        for number in range(extent.start.line, extent.end.line + 1):
            match = re.match(r"\s*#pragma\s+HLS\s+(.*?)\s*$", self.lines[name][number - 1])
            if match:
                scope = function
                while True:
                    inside = [
                        s for s in scope.inner if s.cursor.extent.start.line <= number <= s.cursor.extent.end.line
                    ]
                    if not inside:
                        break
                    scope = inside[0]
                scope.pragmas.append(match[1])

    @cached_property
    def constants(self) -> dict[str, Any]:
        """The value of every constexpr number."""
        names: dict[str, Any] = {"pieces": lambda n, u: -(-n // u), "padded": lambda n, u: -(-n // u) * u}
        names["bits_for"] = lambda n: int(n).bit_length()
        waiting = []
        for file in sorted(self.lines):
            for line in self.lines[file]:
                match = re.match(r"\s*constexpr (?:int|bool|uint32_t|float) (\w+) = (.*);", line)
                if match:
                    waiting.append((match[1], match[2]))
        for _ in range(8):
            for name, expression in waiting:
                value = self.value(expression, names)
                if value is not None:
                    names[name] = value
        return names

    def value(self, expression: str, names: dict[str, Any]) -> Any:
        """The value of an expression of numbers, or None."""
        try:
            return eval(python(expression), {"__builtins__": {}}, names)
        except Exception:  # a name without a value, or no number at all
            return None


def python(expression: str) -> str:
    """A C++ expression of numbers in Python's words."""
    text = re.sub(r"static_cast<[^>]*>", "", expression)
    text = re.sub(r"(\d)[uUfFlL]+\b", r"\1", text).replace("/", "//").replace("&&", " and ").replace("||", " or ")
    text = re.sub(r"!(?!=)", " not ", text).replace("true", "True").replace("false", "False")
    ternary = re.fullmatch(r"(.*?)\?(.*):(.*)", text)
    return f"(({python(ternary[2])}) if ({ternary[1]}) else ({python(ternary[3])}))" if ternary else text


def _builtin() -> list[str]:
    """Where the compiler keeps the headers that libclang has not."""
    folder = subprocess.run(["clang", "-print-resource-dir"], capture_output=True, text=True, check=True).stdout.strip()
    return [f"-isystem{folder}/include"]


def _walk(cursor: Any) -> Iterator[Any]:
    for child in cursor.get_children():
        yield child
        if child.kind in (K.NAMESPACE, K.LINKAGE_SPEC, K.UNEXPOSED_DECL):
            yield from _walk(child)


def _nest(scope: Scope, cursor: Any) -> None:
    for child in cursor.get_children():
        if child.kind in LOOPS:
            inner = Scope(child)
            scope.inner.append(inner)
            _nest(inner, child)
        else:
            _nest(scope, child)


def descend(cursor: Any) -> Iterator[Any]:
    """Every cursor below one."""
    for child in cursor.get_children():
        yield child
        yield from descend(child)


def calls(cursor: Any) -> Iterator[Any]:
    for child in descend(cursor):
        if child.kind is K.CALL_EXPR:
            yield child
