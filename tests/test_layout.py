# SPDX-License-Identifier: Apache-2.0
"""The house: which folder may import which, that every package ships, and that documents name what exists."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGES = ("boards", "cli", "compiler", "hls", "rtl", "runtime")
RUNTIME_MAY = {
    "errors",
    "extents",
    "guard",
    "program_check",
    "isa",
    "package",
    "layout",
    "types",
    "arithmetic",
    "unpack",
    "design",
    "schedule",
    "grouped",
    "pacq",
    "registers",
}
"""What a board has of the compiler: numpy and the standard library only."""
ONNX_MAY = {"onnx_file", "onnx_weight", "read", "read_layer", "onnx_piece", "llama", "quantize", "convert"}
SOURCES = [p for name in PACKAGES for p in sorted((ROOT / name).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_package_on_disk_is_in_the_distribution() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(("meadow", *p.parent.relative_to(ROOT).parts)) for p in SOURCES if p.name == "__init__.py"}
    assert set(listed) == found


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(ROOT / "runtime")], ids=lambda p: p.name)
def test_the_runtime_imports_no_more_of_the_compiler_than_a_board_has(path: Path) -> None:
    for name in imports(path):
        if name.startswith("meadow.compiler."):
            assert name.split(".")[2] in RUNTIME_MAY, name
        assert not name.startswith(("meadow.cli", "onnx", "gguf")), name


@pytest.mark.parametrize("name", sorted(RUNTIME_MAY))
def test_what_a_board_has_needs_numpy_alone(name: str) -> None:
    allowed = set(sys.stdlib_module_names) | {"numpy", "meadow"}
    for found in imports(ROOT / "compiler" / f"{name}.py"):
        assert found.split(".")[0] in allowed, found
        if found.startswith("meadow.compiler."):
            assert found.split(".")[2] in RUNTIME_MAY, found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_runtime_or_tests_but_the_command_line(path: Path) -> None:
    for name in imports(path):
        if not path.is_relative_to(ROOT / "runtime") and not path.is_relative_to(ROOT / "cli"):
            assert not name.startswith("meadow.runtime"), name
        assert not name.startswith("tests"), name
        if name.split(".")[0] == "onnx":
            assert path.stem in ONNX_MAY, f"{path.name} imports onnx"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_one_file_imports_pynq(path: Path) -> None:
    wants = any(name.split(".")[0] in ("pynq", "pynqmetadata") for name in imports(path))
    assert wants == (path == ROOT / "runtime" / "zynq.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_every_function_that_the_path_names_exists() -> None:
    text = (ROOT / "docs" / "path.md").read_text()
    named = re.findall(r"`([a-z_]+/[a-z_/]+\.py):([A-Za-z_.]+)`", text)
    assert len(named) > 15
    for file, function in named:
        target = importlib.import_module("meadow." + file.removesuffix(".py").replace("/", "."))
        for part in function.split("."):
            target = getattr(target, part)
    for file, function in re.findall(r"`(hls/[a-z_]+\.hpp):([a-z_]+)`", text):
        assert re.search(rf"\b{function}\(", (ROOT / file).read_text()), f"{file}:{function}"


def test_no_two_modules_of_numpy_exact_code_disagree_with_the_cpp_constants(tiny_package: Path) -> None:
    from meadow.compiler import arithmetic as ar
    from meadow.compiler import unpack

    text = "".join((ROOT / "hls" / f).read_text() for f in ("arithmetic.hpp", "weights.hpp"))
    assert f"kNormBits = {ar.NORM_BITS};" in text and f"kModeBits = {unpack.MODE_BITS};" in text
    assert f"kNormLowest = {ar.NORM_EXPONENTS[0]};" in text and f"kNormHighest = {ar.NORM_EXPONENTS[1]};" in text
    assert float(ar.QUIET).hex() == "0x1.0000000000000p-100" and "kQuiet = 0x1p-100f" in text
    config = (tiny_package / "hls" / "config.hpp").read_text()
    assert ", ".join(str(v) for v in ar.exp2_table()[:16]) in config
