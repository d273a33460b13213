# SPDX-License-Identifier: Apache-2.0
"""A process that reads inputs one after the other and says how each ended.  It may hang or die: run.py watches it.

Lines in: kind, turn, folder.  Lines out: JSON with "end" (ok, refused, traceback, outside), "text" and "peak" (MB).
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import resource
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

CODES = {0: "ok", 2: "refused", 3: "refused", 4: "refused", 5: "refused", 6: "tool missing", 7: "refused"}
ONE, TWO = (
    ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.utime", "os.setxattr"),
    ("os.rename", "os.symlink", "os.link"),
)
"""Audit events that write at their first argument, and at both."""
IGNORED = ("/dev/null", "/dev/pts/", "/proc/self/")


class Watch:
    """Every file that Python writes, makes or removes: one outside the folders that are allowed is told.  What libraries and other
    processes write is looked for by run.py, in a folder that nobody may touch."""

    def __init__(self, *allowed: Path):
        self.allowed = [os.path.realpath(folder) for folder in allowed]
        self.outside: list[str] = []
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (
                mode is None and isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            )
            places = [(path, -1)] if writes else []
        elif event in ONE:
            places = [
                (arguments[0], arguments[-1] if event in ("os.mkdir", "os.remove", "os.rmdir", "os.chmod") else -1)
            ]
        elif event in TWO:
            source = [] if event != "os.rename" else [(arguments[0], arguments[2])]
            places = [*source, (arguments[1], arguments[-1])]
        else:
            return
        for path, beside in places:
            self._look(event, path, beside)

    def _look(self, event: str, path: Any, beside: Any) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        base = f"/proc/self/fd/{beside}" if isinstance(beside, int) and beside >= 0 else ""
        where = os.path.realpath(os.path.join(base, os.fsdecode(path)))  # noqa: PTH118
        inside = any(where == folder or where.startswith(folder.rstrip("/") + "/") for folder in self.allowed)
        if not inside and not where.startswith(IGNORED):
            self.outside.append(f"{event} {where}")


def meadowc(*arguments: object) -> str:
    """The command in this process.  Raises what is no error of meadow's own."""
    from meadow.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main([str(a) for a in arguments])
        except SystemExit as end:
            code = end.code
    said = out.getvalue() + err.getvalue()
    if "Traceback (most recent call last)" in said:
        raise RuntimeError(said[-2000:])
    if "\x1b[" in said.replace("\x1b[0m", "") and "\x1b[2J" in said:
        raise RuntimeError("an escape of a hostile file reached the terminal")
    if code == 1:
        raise RuntimeError(f"a fault: {said[-1000:]}")
    if not isinstance(code, int) or code not in CODES:
        raise RuntimeError(f"exit code {code}: {said[-500:]}")
    if code and len(said.strip()) < 15:
        raise RuntimeError(f"exit code {code} without a sentence: {said[-500:]}")
    return CODES[code]


def tidy() -> None:
    """Give back what main() froze: it is made for one command per process."""
    gc.unfreeze()
    gc.collect()


def peak() -> int:
    """The most memory since the last time it was asked, in MB."""
    status = Path("/proc/self/status").read_text()
    found = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    children = resource.getrusage(
        resource.RUSAGE_CHILDREN
    ).ru_maxrss  # of those that have ended; compilers are among them
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return max(int(found.split()[1]), children) // 1024


def main() -> None:
    seeds, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")
    os.environ["MPLCONFIGDIR"] = str(scratch / "cache")
    os.environ["COLUMNS"] = "100"
    from fuzz.inputs import KINDS

    answer = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print
    os.dup2(1, 2)
    watch = Watch(scratch, Path(tempfile.gettempdir()))
    for line in sys.stdin:
        kind, turn, folder = line.rstrip("\n").split("\t")
        watch.outside.clear()
        try:
            end, text = KINDS[kind][2](meadowc, seeds, Path(folder), int(turn)), ""
        except BaseException:
            end, text = "traceback", traceback.format_exc()[-3000:]
        tidy()
        if watch.outside:
            end, text = "outside", "\n".join(watch.outside)
        answer.write(json.dumps({"end": end, "text": text, "peak": peak()}) + "\n")
        answer.flush()


if __name__ == "__main__":
    main()
