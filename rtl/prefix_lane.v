// SPDX-License-Identifier: Apache-2.0
// One lane of the prefix decoder: the halfwords that wait for it, the code that its window begins with, and the code's weight.
// Knows no other lane; docs/packing.md has the format, docs/rtl.md the margins.
`default_nettype none

module prefix_lane #(
    parameter FIFO_BITS = 6,  // logarithm of the halfwords that may wait
    parameter NEEDED = 7,     // of them that let a step begin: what steps take before it is known
    parameter ROOM = 60       // of them up to which more may come
) (
    input wire clk_i,
    input wire begin_i,                // a segment begins: what waits begins at base_i
    input wire [FIFO_BITS:0] base_i,
    input wire step_i,                 // one weight is taken,
    input wire prime_i,                // or only a halfword
    input wire ended_i,                // all halfwords of the segment have come
    // Halfwords: all lanes that share a beat write the same place.
    input wire write_i,
    input wire [FIFO_BITS:0] place_i,
    input wire [15:0] halfword_i,
    output reg enough_o,               // two cycles late
    output reg room_o,                 // two cycles late
    output reg behind_o,               // more is decoded than has come
    // Tables: an entry of both lengths, an offset, four weights.
    input wire table_write_i,
    input wire offset_write_i,
    input wire [5:0] table_place_i,
    input wire [7:0] lengths_i,
    input wire [7:0] offset_i,
    input wire [31:0] weights_i,
    output reg [7:0] weight_o          // four cycles after its step
);
    // -- halfwords: three are held, so that a code never waits for the memory -----------------------------------------
    (* ram_style = "distributed" *) reg [15:0] waiting[0:(1<<FIFO_BITS)-1];
    reg [FIFO_BITS:0] read_q, count_q;  // count_q may be as low as -3: held halfwords that have not come
    reg [15:0] first_q, second_q, third_q;
    reg [4:0] at_q, before_q;           // the first bit of the window; 16 and more: the first halfword goes with the next step
    wire pop = prime_i || (step_i && at_q[4]);
    wire below = count_q[FIFO_BITS:FIFO_BITS-1] == 2'b11;  // 0
    localparam [FIFO_BITS:0] MINUS_TWO = -2, MINUS_THREE = -3;
    localparam [31:0] LEAST = NEEDED, MOST = ROOM;
    always @(posedge clk_i) begin
        if (write_i) waiting[place_i[FIFO_BITS-1:0]] <= halfword_i;
        if (begin_i) read_q <= base_i;
        else if (pop) read_q <= read_q + 1'b1;
        if (pop) begin
            first_q <= second_q;
            second_q <= third_q;
            third_q <= waiting[read_q[FIFO_BITS-1:0]];
        end
        count_q <= place_i - read_q;
        before_q <= at_q;
        enough_o <= ended_i || (!below && count_q >= LEAST[FIFO_BITS:0]);
        room_o <= below || count_q < MOST[FIFO_BITS:0];
        behind_o <= ended_i && below && (count_q < MINUS_THREE || (count_q == MINUS_THREE && before_q != 0)
            || (count_q == MINUS_TWO && before_q > 5'd16));
    end

`ifdef FORMAL
    // tests/rtl/formal_lane.sv
    wire [FIFO_BITS:0] here = place_i - read_q;
    always @* begin
        assert (here <= {1'b1, {FIFO_BITS{1'b0}}} - {{FIFO_BITS{1'b0}}, write_i});  // no halfword is written over
        assert (!pop || here != 0 || ended_i);                                    // none is taken that has not come
    end
`endif

    // -- the loop: window, length, place of the next window ------------------------------------------------------------
    // A multiplexer of eight and one of four: what the fabric has in two levels.
    wire [47:0] held = {first_q, second_q, third_q};
    (* keep *) reg [2:0] at_copy_q;  // of at_q[4:2], so that neither leads far
    wire [16:0] near;  // `held` from a multiple of four on
    wire [13:0] window;
    mux8 #(.WIDTH(9)) u_low (
        .choices_i({held[11:3], held[15:7], held[19:11], held[23:15], held[27:19], held[31:23], held[35:27], held[39:31]}),
        .which_i(at_q[4:2]), .value_o(near[8:0])
    );
    mux8 #(.WIDTH(8)) u_high (
        .choices_i({held[19:12], held[23:16], held[27:20], held[31:24], held[35:28], held[39:32], held[43:36], held[47:40]}),
        .which_i(at_copy_q), .value_o(near[16:9])
    );
    mux4 #(.WIDTH(14)) u_window (.choices_i({near[13:0], near[14:1], near[15:2], near[16:3]}), .which_i(at_q[1:0]), .value_o(window));
    (* ram_style = "distributed" *) reg [3:0] length_first[0:63];
    (* ram_style = "distributed" *) reg [3:0] length_second[0:63];
    wire [3:0] one = length_first[window[13:8]], other = length_second[window[9:4]];
    wire escape = &window[13:10];
    wire [3:0] less = escape ? other : one;  // the length less one
    // The place of the next window.  What a carry chain takes, the bits in which the two differ, is one table behind the lengths.
    wire [3:0] differ;
    genvar b;
    generate
        for (b = 0; b < 4; b = b + 1) begin : g_differ
`ifdef SYNTHESIS
            LUT6 #(.INIT(64'h35CA35CA35CA35CA)) u_lut (
                .I0(one[b]), .I1(other[b]), .I2(escape), .I3(at_q[b]), .I4(1'b0), .I5(1'b0), .O(differ[b])
            );
`else
            assign differ[b] = less[b] ^ at_q[b];
`endif
        end
    endgenerate
    wire [5:0] sum = {1'b0, at_q[3:0], 1'b1} + {1'b0, at_q[3:0] ^ differ, 1'b1};  // one more than both: a carry into the lowest bit
    reg [13:0] window_q;
    reg [3:0] less_q;
    always @(posedge clk_i) begin
        if (table_write_i) begin
            length_first[table_place_i] <= lengths_i[3:0];
            length_second[table_place_i] <= lengths_i[7:4];
        end
        if (begin_i) at_q <= 5'd0;
        else if (step_i) at_q <= sum[5:1];
        if (begin_i) at_copy_q <= 3'd0;
        else if (step_i) at_copy_q <= sum[5:3];
        window_q <= window;
        less_q <= less;
    end

    // -- behind it: the code, the weight's place, the weight -----------------------------------------------------------
    wire [10:0] some;  // the window's bits up to the end of a code of 4, 8, 12 or 16 bits
    wire [7:0] code;
    wire [22:0] wide = {7'd0, window_q, 2'd0};
    mux4 #(.WIDTH(11)) u_some (.choices_i({wide[10:0], wide[14:4], wide[18:8], wide[22:12]}), .which_i(less_q[3:2]), .value_o(some));
    mux4 #(.WIDTH(8)) u_code (.choices_i({some[7:0], some[8:1], some[9:2], some[10:3]}), .which_i(less_q[1:0]), .value_o(code));
    reg [7:0] code_q, offset_q, weight_place_q;
    (* ram_style = "distributed" *) reg [7:0] offset[0:15];
    (* ram_style = "distributed" *) reg [31:0] weights[0:63];  // four a row, so that a cycle loads four
    wire [31:0] row = weights[weight_place_q[7:2]];
    always @(posedge clk_i) begin
        if (offset_write_i) offset[table_place_i[3:0]] <= offset_i;
        if (table_write_i) weights[table_place_i] <= weights_i;
        code_q <= code;
        offset_q <= offset[less_q];
        weight_place_q <= code_q + offset_q;
        weight_o <= row[8*weight_place_q[1:0]+:8];
    end
endmodule

`default_nettype wire
