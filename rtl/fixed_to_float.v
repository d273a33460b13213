// SPDX-License-Identifier: Apache-2.0
// A signed integer in units of 2^-24 to FP32, rounded to nearest even; one per cycle, three cycles later.
`default_nettype none

module fixed_to_float #(
    parameter WIDTH = 64  // at most 64
) (
    input wire clk_i,
    input wire signed [WIDTH-1:0] fixed_i,
    output reg [31:0] float_o
);
    initial if (WIDTH > 64) $fatal(1, "fixed_to_float: WIDTH is %0d, at most 64", WIDTH);

    // Magnitude.
    reg sign_q;
    reg [63:0] magnitude_q;
    wire signed [63:0] wide = {{(64 - WIDTH) {fixed_i[WIDTH-1]}}, fixed_i};
    always @(posedge clk_i) begin
        sign_q <= fixed_i[WIDTH-1];
        magnitude_q <= fixed_i[WIDTH-1] ? -wide : wide;
    end

    // Normalized: the highest bit set comes to stand at bit 63.
    wire [63:0] n5 = |magnitude_q[63:32] ? magnitude_q : {magnitude_q[31:0], 32'd0};
    wire [63:0] n4 = |n5[63:48] ? n5 : {n5[47:0], 16'd0};
    wire [63:0] n3 = |n4[63:56] ? n4 : {n4[55:0], 8'd0};
    wire [63:0] n2 = |n3[63:60] ? n3 : {n3[59:0], 4'd0};
    wire [63:0] n1 = |n2[63:62] ? n2 : {n2[61:0], 2'd0};
    wire [63:0] n0 = n1[63] ? n1 : {n1[62:0], 1'd0};
    wire [5:0] zeros = {!(|magnitude_q[63:32]), !(|n5[63:48]), !(|n4[63:56]), !(|n3[63:60]), !(|n2[63:62]), !n1[63]};
    reg sign2_q;
    reg [63:0] normal_q;
    reg [7:0] exponent_q;
    always @(posedge clk_i) begin
        sign2_q <= sign_q;
        normal_q <= n0;
        exponent_q <= n0[63] ? 8'd166 - {2'd0, zeros} : 8'd0;  // 63 - 24 + 127
    end

    // Rounded: what carries out of the mantissa goes into the exponent by itself.
    wire up = normal_q[39] && (normal_q[40] || |normal_q[38:0]);
    always @(posedge clk_i) float_o <= {sign2_q && normal_q[63], {exponent_q, normal_q[62:40]} + {30'd0, up}};
endmodule

`default_nettype wire
