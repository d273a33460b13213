# SPDX-License-Identifier: Apache-2.0
"""Throw damaged inputs at meadow: `python -m fuzz.run --inputs 20000`.  The corpus comes first: every input that ever failed.

Input n is made from the seed and n alone.  A failure is kept in build/fuzz, with what it said; `--keep FOLDER` adds it to the corpus.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.inputs import KINDS, seeds

CORPUS = Path(__file__).parent / "corpus.tar.xz"
FAILED = Path(__file__).parents[2] / "build" / "fuzz"
HANG_SECONDS = 20.0
MOST_MB = 2000
CANARY = "as it was"
ENDS = ("traceback", "hang", "death", "outside", "memory")


@dataclass
class Tally:
    """How the inputs ended."""

    ends: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    peak: int = 0
    slowest: tuple[float, str] = (0.0, "")
    failed: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, end: str, seconds: float, peak: int, name: str) -> None:
        with self.lock:
            self.ends[end] += 1
            self.kinds[f"{kind} {end}"] += 1
            self.peak = max(self.peak, peak)
            self.slowest = max(self.slowest, (seconds, name))
            if end in ENDS:
                self.failed.append(name)

    def __str__(self) -> str:
        count = sum(self.ends.values())
        rows = [f"  {name:<22} {n:>7,}" for name, n in sorted(self.kinds.items())]
        more = f"  {self.ends['outside']} writes outside, {self.ends['memory']} over {MOST_MB:,} MB (peak {self.peak:,} MB)"
        slow = f"  slowest {self.slowest[0]:.1f} s ({self.slowest[1]})"
        said = ", ".join(f"{self.ends[end]} {end}s" for end in ("traceback", "hang", "death"))
        return "\n".join([*rows, more, slow, f"{count} inputs, {said}"])


class Worker:
    """A process that reads inputs (worker.py); another takes its place when it hangs or dies."""

    def __init__(self, seeds: Path, scratch: Path):
        self.seeds, self.scratch = seeds, scratch
        self.process: subprocess.Popen[bytes] | None = None

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "fuzz.worker", str(self.seeds), str(self.scratch)]
        pipe = subprocess.PIPE
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.scratch)}
        return subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            start_new_session=True,
            cwd=Path(__file__).parents[1],
            env=environment,
            bufsize=0,
        )

    def read(self, kind: str, turn: int, folder: Path) -> dict[str, Any]:
        """How an input ended."""
        process = self.process = self.process or self._start()
        assert process.stdin is not None and process.stdout is not None
        ends, line = time.monotonic() + HANG_SECONDS + (20 if not self._warm() else 0), b""
        process.stdin.write(f"{kind}\t{turn}\t{folder}\n".encode())
        while not line.endswith(b"\n"):
            if not select.select([process.stdout], [], [], max(0.0, ends - time.monotonic()))[0]:
                self.close()
                return {"end": "hang", "text": f"no answer in {HANG_SECONDS:g} s", "peak": 0}
            piece = process.stdout.read(1 << 16)
            if not piece:
                code = process.wait()
                self.close()
                return {"end": "death", "text": f"the process ended with {code}", "peak": 0}
            line += piece
        found: dict[str, Any] = json.loads(line)
        self.warm = process.pid
        if found["peak"] > MOST_MB and found["end"] not in ENDS:
            found["end"] = "memory"
        return found

    warm = 0

    def _warm(self) -> bool:
        """Whether the process has answered: at first it imports and compiles."""
        return self.process is not None and self.warm == self.process.pid

    def close(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                pipe.close()
            self.process = None


def corpus(folder: Path) -> list[tuple[str, Path]]:
    """The inputs of the corpus, unpacked: (kind, folder)."""
    with tarfile.open(CORPUS) as archive:
        for entry in archive.getmembers():  # by hand: Python has a filter since 3.11.4
            target = (folder / entry.name).resolve()
            if not target.is_relative_to(folder.resolve()) or not (entry.isdir() or entry.isfile()):
                raise ValueError(f"{CORPUS} holds {entry.name}, which is no file of an input")
            archive.extract(entry, folder)
    return [(entry.name.partition("_")[0], entry) for entry in sorted(folder.iterdir())]


def keep(folders: list[Path]) -> None:
    """Add inputs that failed to the corpus."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "corpus"
        root.mkdir()
        if CORPUS.exists():
            corpus(root)
        for folder in folders:
            shutil.copytree(folder, root / folder.name, dirs_exist_ok=True)
        with tarfile.open(CORPUS, "w:xz", preset=9) as archive:
            for entry in sorted(root.rglob("*")):
                info = archive.gettarinfo(entry, str(entry.relative_to(root)))
                info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
                archive.addfile(info, entry.open("rb") if entry.is_file() else None)


