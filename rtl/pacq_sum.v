// SPDX-License-Identifier: Apache-2.0
// The shared sums of activations, one a quantization group, as rows of activations come by: exact, then as FP32, and times the
// small integer that the codes are off by.  So a lane multiplies codes as they are, and nothing is subtracted a weight.
`default_nettype none

module pacq_sum #(
    parameter TAG = 8
) (
    input wire clk_i,
    input wire rst_i,
    input wire [127:0] halves_i,
    input wire valid_i,
    input wire first_i,        // of the group
    input wire last_i,
    input wire [1:0] shift_i,  // what codes are off by: 0: nothing, 1: 8, 2: -2, 3: 136
    input wire [TAG-1:0] tag_i,
    output wire valid_o,       // thirteen cycles after the last
    output wire [TAG-1:0] tag_o,
    output wire [57:0] offset_o,  // that times the sum, in units of 2^-24
    output wire [31:0] float_o
);
    // Activations in units of 2^-24: 41 bits and a sign.
    wire signed [41:0] fixed[0:7];
    genvar k;
    generate
        for (k = 0; k < 8; k = k + 1) begin : g_fixed
            wire [4:0] exponent = halves_i[16*k+10+:5];
            wire special = &exponent;  // counts as the largest finite value, as in pacq_align
            wire [4:0] shift_by = exponent == 5'd0 ? 5'd0 : special ? 5'd29 : exponent - 5'd1;
            wire [40:0] magnitude = {30'd0, |exponent, halves_i[16*k+:10] | {10{special}}} << shift_by;
            reg sign_q;
            reg [40:0] magnitude_q;
            reg signed [41:0] fixed_q;
            always @(posedge clk_i) begin
                sign_q <= halves_i[16*k+15];
                magnitude_q <= magnitude;
                fixed_q <= sign_q ? -$signed({1'b0, magnitude_q}) : $signed({1'b0, magnitude_q});
            end
            assign fixed[k] = fixed_q;
        end
        for (k = 0; k < 4; k = k + 1) begin : g_pair
            reg signed [42:0] pair_q;
            always @(posedge clk_i) pair_q <= {fixed[2*k][41], fixed[2*k]} + {fixed[2*k+1][41], fixed[2*k+1]};
        end
    endgenerate
    reg signed [44:0] eight_q;
    reg signed [49:0] sum_q, whole_q;
    reg [3:0] first_q, valid_q;
    always @(posedge clk_i) begin
        first_q <= {first_q[2:0], first_i};
        valid_q <= {valid_q[2:0], valid_i};
        eight_q <= {{2{g_pair[0].pair_q[42]}}, g_pair[0].pair_q} + {{2{g_pair[1].pair_q[42]}}, g_pair[1].pair_q}
            + {{2{g_pair[2].pair_q[42]}}, g_pair[2].pair_q} + {{2{g_pair[3].pair_q[42]}}, g_pair[3].pair_q};
        if (valid_q[3]) sum_q <= (first_q[3] ? 50'sd0 : sum_q) + {{5{eight_q[44]}}, eight_q};
        whole_q <= sum_q;
    end

    localparam LATENCY = 13;
    reg [LATENCY-1:0] done_q;
    reg [(TAG+2)*LATENCY-1:0] tag_q;
    always @(posedge clk_i) begin
        done_q <= rst_i ? {LATENCY{1'b0}} : {done_q[LATENCY-2:0], valid_i && last_i};
        tag_q <= {tag_q[(TAG+2)*(LATENCY-1)-1:0], shift_i, tag_i};
    end
    assign valid_o = done_q[LATENCY-1];
    assign tag_o = tag_q[(TAG+2)*(LATENCY-1)+:TAG];
    wire [1:0] shift = tag_q[(TAG+2)*5+TAG+:2];  // beside whole_q

    // From the whole sum, six cycles after the last, seven more to FP32 and to the product.
    wire [31:0] early;
    fixed_to_float #(.WIDTH(50)) u_float (.clk_i(clk_i), .fixed_i(whole_q), .float_o(early));
    reg [31:0] float_q;
    wire signed [57:0] wide = {{8{whole_q[49]}}, whole_q};
    reg [57:0] offset_q;
    reg [58*6-1:0] late_q;
    always @(posedge clk_i) begin
        case (shift)
            2'd0: offset_q <= 58'd0;
            2'd1: offset_q <= wide <<< 3;
            2'd2: offset_q <= -(wide <<< 1);
            default: offset_q <= (wide <<< 7) + (wide <<< 3);
        endcase
        late_q <= {late_q[58*5-1:0], offset_q};
        float_q <= early;
    end
    assign offset_o = late_q[58*5+:58];
    assign float_o = float_q;
endmodule

`default_nettype wire
