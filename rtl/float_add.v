// SPDX-License-Identifier: Apache-2.0
// The FP32 sum, rounded to nearest even; one per cycle, six cycles later.  For normal numbers and zeros whose sum is one too;
// a sum of zero is +0.
`default_nettype none

module float_add (
    input wire clk_i,
    input wire [31:0] a_i,
    input wire [31:0] b_i,
    output reg [31:0] sum_o
);
    // 1: the larger magnitude first, and how far the smaller one is shifted: at most 26.
    wire swap = b_i[30:0] > a_i[30:0];
    wire [31:0] larger = swap ? b_i : a_i;
    wire [31:0] smaller = swap ? a_i : b_i;
    reg sign_q, subtract_q;
    reg [7:0] exponent_q, shift_q;
    reg [23:0] large_q, small_q;
    always @(posedge clk_i) begin
        sign_q <= larger[31];
        subtract_q <= larger[31] ^ smaller[31];
        exponent_q <= larger[30:23];
        shift_q <= larger[30:23] - smaller[30:23];
        large_q <= {larger[30:23] != 0, larger[22:0] & {23{larger[30:23] != 0}}};
        small_q <= {smaller[30:23] != 0, smaller[22:0] & {23{smaller[30:23] != 0}}};
    end

    // 2: the smaller one shifted to its place, with all that falls off.
    wire far = shift_q > 8'd26;
    wire [49:0] moved = {small_q, 26'd0} >> (far ? 5'd26 : shift_q[4:0]);
    reg sign2_q, subtract2_q;
    reg [7:0] exponent2_q;
    reg [23:0] large2_q;
    reg [49:0] small2_q;
    always @(posedge clk_i) begin
        {sign2_q, subtract2_q, exponent2_q} <= {sign_q, subtract_q, exponent_q};
        large2_q <= large_q;
        small2_q <= moved;
    end

    // 3: sum or difference, with guard, round and sticky bits.
    wire [27:0] large3 = {1'b0, large2_q, 3'd0};
    wire [27:0] small3 = {1'b0, small2_q[49:24], |small2_q[23:0]};
    reg sign3_q;
    reg [7:0] exponent3_q;
    reg [27:0] sum3_q;
    always @(posedge clk_i) begin
        {sign3_q, exponent3_q} <= {sign2_q, exponent2_q};
        sum3_q <= subtract2_q ? large3 - small3 : large3 + small3;
    end

    // 4 and 5: normalized, the highest bit at 27.
    wire [27:0] n4 = |sum3_q[27:12] ? sum3_q : {sum3_q[11:0], 16'd0};
    wire [27:0] n3 = |n4[27:20] ? n4 : {n4[19:0], 8'd0};
    reg sign4_q;
    reg [7:0] exponent4_q;
    reg [27:0] n3_q;
    wire [27:0] n2 = |n3_q[27:24] ? n3_q : {n3_q[23:0], 4'd0};
    wire [27:0] n1 = |n2[27:26] ? n2 : {n2[25:0], 2'd0};
    wire [27:0] n0 = n1[27] ? n1 : {n1[26:0], 1'd0};
    wire [4:0] left = {2'd0, !(|n3_q[27:24]), !(|n2[27:26]), !n1[27]};
    reg sign5_q;
    reg [7:0] exponent5_q;
    reg [27:0] n0_q;
    always @(posedge clk_i) begin
        sign4_q <= sign3_q;
        exponent4_q <= exponent3_q + 8'd1 - {3'd0, !(|sum3_q[27:12]), !(|n4[27:20]), 3'd0};
        n3_q <= n3;
        sign5_q <= sign4_q;
        exponent5_q <= exponent4_q - {3'd0, left};
        n0_q <= n0;
    end

    // 6: rounded.
    wire up = n0_q[3] && (n0_q[4] || |n0_q[2:0]);
    always @(posedge clk_i) sum_o <= n0_q[27] ? {sign5_q, {exponent5_q, n0_q[26:4]} + {30'd0, up}} : 32'd0;
endmodule

`default_nettype wire
