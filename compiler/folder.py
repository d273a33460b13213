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


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A fresh folder next to `target` that takes its name when the block ends well, and vanishes otherwise.

    An existing `target` is replaced as a whole, only after the new one is complete.
    """
    target = target.absolute()
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} exists and is not a folder; choose another name")
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
