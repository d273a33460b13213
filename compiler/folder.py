# SPDX-License-Identifier: Apache-2.0
"""Folders written beside and renamed, so that nobody ever sees half of one.

Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meadow.compiler.errors import ResourceExceeded, UsageError


def refuse_target(target: Path, marker: str, sources: tuple[Path, ...]) -> None:
    """Raise UsageError when replacing the folder `target` would delete something that is not ours to delete.

    marker   a file by which a folder is known as one that this command made; an empty folder is fine too
    sources  what the command reads: it must not lie in the folder
    """
    if not target.name or target.name in (".", ".."):
        raise UsageError("the output folder has no name; give one, such as -o build/model")
    real = target.resolve()
    if real.exists() and not real.is_dir():
        raise UsageError(f"{target} exists and is not a folder; choose another name")
    for parent in real.parents:
        if parent.exists() and not parent.is_dir():
            raise UsageError(f"{parent} is not a folder, so {target} cannot be written; choose another name")
    if Path.cwd().resolve().is_relative_to(real):
        raise UsageError(f"{target} is the current folder or above it; choose a folder of its own, such as build/model")
    for source in sources:
        if source.resolve().is_relative_to(real):
            raise UsageError(f"{target} holds {source.name}, which is being read; choose another folder")
    if real.is_dir() and any(real.iterdir()) and not (real / marker).is_file():
        raise UsageError(
            f"{target} exists, is not empty and has no {marker}: it was not made by this command, so it is not replaced"
        )


@contextmanager
def beside(target: Path, marker: str, sources: tuple[Path, ...] = ()) -> Iterator[Path]:
    """A fresh folder next to `target` that takes its name when the block ends well, and vanishes otherwise.

    An existing `target` is replaced as a whole, only after the new one is complete, and only if refuse_target agrees.
    """
    refuse_target(target, marker, sources)
    target = target.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UsageError(f"cannot write beside {target}: {error.strerror or error}") from None
    try:
        yield work
        work.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            target.rename(old / "old")
            work.rename(target)
            shutil.rmtree(old)
        else:
            work.rename(target)
    except OSError as error:
        reason = error.strerror or str(error)
        kind = ResourceExceeded if error.errno in (errno.ENOSPC, errno.EDQUOT) else UsageError
        raise kind(f"writing {target} failed and nothing was kept: {reason}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
