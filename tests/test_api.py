# SPDX-License-Identifier: Apache-2.0
"""The names for Python: a model becomes a package and a session in three lines, and each shows itself in a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

import meadow
from meadow.machine import distribution
from meadow.machine.errors import UsageError


def test_a_model_is_compiled_and_run_from_python(tiny_int8: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    package = meadow.compile(
        tiny_int8, "zcu102", tmp_path / "tiny", progress=lambda stage, what: stages.append(stage), context=128, block=16
    )
    assert stages[0] == "read" and stages[-1] == "save" and package.summary["design"]["context"] == 128
    assert "tokens/s at context" in str(package) and "(modelled)" in package._repr_html_()
    with meadow.Session(package) as session:
        assert session.context == 128 and session.answer([1, 2, 3], 4).read() is not None
        assert "tokens/s, measured here" in session.stats._repr_html_()
        assert "<th" in session.selftest()._repr_html_() and "FAILED" not in session.selftest()._repr_html_()
        assert "same bits" in session.compare(layers=2)._repr_html_()


def test_weights_are_rounded_first_when_they_are_to_be(tiny: Path, tmp_path: Path) -> None:
    package = meadow.compile(tiny, "kv260", tmp_path / "tiny", quantize="int8")
    assert (tmp_path / "tiny-int8" / "model.onnx").is_file() and package.summary["board"] == "kv260"


def test_what_cannot_be_is_an_error_of_meadow(tiny_int8: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="board 'zcu999' is not known"):
        meadow.compile(tiny_int8, "zcu999", tmp_path / "x")
    with pytest.raises(UsageError, match="contxt"):
        meadow.compile(tiny_int8, "zcu102", tmp_path / "x", contxt=3)
    assert meadow.__version__ == distribution.version() and {"Session", "compile", "export"} <= set(dir(meadow))
