// SPDX-License-Identifier: Apache-2.0
// An FP16 activation as two factors whose product with a weight is exact: a signed mantissa, and the place where the weight
// stands.  Multiplies nothing; done once for all weights that meet the activation.
//
// In units of 2^-24 an activation is +-M * 2^shift, with M of 11 bits and shift from 0 to 29.  The shift is shared between
// the two operands of a DSP48E2 multiplier: up to 6 in the 18-bit one, and 0, 7, 14, 21 or 23 in the 27-bit one.
// Subnormals are exact.  Infinities and NaN count as the largest finite value of their sign.
`default_nettype none

module pacq_align (
    input wire clk_i,
    input wire [15:0] half_i,
    output reg signed [17:0] mantissa_o,  // one cycle later: +-M * 2^(part of the shift)
    output reg [4:0] place_o              // one hot: the weight's lowest bit stands at 0, 7, 14, 21 or 23
);
    wire sign = half_i[15];
    wire [4:0] exponent = half_i[14:10];
    wire special = &exponent;
    wire [10:0] mantissa = {|exponent, half_i[9:0] | {10{special}}};
    // A shift is one less than the exponent, 0 for subnormals; that of 31 counts as that of 30.
    reg [4:0] place;
    reg [2:0] shift;
    always @* begin
        case (exponent)
            5'd0, 5'd1: {place, shift} = {5'b00001, 3'd0};
            5'd2: {place, shift} = {5'b00001, 3'd1};
            5'd3: {place, shift} = {5'b00001, 3'd2};
            5'd4: {place, shift} = {5'b00001, 3'd3};
            5'd5: {place, shift} = {5'b00001, 3'd4};
            5'd6: {place, shift} = {5'b00001, 3'd5};
            5'd7: {place, shift} = {5'b00001, 3'd6};
            5'd8: {place, shift} = {5'b00010, 3'd0};
            5'd9: {place, shift} = {5'b00010, 3'd1};
            5'd10: {place, shift} = {5'b00010, 3'd2};
            5'd11: {place, shift} = {5'b00010, 3'd3};
            5'd12: {place, shift} = {5'b00010, 3'd4};
            5'd13: {place, shift} = {5'b00010, 3'd5};
            5'd14: {place, shift} = {5'b00010, 3'd6};
            5'd15: {place, shift} = {5'b00100, 3'd0};
            5'd16: {place, shift} = {5'b00100, 3'd1};
            5'd17: {place, shift} = {5'b00100, 3'd2};
            5'd18: {place, shift} = {5'b00100, 3'd3};
            5'd19: {place, shift} = {5'b00100, 3'd4};
            5'd20: {place, shift} = {5'b00100, 3'd5};
            5'd21: {place, shift} = {5'b00100, 3'd6};
            5'd22: {place, shift} = {5'b01000, 3'd0};
            5'd23: {place, shift} = {5'b01000, 3'd1};
            5'd24: {place, shift} = {5'b01000, 3'd2};
            5'd25: {place, shift} = {5'b01000, 3'd3};
            5'd26: {place, shift} = {5'b01000, 3'd4};
            5'd27: {place, shift} = {5'b01000, 3'd5};
            5'd28: {place, shift} = {5'b01000, 3'd6};
            5'd29: {place, shift} = {5'b10000, 3'd5};
            default: {place, shift} = {5'b10000, 3'd6};
        endcase
    end
    wire [17:0] shifted = {7'd0, mantissa} << shift;
    always @(posedge clk_i) begin
        mantissa_o <= sign ? -$signed(shifted) : $signed(shifted);
        place_o <= place;
    end
endmodule

`default_nettype wire
