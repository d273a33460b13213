// SPDX-License-Identifier: Apache-2.0
// One of four values, each bit in one look-up table of the fabric: instantiated, since a tool that optimizes may take two levels.
// Simulators are told the same in one line, which the solver proves (tests/rtl/formal_mux.sv).
`default_nettype none

module mux4 #(
    parameter WIDTH = 1
) (
    input wire [4*WIDTH-1:0] choices_i,  // the first in the lowest bits
    input wire [1:0] which_i,
    output wire [WIDTH-1:0] value_o
);
`ifdef SYNTHESIS
    genvar b;
    generate
        for (b = 0; b < WIDTH; b = b + 1) begin : g_bit
            LUT6 #(.INIT(64'hFF00F0F0CCCCAAAA)) u_lut (
                .I0(choices_i[b]), .I1(choices_i[WIDTH+b]), .I2(choices_i[2*WIDTH+b]), .I3(choices_i[3*WIDTH+b]),
                .I4(which_i[0]), .I5(which_i[1]), .O(value_o[b])
            );
        end
    endgenerate
`else
    assign value_o = choices_i[WIDTH*which_i+:WIDTH];
`endif
endmodule

`default_nettype wire
