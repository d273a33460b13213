// SPDX-License-Identifier: Apache-2.0
// One of eight values, each bit in two look-up tables and the multiplexer that a slice has behind them; else as mux4.v.
`default_nettype none

module mux8 #(
    parameter WIDTH = 1
) (
    input wire [8*WIDTH-1:0] choices_i,  // the first in the lowest bits
    input wire [2:0] which_i,
    output wire [WIDTH-1:0] value_o
);
`ifdef SYNTHESIS
    wire [WIDTH-1:0] low, high;
    mux4 #(.WIDTH(WIDTH)) u_low (.choices_i(choices_i[4*WIDTH-1:0]), .which_i(which_i[1:0]), .value_o(low));
    mux4 #(.WIDTH(WIDTH)) u_high (.choices_i(choices_i[8*WIDTH-1:4*WIDTH]), .which_i(which_i[1:0]), .value_o(high));
    genvar b;
    generate
        for (b = 0; b < WIDTH; b = b + 1) begin : g_bit
            MUXF7 u_mux (.I0(low[b]), .I1(high[b]), .S(which_i[2]), .O(value_o[b]));
        end
    endgenerate
`else
    assign value_o = choices_i[WIDTH*which_i+:WIDTH];
`endif
endmodule

`default_nettype wire
