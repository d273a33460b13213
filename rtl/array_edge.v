// SPDX-License-Identifier: Apache-2.0
// What enters a column of the array: sixteen bits of activations become the operands that every row of the column multiplies with.
// Done once per column and token pair, not per multiplier.
//
//   mode 0  INT8: two tokens' codes, the second at bit 18 of a slice's A + D, so that one product is two
//   mode 1  a probability, 16 bits without a sign
//   mode 2  FP16 (FLOATS): in units of 2^-24 it is +-M * 2^shift, with M of 11 bits and shift from 0 to 29.  Up to 15 of the shift is
//           done here; for shifts of 16 and more 14 of it is the weight's, which `high_o` says.  Infinities and NaN count as the
//           largest finite value of their sign.
`default_nettype none

module array_edge #(
    parameter FLOATS = 0
) (
    input wire clk_i,
    input wire [1:0] mode_i,
    input wire [15:0] value_i,
    output reg signed [26:0] first_o,   // one cycle later, two with FLOATS
    output reg signed [7:0] second_o,   // of the second token; its place is bit 18
    output reg high_o                   // the weight stands 14 bits higher
);
    generate
        if (FLOATS == 0) begin : g_codes
            always @(posedge clk_i) begin
                first_o <= mode_i[0] ? {11'd0, value_i} : {{19{value_i[7]}}, value_i[7:0]};
                second_o <= mode_i[0] ? 8'd0 : value_i[15:8];
                high_o <= 1'b0;
            end
            wire unused = mode_i[1];
        end else begin : g_floats
            wire [4:0] exponent = value_i[14:10];
            wire special = &exponent;
            wire [4:0] shift = exponent == 5'd0 ? 5'd0 : special ? 5'd29 : exponent - 5'd1;
            wire [10:0] mantissa = {|exponent, value_i[9:0] | {10{special}}};
            reg signed [11:0] mantissa_q;
            reg [3:0] shift_q;
            reg high_q;
            reg [15:0] value_q;
            reg [1:0] mode_q;
            wire [26:0] aligned = {{15{mantissa_q[11]}}, mantissa_q} << shift_q;
            always @(posedge clk_i) begin
                mantissa_q <= value_i[15] ? -$signed({1'b0, mantissa}) : $signed({1'b0, mantissa});
                shift_q <= shift[4] ? shift[3:0] + 4'd2 : shift[3:0];  // 16 less 14
                high_q <= shift[4] & mode_i[1];
                value_q <= value_i;
                mode_q <= mode_i;
                first_o <= mode_q[1] ? aligned : mode_q[0] ? {11'd0, value_q} : {{19{value_q[7]}}, value_q[7:0]};
                second_o <= mode_q == 2'd0 ? value_q[15:8] : 8'd0;
                high_o <= high_q;
            end
        end
    endgenerate
endmodule

`default_nettype wire
