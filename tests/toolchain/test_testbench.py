# SPDX-License-Identifier: Apache-2.0
"""The C test bench that a package brings for csim and cosim: passes under g++, and fails where a byte differs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from meadow import boards
from meadow.compiler.pipeline import Options, compile_model

pytestmark = pytest.mark.csim


@pytest.fixture(scope="module")
def grouped(tiny_int4: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "tiny-int4"
    compile_model(tiny_int4, boards.load("kv260"), folder, Options(settings=(("block", 16),)))
    return folder


def run(package: Path, work: Path) -> subprocess.CompletedProcess[str]:
    program = work / "testbench"
    subprocess.run(
        [
            "g++",
            "-std=c++17",
            "-O1",
            "-ffp-contract=off",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unknown-pragmas",
            "-Wno-unused-label",
            "-I../hls/sim",
            "-I../hls",
            "testbench.cpp",
            "../hls/top.cpp",
            "-o",
            program,
        ],
        cwd=package / "vitis",
        check=True,
        timeout=120,
    )
    return subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("which", ["tiny_package", "grouped"])
def test_it_passes_and_a_flipped_bit_of_the_golden_bytes_fails(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    shutil.copytree(request.getfixturevalue(which), package)
    done = run(package, tmp_path)
    assert done.returncode == 0 and "PASSED: 3 regions" in done.stdout
    depth = re.search(r"kDepth = (\d+)", (package / "vitis" / "testbench.cpp").read_text())
    depths = set(re.findall(r"mode=m_axi .*depth=(\d+)", (package / "hls" / "top.cpp").read_text()))
    assert depth and depths == {depth[1]}  # cosim copies what is there, and no more
    bench = package / "vitis" / "testbench.cpp"
    text = bench.read_text()
    wanted = re.search(r"kGolden2\[\] = \{\n\s*(\d+)", text)
    assert wanted
    bench.write_text(text[: wanted.start(1)] + str(int(wanted[1]) ^ 1) + text[wanted.end(1) :])
    done = run(package, tmp_path)
    assert done.returncode == 1 and done.stdout.startswith("FAILED: byte 0 of the")
