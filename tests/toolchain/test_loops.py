# SPDX-License-Identifier: Apache-2.0
"""Every pipelined loop of the C++ stands in the table of times; what csynth reports of it is set beside, and each difference has words."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from meadow.machine.design import Design
from meadow.machine.facts import LOOPS as COUNTED
from meadow.machine.package.read import load
from meadow.machine.timing import BUS_LATENCY, PIPELINED, options, stages
from meadow.toolchain import loops, reports

HLS = Path(__file__).parents[2] / "hls"
REPORT = Path(__file__).parent / "reports" / "csynth-loops-2025.2.xml"
LABEL = re.compile(r"^ *([A-Z]\w*):$")
PIPELINE = re.compile(r"#pragma HLS PIPELINE(?: II=(\d+))?")


def pipelined() -> Counter[tuple[str, int]]:
    """(label, II) of every pipelined loop of the C++; a loop without a label is ("", II)."""
    found: Counter[tuple[str, int]] = Counter()
    for path in sorted([*HLS.glob("*.hpp"), *HLS.glob("*.j2")]):
        label, age = "", 0
        for line in path.read_text().splitlines():
            named, pragma = LABEL.match(line), PIPELINE.search(line)
            label, age = (named[1], 0) if named else (label, age + 1)
            if pragma:
                found[label if age <= 3 else "", int(pragma[1] or 0)] += 1
    return found


def test_every_pipelined_loop_has_a_label_of_its_own_and_its_interval_in_the_table() -> None:
    found = pipelined()
    assert found == Counter({(label, loop.interval): 1 for label, loop in PIPELINED.items()})
    assert {loop.stage for loop in PIPELINED.values()} | {"pacq", "columns"} == {"", *COUNTED}


@pytest.fixture
def design(tiny_package: Path) -> Design:
    return load(tiny_package).design


def test_a_stage_is_priced_as_the_deepest_of_its_loops(design: Design) -> None:
    made, chosen = stages(design), options(design)
    for label, loop in PIPELINED.items():
        if loop.stage:
            assert made[loop.stage].depth >= loop.depth(chosen) + BUS_LATENCY * loop.bus, label
    assert made["epilogue"].depth == max(loop.depth(chosen) for loop in PIPELINED.values() if loop.stage == "epilogue")


def test_a_report_is_set_beside_the_table_loop_by_loop(design: Design) -> None:
    found = loops.read([REPORT], reports.profile)
    rows = {row.loop: row for row in loops.beside(design, found)}
    assert set(rows) == {"Multiply", "LoadRows", "Max", "Squares"}
    assert rows["Multiply"].difference == ""
    assert (
        rows["LoadRows"].found_depth == 72
        and rows["LoadRows"].difference == "no burst: each iteration makes its own request"
    )
    assert rows["Max"].difference == "II 2 where 1 is asked for: 2 times the time"
    assert rows["Squares"].difference.startswith("not pipelined")
    assert loops.strangers(found) == [
        "VITIS_LOOP_189_1 is a loop without a label: what should have been unrolled was not"
    ]
    assert "FinishRows" in loops.missing(found) and "Multiply" not in loops.missing(found)


def test_the_cost_model_takes_the_loops_of_a_report(design: Design) -> None:
    rows = loops.beside(design, loops.read([REPORT], reports.profile))
    made, before = loops.calibrated(design, rows), stages(design)
    assert made["softmax"] == (2, 7) and made["norm"].interval == 14 and made["load"] == (1, 72 + BUS_LATENCY)
    assert made["epilogue"] == before["epilogue"]
