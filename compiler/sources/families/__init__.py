# SPDX-License-Identifier: Apache-2.0
"""Families of models: one file per family, each with one FAMILY, found by the name that GGUF gives the architecture."""

from __future__ import annotations

import importlib
import pkgutil

from meadow.compiler.sources.families.family import Family


def families() -> dict[str, Family]:
    """Every family that has a file here, by its name."""
    found: dict[str, Family] = {}
    for module in pkgutil.iter_modules(__path__):
        family = getattr(importlib.import_module(f"{__name__}.{module.name}"), "FAMILY", None)
        if family is not None:
            found[family.name] = family
    return found
