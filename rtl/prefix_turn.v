// SPDX-License-Identifier: Apache-2.0
// Lanes back to columns: column c comes from lane c - turn, modulo 32.  Three steps, and a raw word in place of the last.
`default_nettype none

module prefix_turn (
    input wire clk_i,
    input wire [255:0] lanes_i,
    input wire [4:0] turn_i,    // two cycles before its lanes
    input wire raw_i,           // one cycle before its word
    input wire [255:0] raw_word_i,
    output reg [255:0] word_o   // three cycles after its lanes, one after its raw word
);
    reg [255:0] by_one_q, by_four_q;
    // With the lanes again that a turn brings in.
    wire [279:0] ones = {lanes_i, lanes_i[255:232]};
    wire [351:0] fours = {by_one_q, by_one_q[255:160]};
    wire [383:0] sixteens = {by_four_q, by_four_q[255:128]};
    genvar g;
    generate
        for (g = 0; g < 8; g = g + 1) begin : g_four
            // What chooses is copied for every four lanes, so that no net leads far.
            localparam A = 24 + 32 * g, B = 96 + 32 * g, C = 128 + 32 * g;
            (* keep *) reg [4:0] turn_q;
            (* keep *) reg [2:0] four_q;
            (* keep *) reg sixteen_q, raw_q;
            reg [4:0] first_q;
            wire [31:0] one, four;
            mux4 #(.WIDTH(32)) u_one (
                .choices_i({ones[A-24+:32], ones[A-16+:32], ones[A-8+:32], ones[A+:32]}), .which_i(turn_q[1:0]), .value_o(one)
            );
            mux4 #(.WIDTH(32)) u_four (
                .choices_i({fours[B-96+:32], fours[B-64+:32], fours[B-32+:32], fours[B+:32]}), .which_i(four_q[1:0]), .value_o(four)
            );
            always @(posedge clk_i) begin
                first_q <= turn_i;
                turn_q <= first_q;
                four_q <= turn_q[4:2];
                sixteen_q <= four_q[2];
                raw_q <= raw_i;
                by_one_q[32*g+:32] <= one;
                by_four_q[32*g+:32] <= four;
                word_o[32*g+:32] <= raw_q ? raw_word_i[32*g+:32] : sixteen_q ? sixteens[C-128+:32] : sixteens[C+:32];
            end
        end
    endgenerate
endmodule

`default_nettype wire
