# SPDX-License-Identifier: Apache-2.0
"""Fixtures: the tiny model on its way from GGUF to a package, and golden text."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from meadow import boards
from meadow.cli import results
from meadow.cli.main import main
from meadow.compiler.models import convert, quantize
from meadow.compiler.pipeline import Options, compile_model

TINY = Options(packing="prefix", settings=(("block", 64), ("token_lanes", 8), ("tile_rows", 128)), name="tiny")
FIXTURES = Path(__file__).parent / "fixtures"
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what is said now as what shall be said")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "csim" in item.keywords and shutil.which("g++") is None:
            item.add_marker(pytest.mark.skip(reason="g++ is not installed"))
        if "real" in item.keywords and not Path("models/smollm2/model.onnx").is_file():
            item.add_marker(pytest.mark.skip(reason="needs the real model: make models"))


class Golden:
    """`golden.check(text)` compares with tests/golden/<file>/<test>.txt, or writes it with --update-golden."""

    def __init__(self, path: Path, update: bool):
        self.path = path
        self.update = update

    def check(self, text: str, suffix: str = "") -> None:
        path = self.path.with_name(self.path.name + suffix + ".txt")
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.is_file(), f"{path} is missing: run pytest --update-golden and read what it wrote"
        assert text == path.read_text()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    name = request.node.name.replace("/", "-")
    folder = Path(__file__).parent / "golden" / Path(str(request.node.path)).stem
    return Golden(folder / name, bool(request.config.getoption("--update-golden")))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as `convert` writes it."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    convert(FIXTURES / "tiny.gguf", folder)
    return folder


@pytest.fixture(scope="session")
def tiny_int8(tiny: Path) -> Path:
    """The tiny model with INT8 weights per channel."""
    folder = tiny.parent / "tiny-int8"
    quantize(tiny, folder, "channel")
    return folder


@pytest.fixture(scope="session")
def tiny_tensor(tiny: Path) -> Path:
    """The tiny model with INT8 weights per tensor, whose weights pack."""
    folder = tiny.parent / "tiny-tensor"
    quantize(tiny, folder, "tensor")
    return folder


@pytest.fixture(scope="session")
def tiny_int4(tiny: Path) -> Path:
    """The tiny model with INT4 linears in groups of 32 and a head of 8 bits."""
    folder = tiny.parent / "tiny-int4"
    quantize(tiny, folder, weights="int4")
    return folder


@pytest.fixture(scope="session")
def tiny_package(tiny_int8: Path) -> Path:
    """The tiny model compiled for the ZCU102, with numbers that tests refer to and every weight in prefix codes."""
    folder = tiny_int8.parent / "build" / "tiny"
    compile_model(tiny_int8, boards.load("zcu102"), folder, TINY)
    return folder


@pytest.fixture(scope="session")
def tiny_columns(tiny_int8: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its weights column by column."""
    folder = tmp_path_factory.mktemp("columns") / "tiny"
    settings = (("column_ports", 4), ("column_tokens", 8), ("block", 8))
    compile_model(tiny_int8, boards.load("zcu102"), folder, Options(settings=settings))
    return folder


@pytest.fixture(autouse=True)
def results_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that tests share stays as it was compiled, whichever test runs a benchmark on it."""
    monkeypatch.setattr(results, "keep", lambda package, rows: None)


TALK = "{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}\n{% endfor %}[a]"
"""A chat template of few tokens."""


@pytest.fixture(scope="session")
def talkative(tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny package with a chat template, which is not among the files that are verified."""
    copy = tmp_path_factory.mktemp("talkative") / "tiny"
    shutil.copytree(tiny_package, copy)
    (copy / "tokenizer" / "chat_template.jinja").write_text(TALK)
    return copy


class Result:
    """What a command printed and the code it ended with."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def meadowc(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Result(int(end.value.code or 0), out, err)

    return run
