# SPDX-License-Identifier: Apache-2.0
"""The guard at each boundary: what a file from outside makes go wrong inside becomes our error, with the file's name.

Parsers and readers check what they know of.  This is for what they do not: a damaged file must not end in a traceback.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meadow.machine.errors import MeadowError

SHOWN = 160
"""Characters of a foreign error's text."""


@contextmanager
def guard(file: Path, error: type[MeadowError], todo: str) -> Iterator[None]:
    """Raise `error` for whatever happens inside that is no error of meadow, no interrupt and no lack of memory."""
    try:
        yield
    except (MeadowError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except OSError as found:
        raise error(f"{found.filename or file}: {found.strerror or found}; {todo}") from found
    except BaseException as found:  # RecursionError and the panics of libraries in Rust too
        last = traceback.extract_tb(found.__traceback__)[-1]
        text = (str(found).splitlines() or [""])[0][:SHOWN]
        raise error(
            f"{file} is damaged, or not what it says it is ({type(found).__name__} in {Path(last.filename).name}: {text}); {todo}"
        ) from found
