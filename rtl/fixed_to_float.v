// SPDX-License-Identifier: Apache-2.0
// A signed integer in units of 2^-24 to FP32, rounded to nearest even; one per cycle, six cycles later.
`default_nettype none

module fixed_to_float #(
    parameter WIDTH = 64  // at most 64
) (
    input wire clk_i,
    input wire signed [WIDTH-1:0] fixed_i,
    output reg [31:0] float_o
);
    initial if (WIDTH > 64) $fatal(1, "fixed_to_float: WIDTH is %0d, at most 64", WIDTH);

    // 1: magnitude.
    reg sign_q;
    reg [63:0] magnitude_q;
    wire signed [63:0] wide = {{(64 - WIDTH) {fixed_i[WIDTH-1]}}, fixed_i};
    always @(posedge clk_i) begin
        sign_q <= fixed_i[WIDTH-1];
        magnitude_q <= fixed_i[WIDTH-1] ? -wide : wide;
    end

    // 2 to 4: normalized, in one, two and three steps: the highest bit set comes to stand at bit 63.
    wire [63:0] n5 = |magnitude_q[63:32] ? magnitude_q : {magnitude_q[31:0], 32'd0};
    reg sign2_q, sign3_q, sign4_q;
    reg [63:0] n5_q, n3_q, n0_q;
    wire [63:0] n4 = |n5_q[63:48] ? n5_q : {n5_q[47:0], 16'd0};
    wire [63:0] n3 = |n4[63:56] ? n4 : {n4[55:0], 8'd0};
    wire [63:0] n2 = |n3_q[63:60] ? n3_q : {n3_q[59:0], 4'd0};
    wire [63:0] n1 = |n2[63:62] ? n2 : {n2[61:0], 2'd0};
    wire [63:0] n0 = n1[63] ? n1 : {n1[62:0], 1'd0};
    reg zeros5_q;
    reg [2:0] zeros3_q;
    reg [5:0] zeros0_q;
    always @(posedge clk_i) begin
        {sign4_q, sign3_q, sign2_q} <= {sign3_q, sign2_q, sign_q};
        n5_q <= n5;
        zeros5_q <= !(|magnitude_q[63:32]);
        n3_q <= n3;
        zeros3_q <= {zeros5_q, !(|n5_q[63:48]), !(|n4[63:56])};
        n0_q <= n0;
        zeros0_q <= {zeros3_q, !(|n3_q[63:60]), !(|n2[63:62]), !n1[63]};
    end

    // 5: the exponent, and whether it rounds up.
    reg sign5_q, up_q;
    reg [7:0] exponent_q;
    reg [22:0] mantissa_q;
    always @(posedge clk_i) begin
        sign5_q <= sign4_q && n0_q[63];
        up_q <= n0_q[39] && (n0_q[40] || |n0_q[38:0]);
        exponent_q <= n0_q[63] ? 8'd166 - {2'd0, zeros0_q} : 8'd0;  // 63 - 24 + 127
        mantissa_q <= n0_q[62:40];
    end

    // 6: rounded; what carries out of the mantissa goes into the exponent by itself.
    always @(posedge clk_i) float_o <= {sign5_q, {exponent_q, mantissa_q} + {30'd0, up_q}};
endmodule

`default_nettype wire
