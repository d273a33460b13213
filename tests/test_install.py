# SPDX-License-Identifier: Apache-2.0
"""What a board installs: numpy and this package alone run a compiled model, to the same bits."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from meadow.runtime import Session

ROOT = Path(__file__).parents[1]
SCRIPT = """
import sys
import meadow.runtime
session = meadow.runtime.Session(sys.argv[1])
list(session.generate([1, 8, 15, 22], 6))
print(session.device.name, session.digest)
import numpy
heavy = [name for name in ("onnx", "onnxruntime", "torch", "jinja2", "click", "pynq", "matplotlib") if name in sys.modules]
assert not heavy, heavy
print(numpy.__version__)
"""


def test_numpy_alone_runs_a_package(tiny_package: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in (
        "api",
        "boards",
        "cli",
        "compiler",
        "evidence",
        "hls",
        "machine",
        "rtl",
        "runtime",
        "serve",
        "toolchain",
    ):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", str(source)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = subprocess.run(
        [python, "-c", SCRIPT, tiny_package], capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr[-2000:]
    with Session(tiny_package) as session:
        list(session.generate([1, 8, 15, 22], 6))
        assert found.stdout.split()[:2] == ["emulator", session.digest]
    command = subprocess.run(
        [python.with_name("meadowc"), "run"], capture_output=True, text=True, check=False, timeout=60
    )
    assert "pip install 'meadow-fpga[cli]'" in command.stderr and "Traceback" not in command.stderr
    assert sys.version_info >= (3, 10)
