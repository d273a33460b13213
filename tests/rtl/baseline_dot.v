// SPDX-License-Identifier: Apache-2.0
// What pacq_dot is measured against: eight baseline_mac a lane, a tree of FP32 adders, and FP32 accumulation.  An FP32 adder takes
// six cycles, so the beats of six tiles of rows take turns: a tile's next beat comes when its sum does.
`default_nettype none

module baseline_dot #(
    parameter LANES = 4,
    parameter BITS = 4
) (
    input wire clk_i,
    input wire first_i,                     // of a tile's group
    input wire [127:0] halves_i,
    input wire [8*BITS*LANES-1:0] codes_i,  // column k in bits BITS*LANES*k ..
    output wire [32*LANES-1:0] sums_o       // 27 cycles later, with this beat
);
    localparam LATE = 21;  // the products, and three levels of the tree
    wire [32*LANES-1:0] products[0:7];
    reg [LATE-1:0] first_q;
    always @(posedge clk_i) first_q <= {first_q[LATE-2:0], first_i};
    genvar k, l;
    generate
        for (k = 0; k < 4; k = k + 1) begin : g_pair
            // The first level of the tree is the adder of every second multiplier.
            wire [32*LANES-1:0] one;
            baseline_product #(.LANES(LANES), .BITS(BITS)) u_product (
                .clk_i(clk_i), .half_i(halves_i[32*k+:16]), .codes_i(codes_i[2*BITS*LANES*k+:BITS*LANES]), .products_o(one)
            );
            baseline_mac #(.LANES(LANES), .BITS(BITS)) u_mac (
                .clk_i(clk_i), .half_i(halves_i[32*k+16+:16]), .codes_i(codes_i[2*BITS*LANES*k+BITS*LANES+:BITS*LANES]),
                .sums_i(one), .sums_o(products[k])
            );
        end
        for (l = 0; l < LANES; l = l + 1) begin : g_tree
            wire [31:0] left, right, whole;
            float_add u_left (.clk_i(clk_i), .a_i(products[0][32*l+:32]), .b_i(products[1][32*l+:32]), .sum_o(left));
            float_add u_right (.clk_i(clk_i), .a_i(products[2][32*l+:32]), .b_i(products[3][32*l+:32]), .sum_o(right));
            float_add u_whole (.clk_i(clk_i), .a_i(left), .b_i(right), .sum_o(whole));
            float_add u_sum (
                .clk_i(clk_i), .a_i(whole), .b_i(first_q[LATE-1] ? 32'd0 : sums_o[32*l+:32]), .sum_o(sums_o[32*l+:32])
            );
        end
    endgenerate
endmodule

`default_nettype wire
