# SPDX-License-Identifier: Apache-2.0
"""Built libraries and programs in the user's cache: found by everything they are made of, and checked before they are used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meadow.machine.cache import cache_folder
from meadow.machine.package.read import sha256


def place(kind: str, how: Any, sources: Mapping[str, bytes], suffix: str = "") -> Path:
    """The path of what is made of `sources` (by relative path) in the way that `how` says (anything that JSON takes)."""
    digest = hashlib.sha256(json.dumps(how, sort_keys=True).encode())
    for name in sorted(sources):
        digest.update(f"\0{name}\0{len(sources[name])}\0".encode() + sources[name])
    return cache_folder() / kind / f"{digest.hexdigest()[:32]}{suffix}"


def is_whole(path: Path) -> bool:
    """Whether `path` is there as it was built: a damaged one would end the process that loads it by a signal."""
    try:
        return not path.is_symlink() and path.is_file() and _note(path).read_text() == sha256(path)
    except OSError:
        return False


def keep(made: Path, path: Path) -> Path:
    """Move what was built to its place, with a note of its contents."""
    note = made.with_name(f"{made.name}.sha256")
    note.write_text(sha256(made))
    made.replace(path)
    note.replace(_note(path))
    return path


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
