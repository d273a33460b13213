# SPDX-License-Identifier: Apache-2.0
"""The house: which folder may import which, that every package ships, and that documents name what exists."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from meadow.machine.arithmetic import int8

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGES = (
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
    "speculate",
    "targets",
    "toolchain",
)
ARROWS = {
    "machine": (),
    "boards": ("machine",),
    "hls": (),
    "rtl": (),
    "compiler/graph": ("machine",),
    "compiler/price": ("machine",),
    "compiler/sources": ("machine", "compiler/graph"),
    "compiler/quantize": ("machine", "compiler/graph"),
    "compiler/prune": ("machine", "compiler/graph", "compiler/quantize"),
    "compiler/sparsify": ("machine", "compiler/graph", "compiler/quantize", "compiler/prune"),
    "compiler/engines": ("machine", "boards", "compiler/graph"),
    "compiler/program": ("machine", "boards", "compiler/engines", "compiler/graph", "compiler/price"),
    "compiler/size": ("machine", "boards", "compiler/engines", "compiler/graph", "compiler/price", "compiler/program"),
    "compiler/emit": ("machine", "boards", "compiler/engines", "compiler/graph", "compiler/program"),
    "compiler": (
        "machine",
        "boards",
        "compiler/graph",
        "compiler/sources",
        "compiler/quantize",
        "compiler/prune",
        "compiler/sparsify",
        "compiler/price",
        "compiler/engines",
        "compiler/program",
        "compiler/size",
        "compiler/emit",
    ),
    "speculate": ("machine",),
    "runtime": ("machine", "speculate"),
    "targets": ("machine", "compiler", "runtime", "speculate"),
    "serve": ("machine", "runtime", "speculate", "targets"),
    "evidence": ("machine", "boards", "compiler", "runtime", "serve", "speculate", "targets"),
    "toolchain": ("machine", "boards"),
    "cli": ("machine", "boards", "compiler", "runtime", "serve", "speculate", "targets", "evidence", "toolchain"),
    "api": ("machine", "boards", "compiler", "runtime", "cli"),  # cli: __main__.py alone
}
"""What the files of a folder may import of meadow besides their own folder.  A folder without a row of its own has its parent's."""
THIRD_PARTY = {
    "api": set(),
    "machine": {"numpy", "tomli"},
    "speculate": {"numpy"},
    "runtime": {"numpy", "pynq", "pynqmetadata", "tokenizers", "jinja2", "IPython", "rich", "matplotlib", "pyxrt"},
    "compiler/graph": {"numpy"},
    "compiler/price": {"numpy"},
    "compiler/engines": {"numpy"},
    "compiler/program": {"numpy"},
    "compiler/size": {"numpy"},
}
"""Libraries of folders that a board, or a small installation, must be able to load."""
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
    folders = {p.parent.relative_to(ROOT) for p in SOURCES if p.name == "__init__.py"}
    found = {".".join(("meadow", *folder.parts)).removesuffix(".api") for folder in folders}
    assert set(listed) == found


def room(path: str, table: Collection[str]) -> str:
    """The longest folder of `table` that holds `path`; "" for none."""
    held = [name for name in table if path == name or path.startswith(name + "/")]
    return max(held, key=len, default="")


def targets(path: Path) -> set[str]:
    """Paths of the modules of meadow that a file imports, without .py."""
    found = {name.removeprefix("meadow.").replace(".", "/") for name in imports(path) if name.startswith("meadow.")}
    own = {p.stem for p in (ROOT / "api").glob("*.py")}  # what is imported as meadow.NAME
    return {f"api/{name}" if name.split("/")[0] in own else name for name in found}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_its_folder_may(path: Path) -> None:
    own = room(path.relative_to(ROOT).as_posix(), ARROWS)
    for target in targets(path):
        found = room(target, ARROWS)
        allowed = found == own or found in ARROWS[own] or found.split("/")[0] in ARROWS[own]
        assert allowed, f"{path.relative_to(ROOT)} imports {target}: files in {own} may import {', '.join(ARROWS[own])}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_needs_only_the_libraries_of_its_folder(path: Path) -> None:
    own = room(path.relative_to(ROOT).as_posix(), THIRD_PARTY)
    names = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"meadow"}
    assert "tests" not in names
    assert not own or names <= THIRD_PARTY[own], f"{path.relative_to(ROOT)} imports {names - THIRD_PARTY[own]}"
    if "onnx" in names:
        assert path.is_relative_to(ROOT / "compiler" / "sources")


def test_no_folders_import_each_other_in_a_circle() -> None:
    """Rooms are the rows of ARROWS; the order of the rows is an order of the floors."""
    order = list(ARROWS)
    for name, allowed in ARROWS.items():
        assert all(order.index(other) < order.index(name) for other in allowed), name


def test_importing_the_compiler_loads_no_quantizer_and_no_tokenizer() -> None:
    code = "import sys, meadow.compiler.pipeline; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    loaded = set(done.stdout.split())
    assert not {"tokenizers", "gguf", "jinja2.sandbox", "onnxruntime"} & loaded
    assert not any(
        name.startswith(
            (
                "meadow.compiler.quantize",
                "meadow.compiler.prune",
                "meadow.compiler.sparsify",
                "meadow.compiler.sources.gguf",
                "meadow.runtime",
            )
        )
        for name in loaded
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_driver_and_its_emulated_device_import_pynq(path: Path) -> None:
    wants = any(name.split(".")[0] in ("pynq", "pynqmetadata") for name in imports(path))
    assert wants == (path in (ROOT / "runtime" / "devices" / name for name in ("zynq.py", "emulated_pynq.py")))


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


def test_cpp_has_no_constant_of_its_own_that_python_has_too(tiny_package: Path) -> None:
    """What both share is printed: into config.hpp, isa.hpp and facts.hpp."""
    from meadow.machine import facts

    printed = (tiny_package / "hls" / "facts.hpp").read_text()
    for kind, name, _, _ in facts.CONSTANTS:
        assert re.search(rf"constexpr {kind} {name} = ", printed)
        for path in (*(ROOT / "hls").glob("*.hpp"), *(ROOT / "hls" / "sim").glob("*.hpp")):
            assert not re.search(rf"constexpr \w+ {name}\b", path.read_text()), f"{path.name} defines {name} again"
    config = (tiny_package / "hls" / "config.hpp").read_text()
    assert ", ".join(str(v) for v in int8.exp2_table()[:16]) in config


LONGEST_FILE, LONGEST_FUNCTION = 400, 60
"""Lines of a product file, and of a function with its signature and docstring."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short_enough_to_be_read_at_once(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno is not None}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FUNCTION} == {}


def test_no_line_is_kept_from_the_formatter() -> None:
    kept = ("fmt: " + "skip", "fmt: " + "off")
    assert [p for p in SOURCES if any(k in p.read_text() for k in kept)] == []
