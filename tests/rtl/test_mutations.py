# SPDX-License-Identifier: Apache-2.0
"""Faults planted in the Verilog, one at a time: each must be caught by the test named for it.  `make mutations` runs these."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from rtl.simulator import RTL, run_shape, run_test

from meadow.compiler.emit.verilog import ARRAY_SOURCES, COLUMN_SOURCES, SOURCES, UNPACK_SOURCES, ColumnShape, Shape

pytestmark = pytest.mark.mutation

INT2 = Shape(ports=1, lanes=8, token_lanes=4, max_tokens=16, activation_words=128)
COLUMNS = ColumnShape(ports=2, tokens=5, max_words=32, fifo_beats=128)
SMALL = Shape(ports=2, token_lanes=2, max_tokens=16, activation_words=128, fifo_beats=128)
STALLS = "stalls_on_every_stream_lose_nothing"
EVERY = "every_format_comes_out_as_numpy_has_it"
SIZES = "every_size_comes_out_as_integers_have_it"
STRIPES = "a_matrix_of_several_stripes_is_read_stripe_by_stripe"
WRONG = "a_command_that_it_cannot_run_stops_it"
WAITING = "sums_that_nobody_takes_wait"
CLEARED = "it_is_cleared_while_sums_leave_and_starts_anew"
DOT = ["dsp_slice.v", "pacq_align.v", "pacq_lane.v", "pacq_mac.v", "pacq_dot.v"]
UNITS = {
    "pacq_mac": ("bench_pacq_mac", DOT[:4], {"LANES": 16, "FIRST": 0, "LAST": 1}),
    "pacq_dot": ("bench_pacq_dot", DOT, {"LANES": 8}),
    "array_grid": (
        "bench_array",
        list(ARRAY_SOURCES),
        {"ROWS": 5, "PAIRS": 3, "FLOATS": 1, "HIGH": 36, "BLOCK_ROWS": 2, "BLOCK_PAIRS": 2},
    ),
    **{
        unit: ("bench_floats", ["dsp_slice.v", f"{unit}.v"], {})
        for unit in ("float_add", "float_multiply", "fixed_to_float", "half_to_float")
    },
}


@dataclass(frozen=True)
class Fault:
    """`old` becomes `new` in `file`; `caught_by` is a unit of UNITS, or a cocotb test of the unit that has the file."""

    what: str
    file: str
    old: str
    new: str
    caught_by: str


FAULTS = (
    Fault("an old sum is not forgotten", "add_clear.v", "(clear_i ? {WIDTH{1'b0}} : a_i)", "a_i", "array_grid"),
    Fault("the carry is lost", "add_clear.v", "+ {{(WIDTH - 1) {1'b0}}, carry_i}", "", "array_grid"),
    Fault(
        "a probability has a sign",
        "array_edge.v",
        "mode_q[0] ? {11'd0, value_q}",
        "mode_q[0] ? {{11{value_q[15]}}, value_q}",
        "array_grid",
    ),
    Fault(
        "a second token is seen beside a probability",
        "array_edge.v",
        "mode_q == 2'd0 ? value_q[15:8]",
        "!mode_q[1] ? value_q[15:8]",
        "array_grid",
    ),
    Fault("NaN is not the largest value", "array_edge.v", "| {10{special}}", "", "array_grid"),
    Fault("a shift of 31 counts as 30", "array_edge.v", "special ? 5'd29 :", "", "array_grid"),
    Fault("a high shift is 16 less", "array_edge.v", "shift[3:0] + 4'd2", "shift[3:0] + 4'd0", "array_grid"),
    Fault(
        "a code 14 bits higher loses its sign",
        "array_cascade.v",
        "placed = {weight[7], h ?",
        "placed = {1'b0, h ?",
        "array_grid",
    ),
    Fault(
        "the lower field has no sign", "array_cascade.v", "{(LOW - 18) {sum[17]}}", "{(LOW - 18) {1'b0}}", "array_grid"
    ),
    Fault("the upper field is not put right", "array_cascade.v", ".carry_i(sum[17])", ".carry_i(1'b0)", "array_grid"),
    Fault("sums are taken when nothing comes", "array_cascade.v", "if (valid_q) begin", "begin", "array_grid"),
    Fault("the conveyor stands", "array_cascade.v", ": conveyor_i;", ": conveyor_o;", "array_grid"),
    Fault("an end counts without a beat", "array_grid.v", "end_i & valid_i}", "end_i}", "array_grid"),
    Fault(
        "weights do not wait for a block of rows", "array_grid.v", "EDGE + k + r / BLOCK_ROWS", "EDGE + k", "array_grid"
    ),
    Fault(
        "activations do not wait for a block of pairs",
        "array_grid.v",
        "WAIT = k + p / BLOCK_PAIRS",
        "WAIT = k",
        "array_grid",
    ),
    Fault(
        "control does not wait for a block of pairs",
        "array_grid.v",
        "r / BLOCK_ROWS + p / BLOCK_PAIRS;",
        "r / BLOCK_ROWS;",
        "array_grid",
    ),
    Fault("a subnormal gets a hidden bit", "pacq_align.v", "{|exponent, half_i", "{1'b1, half_i", "pacq_mac"),
    Fault("infinity is not the largest value", "pacq_align.v", "| {10{special}}", "", "pacq_mac"),
    Fault(
        "a shift is one short",
        "pacq_align.v",
        "5'd14: {place, shift} = {5'b00010, 3'd6}",
        "5'd14: {place, shift} = {5'b00010, 3'd5}",
        "pacq_mac",
    ),
    Fault("the sign is lost", "pacq_align.v", "sign ? -$signed(shifted)", "1'b0 ? -$signed(shifted)", "pacq_mac"),
    Fault("the offset is 4, not 8", "pacq_lane.v", "{{24{place_i[0]}}, 3'd0}", "{{25{place_i[0]}}, 2'd0}", "pacq_mac"),
    Fault("the highest place is one too low", "pacq_lane.v", "{c, 23'd0}", "{1'b0, c, 22'd0}", "pacq_mac"),
    Fault("the offset is not added", "dsp_slice.v", ".D(d_i)", ".D(27'd0)", "pacq_mac"),
    Fault(
        "what a slice hands on is not shifted",
        "dsp_slice.v",
        "SHIFT ? 3'b101",
        "SHIFT ? 3'b001",
        "float_multiply",
    ),
    Fault(
        "two lanes are swapped", "pacq_mac.v", ".code_i(codes_q[4*l+:4])", ".code_i(codes_q[4*(l^1)+:4])", "pacq_mac"
    ),
    Fault(
        "a lane begins its group with the sum before",
        "pacq_dot.v",
        "first_q[LATENCY-1] ? 56'sd0 : sum_q",
        "sum_q",
        "pacq_dot",
    ),
    Fault(
        "sums are kept in 46 bits", "pacq_dot.v", "{{8{part[47]}}, part}", "{{10{part[45]}}, part[45:0]}", "pacq_dot"
    ),
    Fault(
        "a column comes a cycle late",
        "pacq_dot.v",
        "late_q[(16+4*LANES)*k-1-:16+4*LANES]",
        "late_q[(16+4*LANES)*(k+1)-1-:16+4*LANES]",
        "pacq_dot",
    ),
    Fault("an idle cycle is added", "pacq_dot.v", "if (valid_q[LATENCY-1]) sum_q <= next", "sum_q <= next", "pacq_dot"),
    Fault("ties round up", "float_add.v", "n0_q[3] && (n0_q[4] || |n0_q[2:0])", "n0_q[3]", "float_add"),
    Fault("what falls off is forgotten", "float_add.v", "|small2_q[23:0]", "1'b0", "float_add"),
    Fault(
        "the larger is not put first", "float_add.v", "b_i[30:0] > a_i[30:0]", "b_i[30:23] > a_i[30:23]", "float_add"
    ),
    Fault(
        "a product truncates",
        "float_multiply.v",
        "wire up = normal[23] && (normal[24] || |normal[22:0])",
        "wire up = 1'b0",
        "float_multiply",
    ),
    Fault(
        "zero times something is something",
        "float_multiply.v",
        "a_i[30:23] == 0 || b_i[30:23] == 0",
        "a_i[30:23] == 0",
        "float_multiply",
    ),
    Fault("the least of 64 bits is one off", "fixed_to_float.v", "8'd166", "8'd165", "fixed_to_float"),
    Fault("the sticky bits miss one", "fixed_to_float.v", "|n0_q[38:0]", "|n0_q[38:2]", "fixed_to_float"),
    Fault(
        "FP16 subnormals are flushed",
        "half_to_float.v",
        "(n0[15] ? 8'd112 - {4'd0, zeros} : 8'd0)",
        "8'd0",
        "half_to_float",
    ),
    Fault(
        "the shared sum forgets the first eight",
        "pacq_sum.v",
        "(first_q[3] ? 50'sd0 : sum_q) + {{5{eight_q[44]}}, eight_q}",
        "first_q[3] ? 50'sd0 : sum_q + {{5{eight_q[44]}}, eight_q}",
        EVERY,
    ),
    Fault("INT8 codes are off by 128", "pacq_sum.v", "(wide <<< 7) + (wide <<< 3)", "(wide <<< 3)", EVERY),
    Fault(
        "an INT8 code's halves are swapped",
        "pacq_scale.v",
        "{{4{sum_q[55]}}, sum_q, 4'd0} + {{8{below_q[55]}}, below_q}",
        "{{4{below_q[55]}}, below_q, 4'd0} + {{8{sum_q[55]}}, sum_q}",
        EVERY,
    ),
    Fault(
        "a row does not begin at zero",
        "pacq_scale.v",
        "begin_row ? 32'd0 : written_q ? result_q : read_q",
        "written_q ? result_q : read_q",
        EVERY,
    ),
    Fault(
        "a partial result goes to the neighbour's place",
        "pacq_scale.v",
        "if (write) partial[write_place]",
        "if (write) partial[write_place ^ 1]",
        EVERY,
    ),
    Fault(
        "the minimum is taken for the scale",
        "pacq_parameters.v",
        "half_minimum_q <= minimum_q ? word[31:16]",
        "half_minimum_q <= minimum_q ? word[15:0]",
        EVERY,
    ),
    Fault(
        "parameters of the next set are read",
        "pacq_parameters.v",
        "memory[{set, beat}]",
        "memory[{set + 3'd1, beat}]",
        EVERY,
    ),
    Fault(
        "a burst is one beat too long",
        "stream_fetch.v",
        "{{(9 - BURST) {1'b0}}, length_q} - 9'd1",
        "{{(9 - BURST) {1'b0}}, length_q}",
        EVERY,
    ),
    Fault("a burst crosses 4 KiB", "stream_fetch.v", "9'd256 - {1'b0, at_q[11:4]}", "9'd256", EVERY),
    Fault(
        "the FIFO has room for one beat more than it has",
        "stream_fetch.v",
        "- (ask ? wanted : {ROOM{1'b0}})",
        "- (ask ? wanted - 1'b1 : {ROOM{1'b0}})",
        EVERY,
    ),
    Fault(
        "late beats are kept after a clear",
        "stream_fetch.v",
        "m_axi_rvalid && !drop_q && !clear_i",
        "m_axi_rvalid",
        "it_is_cleared_in_the_middle_of_a_burst_and_starts_anew",
    ),
    Fault("a full FIFO takes a word", "stream_fifo.v", "assign ready_o = room_q", "assign ready_o = 1'b1", EVERY),
    Fault("a FIFO forgets a word that is not taken", "stream_fifo.v", "give || (valid_o && !ready_i)", "give", EVERY),
    Fault(
        "weights are overwritten while they are needed",
        "pacq_split.v",
        "room_q <= held < ALL - 7'd1",
        "room_q <= 1'b1",
        EVERY,
    ),
    Fault("a set is begun before its place is free", "pacq_split.v", "sets_q < 3'd4", "1'b1", EVERY),
    Fault(
        "a group ends one beat early",
        "pacq_issue.v",
        "end_q <= g[63:58] < 6'd3 ? 6'd3 : g[63:58];",
        "end_q <= g[63:58] < 6'd3 ? 6'd3 : g[63:58] - 6'd1;",
        EVERY,
    ),
    Fault(
        "windows do not wait for activations",
        "pacq_issue.v",
        "!begun_q && !done_q && loads_q != 0",
        "!begun_q && !done_q",
        "weights_are_read_ahead_and_activations_kept",
    ),
    Fault(
        "kept activations are given back",
        "pacq_issue.v",
        "if (!hold) row_q",
        "if (1'b1) row_q",
        "weights_are_read_ahead_and_activations_kept",
    ),
    Fault(
        "a token's row begins in the one before",
        "pacq_activations.v",
        "at_q <= last_lane ? row_q + row_words[BITS-1:0] : row_q;",
        "at_q <= row_q;",
        EVERY,
    ),
    Fault(
        "the ring takes rows that it has no room for",
        "pacq_activations.v",
        "room_q <= wanted <= free_q",
        "room_q <= 1'b1",
        EVERY,
    ),
    Fault(
        "a lane's results come in another's place",
        "pacq_results.v",
        "last_lane ? 2'd0 : lane_q + 2'd1",
        "lane_q + 2'd1",
        EVERY,
    ),
    Fault("results of tokens that are not there go out", "pacq_results.v", "there && real_token", "there", EVERY),
    Fault(
        "lanes are of the code before",
        "pacq_lane.v",
        "{23'd0, c}",
        "{22'd0, c, 1'd0}",
        "pacq_mac",
    ),
    Fault(
        "a result that is being written is read as it was",
        "pacq_scale.v",
        "written_q <= write && read_place == write_place",
        "written_q <= 1'b0",
        "rows_come_again_as_soon_as_they_may",
    ),
    Fault(
        "groups of eight columns are taken",
        "pacq_commands.v",
        "group_log >= 4",
        "group_log >= 3",
        "a_command_that_it_cannot_run_stops_it",
    ),
    Fault(
        "too many tokens are taken",
        "pacq_commands.v",
        "&& tokens_q <= TOKENS",
        "",
        "a_command_that_it_cannot_run_stops_it",
    ),
    Fault(
        "an error of the bus is no error",
        "gemv_faults.v",
        "bad_command_i || bus_error_i != 0 || late_q",
        "bad_command_i || late_q",
        "an_error_of_the_bus_stops_it",
    ),
    Fault(
        "nobody watches the memory",
        "gemv_faults.v",
        "bad_command_i || bus_error_i != 0 || late_q",
        "bad_command_i || bus_error_i != 0",
        "a_memory_that_does_not_answer_stops_it",
    ),
    Fault(
        "a stopped engine takes no activations",
        "pacq_gemv.v",
        "assign s_axis_activation_tready = stopped || activation_ready;",
        "assign s_axis_activation_tready = activation_ready;",
        "an_error_of_the_bus_stops_it",
    ),
    Fault(
        "a command is counted twice",
        "gemv_registers.v",
        "commands_q + {31'd0, command_i}",
        "commands_q + {30'd0, command_i, 1'b0}",
        "it_says_who_it_is",
    ),
    Fault(
        "a halfword goes at the eighth bit",
        "prefix_lane.v",
        "(step_i && at_q[4])",
        "(step_i && at_q[3])",
        "codes_of_the_longest_length_come_back",
    ),
    Fault(
        "the second table is asked as the first",
        "prefix_lane.v",
        "length_second[window[9:4]]",
        "length_second[window[13:8]]",
        "codes_of_the_longest_length_come_back",
    ),
    Fault(
        "nobody looks whether bits are missing",
        "prefix_lane.v",
        "behind_o <= ended_i &&",
        "behind_o <= 1'b0 &&",
        "a_segment_that_ends_early_raises_the_error",
    ),
    Fault(
        "half a turn is forgotten",
        "prefix_turn.v",
        "sixteen_q ? sixteens[C-128+:32]",
        "1'b0 ? sixteens[C-128+:32]",
        STALLS,
    ),
    Fault("an offset is taken from the wrong word", "prefix_table.v", "offsets[row[3:2]]", "offsets[row[1:0]]", STALLS),
    Fault(
        "a choice of four is mirrored",
        "mux4.v",
        "choices_i[WIDTH*which_i+:WIDTH]",
        "choices_i[WIDTH*(3-which_i)+:WIDTH]",
        STALLS,
    ),
    Fault(
        "a choice of eight is mirrored",
        "mux8.v",
        "choices_i[WIDTH*which_i+:WIDTH]",
        "choices_i[WIDTH*(7-which_i)+:WIDTH]",
        STALLS,
    ),
    Fault(
        "a table does not wait for words that are looking up",
        "prefix_unpack.v",
        "&& !running_q && !step_q && valid_q == 0 && quiet_q;",
        ";",
        "a_table_waits_for_the_words_before_it",
    ),
    Fault(
        "a segment begins with the turn of the one before",
        "prefix_unpack.v",
        "if (begins) turn_q <= 5'd0;",
        "if (begins && rst_i) turn_q <= 5'd0;",
        STALLS,
    ),
    Fault(
        "beats that no word needs stay",
        "prefix_unpack.v",
        "room_q || drop_q",
        "room_q",
        "beats_that_no_word_needs_are_dropped",
    ),
    Fault(
        "the halves of a raw word are exchanged",
        "prefix_unpack.v",
        "raw_word_q <= {beat_q, low_q}",
        "raw_word_q <= {low_q, beat_q}",
        "raw_tiles_pass_and_mix_with_coded_ones",
    ),
    Fault(
        "words begin without a place at the output",
        "prefix_unpack.v",
        "out_room_q <= used_q < KEPT[5:0]",
        "out_room_q <= 1'b1",
        STALLS,
    ),
    Fault("upper rows lose the carry of lower ones", "column_lane.v", ".carry_i(sum[k][17])", ".carry_i(1'b0)", SIZES),
    Fault("codes of port 1 come a cycle early", "column_lane.v", "chain[8*p+:8];", "chain[7:0];", SIZES),
    Fault("a token takes the codes of all", "column_lane.v", "write_i && write_token_i == MINE[7:0]", "write_i", SIZES),
    Fault("lanes without a token send sums", "column_lane.v", "drain_i && tokens_i > MINE[7:0]", "drain_i", SIZES),
    Fault(
        "weights do not hop",
        "column_lanes.v",
        "assign weights = weights_q;",
        "assign weights = g_group[g-1].weights;",
        SIZES,
    ),
    Fault("a list may be for several tokens", "column_commands.v", " && (!listed || tokens == 16'd1)", "", WRONG),
    Fault("an address may lie within a beat", "column_commands.v", "address_q[3:0] == 0 && ", "", WRONG),
    Fault(
        "a live column is left out",
        "column_codes.v",
        "rest = live_q & ~lowest",
        "rest = live_q & ~(lowest << 1)",
        SIZES,
    ),
    Fault("codes of negative weight are no codes", "column_codes.v", "!= 8'd0;", "!= 8'h80;", SIZES),
    Fault("lists are not filled up", "column_codes.v", "port_q == 2'd0 && group_q != 0;", "group_q != 0;", SIZES),
    Fault("an empty list reads nothing", "column_codes.v", "port_q == 2'd0 && group_q != 0;", "port_q == 2'd0;", SIZES),
    Fault("codes of the next command overwrite", "column_codes.v", "ahead < 6'd2 &&", "ahead < 6'd3 &&", SIZES),
    Fault("stripes begin at the first's place", "column_regions.v", "<< 12);  //", "<< 11);  //", STRIPES),
    Fault("a list is read before it is there", "column_regions.v", "coming && group_q < listed_i", "coming", SIZES),
    Fault(
        "the last stripe is as long as the others",
        "column_issue.v",
        "next_left > MOST[15:0] ? MOST[SB:0] : next_left[SB:0]",
        "MOST[SB:0]",
        STRIPES,
    ),
    Fault(
        "sums leave before they are written",
        "column_issue.v",
        "timer_q <= 9'd16;  // until",
        "timer_q <= 9'd1;  // until",
        SIZES,
    ),
    Fault(
        "a stripe overwrites what has not left",
        "column_issue.v",
        "if (stripe_q && !leaving_q[half_q])",
        "if (stripe_q)",
        WAITING,
    ),
    Fault(
        "short columns come again too soon",
        "column_issue.v",
        "localparam SHORTEST = 4;",
        "localparam SHORTEST = 1;",
        SIZES,
    ),
    Fault(
        "sums leave without room",
        "column_results.v",
        "room_q <= count <= LIMIT[$clog2(DEPTH):0];",
        "room_q <= 1'b1;",
        WAITING,
    ),
    Fault(
        "the halves of 16 sums are exchanged",
        "column_results.v",
        "half_q ? sums[511:256] : sums[255:0]",
        "half_q ? sums[255:0] : sums[511:256]",
        SIZES,
    ),
    Fault(
        "sums of before stay on the conveyor",
        "column_gemm.v",
        "settling_q <= begin_rst ? 7'd127",
        "settling_q <= begin_rst ? 7'd1",
        CLEARED,
    ),
    Fault("lists are told a cycle early", "column_gemm.v", ".listed_i(listed_q[1])", ".listed_i(listed)", SIZES),
)


def test_every_module_has_a_fault() -> None:
    assert {f.file for f in FAULTS} == {*SOURCES, *UNPACK_SOURCES, *ARRAY_SOURCES, *COLUMN_SOURCES} and len(
        FAULTS
    ) >= 40


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.what)
def test_a_planted_fault_is_caught(fault: Fault, tmp_path: Path) -> None:
    folder = tmp_path / "rtl"
    shutil.copytree(RTL, folder)
    text = (folder / fault.file).read_text()
    assert text.count(fault.old) == 1, f"{fault.old!r} stands {text.count(fault.old)} times in {fault.file}"
    (folder / fault.file).write_text(text.replace(fault.old, fault.new))
    if fault.caught_by in UNITS:
        bench, files, parameters = UNITS[fault.caught_by]
        failed = run_test(fault.caught_by, bench, tmp_path / "work", files, parameters, folder=folder)
    elif fault.file.startswith("column_"):
        failed = run_shape(COLUMNS, tmp_path / "work", folder, fault.caught_by)
    elif fault.file not in SOURCES:
        failed = run_test(
            "prefix_unpack",
            "bench_prefix_unpack",
            tmp_path / "work",
            list(UNPACK_SOURCES),
            folder=folder,
            test=fault.caught_by,
        )
    else:
        shape = INT2 if fault.caught_by.startswith("rows_come_again") else SMALL
        failed = run_shape(shape, tmp_path / "work", folder, fault.caught_by)
    assert failed, f"{fault.what}: {fault.caught_by} did not notice"
