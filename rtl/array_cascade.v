// SPDX-License-Identifier: Apache-2.0
// A row of the array against one column of tokens: eight DSP48E2 in a cascade, whose sum over eight columns of K is added to an
// accumulator of its own for each of two tokens.  Stationary are the sums; results leave on a conveyor that never stands.
//
// A product of codes within +-127 is below 2^14, the sum of eight below 2^17: the two tokens' fields of 18 bits stay apart
// (tests/rtl/formal_split.sv).  The upper field is one less where the lower is negative, which the carry gives back.  So one split
// serves every mode: low += the lower 18 bits, high += the rest; where there is one token, its sum is high * 2^18 + low.
`default_nettype none

module array_cascade #(
    parameter FLOATS = 0,
    parameter LOW = 32,   // bits of an accumulator: K up to 132,000 columns of codes
    parameter HIGH = 32
) (
    input wire clk_i,
    input wire [8*27-1:0] first_i,   // column k is k cycles late, and so are the weights
    input wire [8*8-1:0] second_i,
    input wire [7:0] high_i,
    input wire [8*8-1:0] weights_i,
    input wire valid_i,              // 12 cycles after the operands of column 0: their sum is at hand
    input wire begin_i,              // the sum is a tile's first
    input wire leave_i,              // a cycle after a tile's last sum: it is on the conveyor with the next cycle
    input wire [LOW+HIGH-1:0] conveyor_i,
    output reg [LOW+HIGH-1:0] conveyor_o
);
    localparam UPPER = FLOATS ? 30 : 18;  // bits of the upper field
    wire signed [47:0] down[0:8];
    wire signed [47:0] whole[0:7];
    assign down[0] = 48'sd0;
    genvar k;
    generate
        for (k = 0; k < 8; k = k + 1) begin : g_column
            wire [7:0] weight = weights_i[8*k+:8];
            wire [7:0] second = second_i[8*k+:8];
            wire signed [17:0] placed;
            if (FLOATS == 0) begin : g_codes
                wire unused = high_i[k];
                assign placed = {{10{weight[7]}}, weight};
            end else begin : g_floats  // a code of four bits, 14 bits higher where the activation says so
                wire h = high_i[k];
                assign placed = {weight[7], h ? weight[2:0] : {3{weight[7]}}, {7{weight[7] & ~h}}, weight[6:0] & {7{~h}}};
            end
            dsp_slice #(.FIRST(k == 0), .PREADD(1)) u_slice (
                .clk_i(clk_i), .a_i({second[7], second, 18'd0}), .b_i(placed), .d_i(first_i[27*k+:27]), .pcin_i(down[k]),
                .p_o(whole[k]), .pcout_o(down[k+1])
            );
        end
    endgenerate

    wire [47:0] sum = whole[7];
    reg valid_q, begin_q, leave_q;
    reg [LOW-1:0] low_q;
    reg [HIGH-1:0] high_q;
    wire [LOW-1:0] low;
    wire [HIGH-1:0] high;
    add_clear #(.WIDTH(LOW)) u_low (
        .clear_i(begin_q), .a_i(low_q), .b_i({{(LOW - 18) {sum[17]}}, sum[17:0]}), .carry_i(1'b0), .sum_o(low)
    );
    add_clear #(.WIDTH(HIGH)) u_high (
        .clear_i(begin_q), .a_i(high_q), .b_i({{(HIGH - UPPER) {sum[17+UPPER]}}, sum[18+:UPPER]}), .carry_i(sum[17]), .sum_o(high)
    );
    always @(posedge clk_i) begin
        valid_q <= valid_i;
        begin_q <= begin_i;
        leave_q <= leave_i;
        if (valid_q) begin
            low_q <= low;
            high_q <= high;
        end
        conveyor_o <= leave_q ? {high_q, low_q} : conveyor_i;
    end
endmodule

`default_nettype wire
