# SPDX-License-Identifier: Apache-2.0
"""Run what the README says, with a meadowc from anywhere: `python readme.py BIN FOLDER [--tiny MODEL.gguf]`.

BIN is the folder with the interpreter and meadowc of an environment in which the wheel was installed.  With --tiny a small model takes
the place of the one that the registry has.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEVER = {
    "--compare": "compares a bitstream, which Vitis and Vivado make",
    "--tasks": "needs lm-evaluation-harness (make harness)",
}
"""What the README shows and this does not run, and why."""


def commands(text: str) -> list[str]:
    """The lines of meadowc in the README's blocks before the ladder, and the Python, in their order."""
    text = text.partition("\n## The ladder")[0]
    found: list[str] = []
    for block in re.finditer(r"^```python\n(.*?)^```|^    (meadowc [^\n]*)$", text, re.M | re.S):
        found.append(f"python\n{block[1]}" if block[1] else block[2].partition("   #")[0].strip())
    return found


def run(binaries: Path, folder: Path, tiny: Path | None) -> list[tuple[str, float]]:
    """Run them; each with its seconds.  Raises AssertionError with what was said when one fails."""
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(folder / "cache")}
    rows = []
    for command in commands((ROOT / "README.md").read_text()):
        if any(word in command for word in NEVER):
            continue
        if tiny is not None:
            if "fetch" in command:
                continue
            command = re.sub(r"~/\S*\.gguf", str(tiny), command)
            if command.startswith("meadowc compile models/smollm2 "):  # whose own weights have four bits
                command += " --quantize int4"
        command = command.replace("~/.cache", f"{folder}/cache")
        began = time.monotonic()
        if command.startswith("python\n"):
            words = [str(binaries / "python"), "-c", command.removeprefix("python\n")]
        else:
            words = [str(binaries / "meadowc"), *shlex.split(command)[1:]]
        if "serve" in words[1:2]:
            _serve([*words, "--port", "0"], folder, environment)
        else:
            done = subprocess.run(
                words,
                cwd=folder,
                env=environment,
                input="Hello\n",
                capture_output=True,
                text=True,
                check=False,
                timeout=1800,
            )
            assert done.returncode == (4 if "--inject" in command else 0), (  # 4: the fault was found
                f"{command}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
            )
        if tiny is not None and "convert" in command:  # it has no chat template, and chat needs one
            (folder / "models" / "smollm2" / "chat_template.jinja").write_text(
                "{% for m in messages %}{{ m.content }} {% endfor %}"
            )
        rows.append((command.splitlines()[0], time.monotonic() - began))
        print(f"{rows[-1][1]:6.1f} s  {rows[-1][0]}", file=sys.stderr, flush=True)
    return rows


def _serve(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    process = subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http" in line)
        found = re.search(r"http://\S+?:\d+", line)
        assert found, line
        with urllib.request.urlopen(f"{found[0]}/health", timeout=60) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)
    finally:
        process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binaries", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    rows = run(options.binaries.resolve(), options.folder.resolve(), options.tiny)
    print(f"{len(rows)} commands of the README, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
