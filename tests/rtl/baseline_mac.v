// SPDX-License-Identifier: Apache-2.0
// What pacq_mac is measured against, the conventional way: each weight is unpacked and converted to FP16, multiplied as FP16 (the
// exact product kept in FP32), and added in FP32.  Same lanes.  Subnormal activations count as zero, as such designs have it.
`default_nettype none

module baseline_mac #(
    parameter LANES = 4,
    parameter BITS = 4
) (
    input wire clk_i,
    input wire [15:0] half_i,
    input wire [BITS*LANES-1:0] codes_i,     // code - 2^(BITS - 1) is multiplied
    input wire [32*LANES-1:0] sums_i,        // three cycles later than the operands
    output wire [32*LANES-1:0] sums_o        // eight cycles after the operands
);
    wire [32*LANES-1:0] products;
    baseline_product #(.LANES(LANES), .BITS(BITS)) u_product (
        .clk_i(clk_i), .half_i(half_i), .codes_i(codes_i), .products_o(products)
    );
    genvar l;
    generate
        for (l = 0; l < LANES; l = l + 1) begin : g_lane
            float_add u_add (.clk_i(clk_i), .a_i(products[32*l+:32]), .b_i(sums_i[32*l+:32]), .sum_o(sums_o[32*l+:32]));
        end
    endgenerate
endmodule

`default_nettype wire
