// SPDX-License-Identifier: Apache-2.0
// FP16 to FP32, exact, subnormals too; one per cycle, a cycle later.  Infinities and NaN do not come.
`default_nettype none

module half_to_float (
    input wire clk_i,
    input wire [15:0] half_i,
    output reg [31:0] float_o
);
    wire subnormal = half_i[14:10] == 5'd0;
    // A subnormal's highest bit is brought to the top, where the hidden bit of others stands.
    wire [15:0] n4 = {half_i[9:0], 6'd0};
    wire [15:0] n3 = |n4[15:8] ? n4 : {n4[7:0], 8'd0};
    wire [15:0] n2 = |n3[15:12] ? n3 : {n3[11:0], 4'd0};
    wire [15:0] n1 = |n2[15:14] ? n2 : {n2[13:0], 2'd0};
    wire [15:0] n0 = n1[15] ? n1 : {n1[14:0], 1'd0};
    wire [3:0] zeros = {!(|n4[15:8]), !(|n3[15:12]), !(|n2[15:14]), !n1[15]};
    wire [7:0] exponent = subnormal ? (n0[15] ? 8'd112 - {4'd0, zeros} : 8'd0) : {3'd0, half_i[14:10]} + 8'd112;
    always @(posedge clk_i) float_o <= {half_i[15], exponent, subnormal ? n0[14:5] : half_i[9:0], 13'd0};
endmodule

`default_nettype wire
