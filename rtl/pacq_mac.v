// SPDX-License-Identifier: Apache-2.0
// The FP-INT multiplier: one FP16 activation times LANES packed weights per cycle, products exact, each added to a sum.
// Sign, exponent and mantissa are worked on once for all lanes.  Keeps no sums; pacq_dot chains eight of these.
//
// A lane takes a code v of four bits and multiplies with v - 8.  INT4 codes are that; an INT2 code u is sent as 8 + u and so
// multiplies with u; an INT8 code takes two lanes, 16 * (high - 8) + (low - 8).
`default_nettype none

module pacq_mac #(
    parameter LANES = 4,
    parameter FIRST = 0,  // of a cascade: nothing is added
    parameter LAST = 0    // of a cascade: its sums go elsewhere
) (
    input wire clk_i,
    input wire [15:0] half_i,
    input wire [4*LANES-1:0] codes_i,
    input wire [48*LANES-1:0] sums_i,   // four cycles later than the operands
    output wire [48*LANES-1:0] sums_o   // five cycles after the operands: sums_i + half * (code - 8), in units of 2^-24
);
    wire signed [17:0] mantissa;
    wire [4:0] place;
    reg [4*LANES-1:0] codes_q;
    pacq_align u_align (.clk_i(clk_i), .half_i(half_i), .mantissa_o(mantissa), .place_o(place));
    always @(posedge clk_i) codes_q <= codes_i;

    genvar l;
    generate
        for (l = 0; l < LANES; l = l + 1) begin : g_lane
            pacq_lane #(.FIRST(FIRST), .LAST(LAST)) u_lane (
                .clk_i(clk_i), .code_i(codes_q[4*l+:4]), .mantissa_i(mantissa), .place_i(place),
                .sum_i(sums_i[48*l+:48]), .sum_o(sums_o[48*l+:48])
            );
        end
    endgenerate
endmodule

`default_nettype wire
