# SPDX-License-Identifier: Apache-2.0
"""Every engine, found in this folder; which of them takes a format word, or a type of weights."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache
from pathlib import Path

from meadow.machine.engines.engine import Engine
from meadow.machine.types import Elem


@lru_cache
def engines() -> tuple[type[Engine], ...]:
    """Every kind of engine."""
    package = __name__.rpartition(".")[0]
    names = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = [importlib.import_module(f"{package}.{name}") for name in names if name != "table"]
    kinds = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    return tuple(sorted((k for k in kinds if issubclass(k, Engine) and k is not Engine), key=lambda k: k.port))


@lru_cache
def owner(number: str) -> tuple[type[Engine], str]:
    """The engine, and its field, that a number of a design belongs to.  Raises KeyError when it is none's."""
    return {name: (kind, field) for kind in engines() for name, field in kind.numbers.items()}[number]


def absent_number(number: str) -> int:
    """What a number of an engine is in a design that has not the engine."""
    kind, field = owner(number)
    return int(getattr(kind(), field))


@lru_cache
def engine_of(word: int) -> type[Engine]:
    """The engine whose weights a format word names.  Raises ValueError for a word that is no engine's."""
    for kind in engines():
        if kind.takes(word):
            return kind
    raise ValueError(f"packing format {word:#x} is not known")


@lru_cache
def engine_for(elem: Elem) -> type[Engine] | None:
    """The engine that usually multiplies weights of a type; None when no engine does."""
    return next((kind for kind in engines() if kind.multiplies(elem) and not kind.instead), None)
