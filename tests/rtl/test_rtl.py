# SPDX-License-Identifier: Apache-2.0
"""The Verilog under cocotb and Icarus.  `make rtl` runs these alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from rtl.simulator import RTL, run_shape, run_test, simulate

from meadow.compiler.emit.verilog import (
    ARRAY_SOURCES,
    COLUMN_SOURCES,
    MODELS,
    SOURCES,
    UNPACK_SOURCES,
    ColumnShape,
    Shape,
)
from meadow.evidence.ladder.verilated import verilator

pytestmark = pytest.mark.rtl
PREFIX = list(UNPACK_SOURCES)


def test_the_prefix_decoder_gives_the_weights_back_at_the_rate_of_the_bus(tmp_path: Path) -> None:
    simulate("prefix_unpack", "bench_prefix_unpack", tmp_path, PREFIX)


def test_the_prefix_decoder_gives_a_compiled_model_back(
    tiny_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rung 4: the same weights as the emulator and the C simulation.  MEADOW_PACKAGE takes another package."""
    package = Path(os.environ.get("MEADOW_PACKAGE", tiny_package)).resolve()
    monkeypatch.setenv("MEADOW_PACKAGE", str(package))  # the simulator runs in another folder
    simulate("prefix_unpack", "bench_prefix_model", tmp_path, PREFIX)


def test_the_fabric_tells_every_number_of_its_design(tiny_package: Path, tmp_path: Path) -> None:
    shutil.copyfile(tiny_package / "rtl" / "meadow_identity.v", tmp_path / "meadow_identity.v")
    assert (
        run_test(
            "meadow_identity",
            "bench_identity",
            tmp_path,
            ["meadow_identity.v"],
            folder=tmp_path,
            environment={"MEADOW_PACKAGE": str(tiny_package)},
        )
        == 0
    )
    command, environment = verilator()
    done = subprocess.run(
        [command, "--lint-only", "-Wall", "-Wno-UNUSEDSIGNAL", "meadow_identity.v"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "%" not in done.stderr, done.stderr


DOT = ["dsp_slice.v", "pacq_align.v", "pacq_lane.v", "pacq_mac.v", "pacq_dot.v"]


def test_every_fp16_value_times_every_code_is_exact(tmp_path: Path) -> None:
    simulate("pacq_mac", "bench_pacq_mac", tmp_path, DOT[:4], {"LANES": 16, "FIRST": 0, "LAST": 1})


def test_the_dot_product_unit_sums_groups_exactly(tmp_path: Path) -> None:
    simulate("pacq_dot", "bench_pacq_dot", tmp_path, DOT, {"LANES": 8})


@pytest.mark.parametrize("unit", ["float_add", "float_multiply", "fixed_to_float", "half_to_float"])
def test_the_float_units_round_as_numpy_does(unit: str, tmp_path: Path) -> None:
    simulate(unit, "bench_floats", tmp_path, ["dsp_slice.v", f"{unit}.v"])


GRIDS = {
    "both formats": {"ROWS": 5, "PAIRS": 3, "FLOATS": 1, "HIGH": 36, "BLOCK_ROWS": 2, "BLOCK_PAIRS": 2},
    "codes alone": {"ROWS": 4, "PAIRS": 5, "FLOATS": 0, "HIGH": 32, "BLOCK_ROWS": 4, "BLOCK_PAIRS": 4},
    "one of each": {"ROWS": 1, "PAIRS": 1, "FLOATS": 1, "HIGH": 36, "BLOCK_ROWS": 4, "BLOCK_PAIRS": 4},
}


@pytest.mark.parametrize("name", GRIDS)
def test_the_array_multiplies_exactly_in_every_mode(name: str, tmp_path: Path) -> None:
    environment = {f"MEADOW_{key}": str(value) for key, value in GRIDS[name].items()}
    simulate("array_grid", "bench_array", tmp_path, list(ARRAY_SOURCES), GRIDS[name], environment)


SHAPES = {
    "four ports": Shape(),
    "two ports, two tokens at once": Shape(ports=2, token_lanes=2),
    "one port, INT2, four tokens at once": Shape(ports=1, lanes=8, token_lanes=4, max_tokens=16, activation_words=128),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_fp_int_engine_computes_what_numpy_does(name: str, tmp_path: Path) -> None:
    assert run_shape(SHAPES[name], tmp_path) == 0


COLUMNS = {
    "four ports": ColumnShape(max_words=32),
    "two ports, five tokens": ColumnShape(ports=2, tokens=5, max_words=32),
    "one port, one token": ColumnShape(ports=1, tokens=1, max_words=16),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_the_column_engine_computes_what_integers_do(name: str, tmp_path: Path) -> None:
    assert run_shape(COLUMNS[name], tmp_path) == 0


LINTED = {
    "prefix_unpack": (PREFIX, [{}]),
    "array_grid": (list(ARRAY_SOURCES), list(GRIDS.values())),
    "column_gemm": (
        list(COLUMN_SOURCES),
        [{**vars(shape), "stripe": 256} for shape in (*COLUMNS.values(), ColumnShape(tokens=32, fifo_beats=4096))],
    ),
    "pacq_gemv": (
        list(SOURCES),
        [vars(shape) for shape in SHAPES.values()] + [vars(Shape(fifo_beats=4096, activation_words=16384))],
    ),
}


@pytest.mark.parametrize("top", LINTED)
def test_verilator_has_nothing_to_say_about_the_verilog(top: str) -> None:
    command, environment = verilator()
    files, parameters = LINTED[top]
    for some in parameters:  # type: ignore[attr-defined]
        values = [f"-G{name.upper()}={value}" for name, value in some.items()]
        done = subprocess.run(
            [command, "--lint-only", "-Wall", "--top-module", top, *values, "lint.vlt", *files, *MODELS],
            cwd=RTL,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and "%" not in done.stderr, done.stderr


def test_the_conventional_dot_product_errs_as_fp32_sums_do(tmp_path: Path) -> None:
    shutil.copytree(RTL, tmp_path / "rtl")
    for name in ("baseline_product.v", "baseline_mac.v", "baseline_dot.v"):
        shutil.copyfile(RTL.parent / "tests" / "rtl" / name, tmp_path / "rtl" / name)
    (tmp_path / "rtl" / "sim").mkdir(exist_ok=True)
    files = ["float_add.v", "baseline_product.v", "baseline_mac.v", "baseline_dot.v"]
    assert run_test("baseline_dot", "bench_baseline", tmp_path / "work", files, folder=tmp_path / "rtl") == 0