def fuzz(inputs: int, seconds: float, seed: str, jobs: int = 2, only: str = "", root: Path | None = None) -> Tally:
    """Read the corpus and `inputs` new ones, or as many as `seconds` allow."""
    tally, until = Tally(), time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="meadow-fuzz-") as made:
        scratch = root or Path(made)
        (scratch / "canary").mkdir()
        (scratch / "canary" / "kept").write_text(CANARY)
        (scratch / "seeds").mkdir()
        seeds(scratch / "seeds")
        (scratch / "corpus").mkdir()
        old = [(kind, folder) for kind, folder in corpus(scratch / "corpus") if not only or kind == only]
        turns = iter([(n, *row) for n, row in enumerate(old)] + [(n, "", None) for n in range(inputs)])
        lock = threading.Lock()

        def work(number: int) -> None:
            home = scratch / f"worker{number}"
            home.mkdir()
            worker = Worker(scratch / "seeds", home)
            while time.monotonic() < until:
                with lock:
                    turn, kind, folder = next(turns, (-1, "", None))
                if turn < 0:
                    break
                _one(worker, home, scratch / "seeds", turn, kind or only, folder, seed, tally)
                with lock:
                    done = sum(tally.ends.values())
                    if done % 500 == 0:
                        print(f"{done:,} of {len(old) + inputs:,} inputs, {len(tally.failed)} failed", file=sys.stderr)
            worker.close()

        threads = [threading.Thread(target=work, args=(n,)) for n in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return tally


def _one(
    worker: Worker, home: Path, seeds_: Path, turn: int, kind: str, given: Path | None, seed: str, tally: Tally
) -> None:
    random_ = random.Random(f"{seed}/{turn}")
    kind = kind or random_.choices(list(KINDS), [row[0] for row in KINDS.values()])[0]
    folder = home / "input"
    folder.mkdir()
    if given is None:
        note = KINDS[kind][1](random_, seeds_, folder)
        name = f"{kind}_{seed}-{turn}"
    else:
        shutil.copytree(given, folder, dirs_exist_ok=True)
        note, name = "corpus", given.name
    began = time.monotonic()
    kept = {f.relative_to(folder) for f in folder.rglob("*") if f.is_file() and not f.is_symlink()}
    canary = home.parent / "canary"  # beside every input, nobody's to touch
    found = worker.read(kind, turn, folder)
    if sorted(p.name for p in canary.iterdir()) != ["kept"] or (canary / "kept").read_text() != CANARY:
        found = {"end": "outside", "text": "the canary was touched", "peak": found["peak"]}
    tally.add(kind, found["end"], time.monotonic() - began, found["peak"], name)
    if found["end"] in ENDS:
        tally.said.append(found["text"])
        target = FAILED / name
        for file in kept:
            if (folder / file).is_file():
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / file, target / file)
        why = f"{found['end']}\n{note}\n{found['text']}\n"
        (target / "WHY.txt").write_bytes(why.encode("utf-8", "backslashreplace"))
        print(
            f"{name}: {found['end']}: {found['text'].strip().splitlines()[-1][:200] if found['text'] else ''}",
            file=sys.stderr,
        )
    shutil.rmtree(folder, ignore_errors=True)
    for entry in home.iterdir():
        if entry.name not in ("cache", "input") and entry.is_dir() and not entry.name.startswith("pymp"):
            shutil.rmtree(entry, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=7200.0)
    parser.add_argument("--seed", default=time.strftime("%Y%m%d"), help="[default: the day]")
    parser.add_argument("--only", default="", choices=("", *KINDS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", nargs="+", type=Path, help="add these failures to the corpus, and end")
    options = parser.parse_args()
    if options.keep:
        keep(options.keep)
        return
    tally = fuzz(options.inputs, options.seconds, options.seed, options.jobs, options.only)
    print(f"seed {options.seed}\n{tally}")
    sys.exit(bool(tally.failed))


if __name__ == "__main__":
    main()
