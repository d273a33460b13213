// SPDX-License-Identifier: Apache-2.0
// FP16 to FP32, exact, subnormals too; one per cycle, two cycles later.  Infinities and NaN do not come.
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
    reg [15:0] n2_q, half_q;
    reg [1:0] zeros_q;
    reg subnormal_q;
    always @(posedge clk_i) begin
        n2_q <= n2;
        zeros_q <= {!(|n4[15:8]), !(|n3[15:12])};
        half_q <= half_i;
        subnormal_q <= subnormal;
    end
    wire [15:0] n1 = |n2_q[15:14] ? n2_q : {n2_q[13:0], 2'd0};
    wire [15:0] n0 = n1[15] ? n1 : {n1[14:0], 1'd0};
    wire [3:0] zeros = {zeros_q, !(|n2_q[15:14]), !n1[15]};
    wire [7:0] exponent = subnormal_q ? (n0[15] ? 8'd112 - {4'd0, zeros} : 8'd0) : {3'd0, half_q[14:10]} + 8'd112;
    always @(posedge clk_i) float_o <= {half_q[15], exponent, subnormal_q ? n0[14:5] : half_q[9:0], 13'd0};
endmodule

`default_nettype wire
