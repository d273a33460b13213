# SPDX-License-Identifier: Apache-2.0
"""Text by its name: the bundled Wikipedia's train split, or a file of the user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from meadow.compiler.sources.fetch import TEST_EVERY, articles
from meadow.machine.errors import UsageError

LARGEST = 64 << 20
"""Bytes of a text that is read."""


def some_text(name: str, seed: int, most: int) -> str:
    """About `most` characters of "wikipedia", whole articles of its train split that `seed` chooses; or a whole file.

    Raises UsageError for a name that is neither, or a file that is no text of at most LARGEST bytes.
    """
    if name == "wikipedia":
        every = [text for index, (_, text) in enumerate(articles()) if index % TEST_EVERY]
        chosen: list[str] = []
        size = 0
        for index in np.random.default_rng(seed).permutation(len(every)):
            chosen.append(every[index])
            size += len(every[index])
            if size > most:
                break
        return "\n\n".join(chosen)
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"--calibrate {name!r} is neither 'wikipedia' nor a file")
    if path.stat().st_size > LARGEST:
        raise UsageError(f"{path} has {path.stat().st_size / 1e6:,.0f} MB; at most {LARGEST >> 20} MB of text are read")
    try:
        return path.read_text()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
