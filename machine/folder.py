# SPDX-License-Identifier: Apache-2.0
"""Folders written beside and swapped in one step, so that nobody ever sees half of one, and nothing is replaced that meadow did not make.

Each folder that meadow writes holds MARKER: its kind, its files, and the sha256 of a model's.  Knows nothing else of what is written.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from meadow.machine.errors import ResourceExceeded, UsageError
from meadow.machine.package.read import sha256

MARKER = ".meadow"
MARKER_LIMIT = 4 << 20
WORK = ".meadow-work"
"""In a folder that is being written: it may be swept when its process is gone."""
KINDS = {
    "model": (),
    "package": (
        "overlay",
        "overlay-*",
        "work",
        "work-*",
        "report/index.html",
        "report/results.json",
        "report/trace.json",
        "report/.*.new",
    ),  # save.py keeps them
}
"""Of folders, with what other commands of meadow write into them: patterns of paths, or of their first part."""
SHOWN = 5
EXCHANGE = 2
"""RENAME_EXCHANGE of renameat2(2)."""


def refuse_target(target: Path, kind: str, sources: tuple[Path, ...]) -> Path:
    """The real folder behind `target` (a link stays one); raises UsageError when replacing it would delete something that is not
    meadow's to delete.

    kind     of KINDS
    sources  what the command reads: it must not lie in the folder
    """
    if not target.name or target.name in (".", ".."):
        raise UsageError("the output folder has no name; give one, such as -o build/model")
    try:
        real = target.resolve()
        real.stat()
    except FileNotFoundError:
        pass
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        if isinstance(error, OSError) and error.errno != errno.ELOOP:
            raise UsageError(f"{target} cannot be used: {error.strerror}; choose another name") from None
        raise UsageError(f"{target} is a link that leads to itself; choose another name") from None
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
    if real.is_dir() and any(real.iterdir()):
        _refuse_others(target, real, kind)
    return real


def _refuse_others(target: Path, folder: Path, kind: str) -> None:
    """Raise UsageError for a folder of another kind, and for what in it meadow does not know."""
    found = read_marker(folder)
    if found is None:
        raise UsageError(
            f"{target} exists, is not empty and has no {MARKER}: it was not made by this command, so it is not replaced. "
            "Choose another name, or remove it yourself"
        )
    made, files = found
    if made != kind:
        raise UsageError(
            f"{target} holds a {made}, and this command makes a {kind}; choose another name, or remove it yourself"
        )
    unknown, edited = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name == MARKER or (path.is_dir() and not path.is_symlink()):
            continue
        if any(fnmatch(name, pattern) or fnmatch(name.partition("/")[0], pattern) for pattern in KINDS[kind]):
            continue
        if name not in files or path.is_symlink():
            unknown.append(name)
        elif kind == "model" and sha256(path) != files[name]:
            edited.append(name)
    for names, what in ((unknown, "which meadow did not make"), (edited, "which changed since meadow made it")):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise UsageError(
                f"{target} holds {', '.join(names[:SHOWN])}{more}, {what}: it is not replaced. "
                "Move these files, or choose another name"
            )


def read_marker(folder: Path) -> tuple[str, dict[str, str]] | None:
    """(kind, sha256 of each file by name) of a folder that meadow made; None for any other."""
    path = folder / MARKER
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MARKER_LIMIT:
            return None
        found = json.loads(path.read_text())
        kind, files = found["kind"], found["files"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(files, dict):
        return None
    return kind, files


def write_marker(folder: Path, kind: str) -> None:
    """Note every file of a folder that is whole, and the sha256 of a model's: people edit them.  A package has digests of its own."""
    files = {
        p.relative_to(folder).as_posix(): sha256(p) if kind == "model" else ""
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != WORK
    }
    (folder / MARKER).write_text(json.dumps({"kind": kind, "files": files}, indent=1) + "\n")


@contextmanager
def beside(target: Path, kind: str, sources: tuple[Path, ...] = ()) -> Iterator[Path]:
    """A fresh folder next to `target` that takes its place when the block ends well, and vanishes otherwise.

    An existing `target` is replaced as a whole, in one step, only after the new one is complete, and only if refuse_target agrees.
    """
    real = refuse_target(target, kind, sources)
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        _sweep(real)
        work, lock = _locked(real)
    except OSError as error:
        raise UsageError(f"cannot write beside {target}: {error.strerror or error}") from None
    try:
        yield work
        write_marker(work, kind)
        work.chmod(0o755)
        if real.is_dir() and any(real.iterdir()):
            _refuse_others(target, real, kind)  # once more: somebody may have worked there meanwhile
        (work / WORK).unlink()
        _swap(work, real)
    except OSError as error:
        reason = error.strerror or str(error)
        kind_of_error = ResourceExceeded if error.errno in (errno.ENOSPC, errno.EDQUOT) else UsageError
        kept = "what was there before is untouched" if real.exists() else "nothing was kept"
        raise kind_of_error(f"writing {target} failed and {kept}: {reason}") from error
    finally:
        _remove(work)
        os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder so that one who is killed on the way leaves what is known as a left-over."""
    with contextlib.suppress(OSError):
        (folder / WORK).touch()
        for path in folder.iterdir():
            if path.name == WORK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        (folder / WORK).unlink()
        folder.rmdir()


def _prefix(real: Path) -> str:
    return f".{real.name}.meadow-"


def _locked(real: Path) -> tuple[Path, int]:
    """A new folder beside `real`, and the descriptor by which it is locked as long as this process lives."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=_prefix(real), dir=real.parent))
        lock = os.open(work, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            (work / WORK).touch()
            if work.stat().st_ino == os.fstat(lock).st_ino:  # nobody swept it before it was locked
                return work, lock
        os.close(lock)


def _sweep(real: Path) -> None:
    """Remove what killed processes left beside `real`, and put back what one of them had moved away."""
    for left in sorted(p for p in real.parent.iterdir() if p.name.startswith(_prefix(real))):
        with contextlib.suppress(OSError):
            ours = (left / WORK).is_file() or read_marker(left) is not None or not any(left.iterdir())
            if left.is_symlink() or not ours:
                continue  # a user's own, whatever it is called
            lock = os.open(left, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by whoever still writes there
                if (left / "old").is_dir() and not real.exists():
                    (left / "old").rename(real)
                _remove(left)
            finally:
                os.close(lock)


def _swap(work: Path, real: Path) -> None:
    """`work` takes the name of `real`; what was there is in `work` afterwards, or nowhere."""
    if not real.exists():
        work.rename(real)
        return
    if exchange(work, real):
        return
    # No file system call does both: between the two renames a kill leaves `old`, which the next command puts back.
    away, lock = _locked(real)
    try:
        real.rename(away / "old")
        try:
            work.rename(real)
        except BaseException:
            (away / "old").rename(real)
            raise
    finally:
        _remove(away)
        os.close(lock)


def exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step (renameat2); False where the system or the file system cannot.  Raises OSError."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here = -100  # AT_FDCWD
    if call(here, os.fsencode(a), here, os.fsencode(b), EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), str(b))


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file beside and put it in its place in one step; no link on the way is followed.  Raises OSError."""
    with tempfile.NamedTemporaryFile(
        "wb", dir=path.parent, prefix=f".{path.name}.", suffix=".new", delete=False
    ) as file:
        made = Path(file.name)
        try:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            made.chmod(0o666 & ~_umask())
            made.replace(path)
        except BaseException:
            made.unlink(missing_ok=True)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
