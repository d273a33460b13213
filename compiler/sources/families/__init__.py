# SPDX-License-Identifier: Apache-2.0
"""Families of models: one file per family, each with one FAMILY, found by the names that GGUF and config.json give it."""

from __future__ import annotations

import importlib
import pkgutil

from meadow.compiler.sources.families.family import Family


def all_families() -> list[Family]:
    """Every family that has a file here."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return [module.FAMILY for module in modules if hasattr(module, "FAMILY")]


def families() -> dict[str, Family]:
    """By general.architecture of a GGUF file."""
    return {family.name: family for family in all_families() if family.name}


def model_types() -> dict[str, Family]:
    """By model_type of a config.json."""
    return {name: family for family in all_families() for name in family.model_types}
