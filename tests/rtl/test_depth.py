# SPDX-License-Identifier: Apache-2.0
"""The Verilog holds its clock, by static timing of a netlist; a path that grows is noticed."""

from __future__ import annotations

import pytest

pytest.importorskip("pyosys", reason="pyosys is not installed")

from meadow import boards
from meadow.evidence.bench.depth import OPTIMISTIC, Netlist, grade, limit, worst
from meadow.evidence.bench.designs import FEW, SMALL, gemv
from meadow.evidence.bench.rtl import Module, synthesize

pytestmark = pytest.mark.rtl
CHAIN = """module chain(input clk, input [31:0] a, output reg [31:0] y);
    reg [31:0] x;
    always @(posedge clk) begin x <= a; y <= {sum}; end
endmodule
"""


def test_pacq_gemv_holds_the_clock_of_the_zcu102() -> None:
    """Flat, with one port; `make depth` has the sizes that search picks."""
    found = synthesize(gemv(SMALL))
    board = boards.load("zcu102")
    assert found["worst_ns"] <= limit(board, board.pacq_clock_mhz), (found["from"], found["to"])


def test_column_gemm_holds_the_clock_of_the_zcu102() -> None:
    """With four ports and two groups of tokens."""
    found = synthesize(gemv(FEW))
    board = boards.load("zcu102")
    assert found["worst_ns"] <= limit(board, board.pacq_clock_mhz), (found["from"], found["to"])


def test_a_longer_path_is_a_slower_one() -> None:
    ns = {}
    for name, sum_ in (("one", "x + 32'd77"), ("chain", "((x + 32'd77) ^ (x << 3)) + (x >> 2) + 32'd5")):
        ns[name] = synthesize(Module("chain", ("chain.v",), texts={"chain.v": CHAIN.format(sum=sum_)}))["worst_ns"]
    assert 0.3 < ns["one"] < ns["chain"] - 0.5


def test_speed_grades_come_from_the_part() -> None:
    found = {name: grade(boards.load(name)) for name in ("zcu102", "zcu104", "kv260", "ultra96v2")}
    assert found == {"zcu102": "-2", "zcu104": "-2", "kv260": "-2LV", "ultra96v2": "-1"}
    assert limit(boards.load("zcu102"), 300) == 2.8 and limit(boards.load("ultra96v2"), 300) < 2.4


def test_paths_end_at_registers_and_memories() -> None:
    """Two flip-flops with one LUT between them, by hand."""
    flip_flop = {"type": "FDRE", "parameters": {}, "port_directions": {"C": "input", "D": "input", "Q": "output"}}
    lut = {"type": "LUT1", "parameters": {}, "port_directions": {"I0": "input", "O": "output"}}
    cells = {
        "a": {**flip_flop, "connections": {"C": [2], "D": [3], "Q": [4]}},
        "b": {**lut, "connections": {"I0": [4], "O": [5]}},
        "c": {**flip_flop, "connections": {"C": [2], "D": [5], "Q": [6]}},
    }
    path = worst(Netlist(cells, {4: "q"}), OPTIMISTIC)
    assert path.start == "q" and path.levels == 1 and path.end == "c.D"
    assert path.ns == pytest.approx(0.08 + 0.15 + 0.08 + 0.15 + 0.06)
