// SPDX-License-Identifier: Apache-2.0
// One weight against an aligned activation, added to what comes down the cascade: one DSP48E2 and the gates that put the
// weight's four bits in their place.  Knows neither group nor row.
//
//     sum_o = sum_i + activation * (code - 8)          in units of 2^-24, exact
//
// The slice does all of it (UG579): D + A takes the 8 off at the weight's place, the multiplier finishes the shift that the
// mantissa began, the adder takes the neighbour's sum from PCIN.  So neither a barrel shifter nor an adder tree is built.
`default_nettype none

module pacq_lane #(
    parameter FIRST = 0,  // of the cascade
    parameter LAST = 0
) (
    input wire clk_i,
    input wire [3:0] code_i,
    input wire signed [17:0] mantissa_i,  // from pacq_align, the same for every lane
    input wire [4:0] place_i,
    input wire signed [47:0] sum_i,       // three cycles later than the operands
    output wire signed [47:0] sum_o       // four cycles after the operands
);
    // The code's bits at the place that the activation chose, and minus eight there.
    wire [3:0] c = code_i;
    wire [26:0] weight = {27{place_i[0]}} & {23'd0, c} | {27{place_i[1]}} & {16'd0, c, 7'd0}
        | {27{place_i[2]}} & {9'd0, c, 14'd0} | {27{place_i[3]}} & {2'd0, c, 21'd0} | {27{place_i[4]}} & {c, 23'd0};
    wire [26:0] offset = {{24{place_i[0]}}, 3'd0} | {{17{place_i[1]}}, 10'd0} | {{10{place_i[2]}}, 17'd0}
        | {{3{place_i[3]}}, 24'd0} | {place_i[4], 26'd0};

    wire signed [47:0] whole, cascade;
    dsp_slice #(.FIRST(FIRST), .PREADD(1)) u_slice (
        .clk_i(clk_i), .a_i(weight), .b_i(mantissa_i), .d_i(offset), .pcin_i(sum_i), .p_o(whole), .pcout_o(cascade)
    );
    assign sum_o = LAST ? whole : cascade;
endmodule

`default_nettype wire
