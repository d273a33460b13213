// SPDX-License-Identifier: Apache-2.0
// For the SAT solver: the carry chain of add_clear adds as its line for simulators does.
`default_nettype none

module formal_add (
    input wire clear_i,
    input wire carry_i,
    input wire [9:0] a_i,
    input wire [9:0] b_i
);
    wire [9:0] sum;
    add_clear #(.WIDTH(10)) u_add (.clear_i(clear_i), .a_i(a_i), .b_i(b_i), .carry_i(carry_i), .sum_o(sum));
    always @* assert (sum == (clear_i ? 10'd0 : a_i) + b_i + {9'd0, carry_i});
endmodule

`default_nettype wire
