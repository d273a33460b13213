// SPDX-License-Identifier: Apache-2.0
// For the SAT solver: two tokens' sums of eight products come apart again.  One of the operands of each product is within +-127 and the
// other within -128 .. 127, so a sum is within 8 * 127 * 128; with one product more they do not always (test_formal.py plants that).
`default_nettype none

module formal_split #(
    parameter PRODUCTS = 8
) (
    input wire signed [19:0] first_i,
    input wire signed [19:0] second_i
);
    localparam signed [19:0] MOST = PRODUCTS * 127 * 128;
    wire signed [47:0] sum = {{28{first_i[19]}}, first_i} + ({{28{second_i[19]}}, second_i} <<< 18);  // as a slice adds them
    wire signed [19:0] low = {{2{sum[17]}}, sum[17:0]};
    wire signed [19:0] high = {{2{sum[35]}}, sum[35:18]} + {19'd0, sum[17]};
    always @* begin
        assume (first_i <= MOST && first_i >= -MOST && second_i <= MOST && second_i >= -MOST);
        assert (low == first_i && high == second_i);
    end
endmodule

`default_nettype wire
