# SPDX-License-Identifier: Apache-2.0
"""Kept: what the solver found so far, beside the output, so that a run that was interrupted does not solve the same matrices again."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meadow.machine.errors import UsageError
from meadow.machine.types import Weight, grouped

SUFFIX = ".solving"
MINE = "key.json"


class Kept:
    """A folder of solved matrices for one `key`: the model, the recipe, the method and the text.  One of another key is made anew.

    Raises UsageError where the folder holds something else.
    """

    def __init__(self, target: Path, key: str):
        self.folder = target.with_name(f".{target.name}{SUFFIX}")
        if self.folder.is_symlink() or (self.folder.exists() and not (self.folder / MINE).is_file()):
            raise UsageError(
                f"{self.folder} stands where the solver keeps what it found; remove it, or choose another output"
            )
        try:
            same = json.loads((self.folder / MINE).read_text()) == key
        except (OSError, ValueError):
            same = False
        if not same:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            (self.folder / MINE).write_text(json.dumps(key))
        self.found = 0

    def save(self, number: int, weights: Sequence[Weight], facts: Sequence[Any]) -> None:
        """Group `number` of matrices, with what is said of it."""
        arrays: dict[str, Any] = {"facts": np.array(json.dumps(facts))}
        for n, w in enumerate(weights):
            arrays |= {f"codes{n}": w.codes, f"scale{n}": w.scale, f"elem{n}": np.array([w.elem.bits, w.elem.group])}
            if w.minimum is not None:
                arrays[f"minimum{n}"] = w.minimum
        part = self.folder / f"{number}.part"
        with part.open("wb") as file:
            np.savez(file, **arrays)
        part.replace(self.folder / f"{number}.npz")

    def load(self, number: int, names: Sequence[str], like: Sequence[Weight]) -> tuple[list[Weight], list[Any]] | None:
        """Group `number`, or None where it was not solved, or is not whole.

        like  the matrices by nearest: what is loaded has their shapes and types
        """
        try:
            with np.load(self.folder / f"{number}.npz", allow_pickle=False) as found:
                weights = [
                    Weight(
                        name,
                        grouped(*(int(v) for v in found[f"elem{n}"])) if w.elem.group else w.elem,
                        found[f"codes{n}"],
                        found[f"scale{n}"],
                        found.get(f"minimum{n}"),
                    )
                    for n, (name, w) in enumerate(zip(names, like, strict=True))
                ]
                facts: list[Any] = json.loads(str(found["facts"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        same = all(
            a.codes.shape == b.codes.shape and a.codes.dtype == b.codes.dtype and a.elem == b.elem
            for a, b in zip(weights, like, strict=True)
        )
        if not same:
            return None
        self.found += 1
        return weights, facts

    def remove(self) -> None:
        """When the output is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
