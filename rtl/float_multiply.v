// SPDX-License-Identifier: Apache-2.0
// The FP32 product, rounded to nearest even; one per cycle, four cycles later.  For normal numbers and zeros whose product is
// one too: machine/storage/groups.py keeps scales where nothing can overflow or become subnormal.
`default_nettype none

module float_multiply (
    input wire clk_i,
    input wire [31:0] a_i,
    input wire [31:0] b_i,
    output reg [31:0] product_o
);
    reg sign_q, zero_q, sign2_q, zero2_q, sign3_q, zero3_q;
    reg [23:0] a_q, b_q;
    reg [9:0] exponent_q, exponent2_q, exponent3_q;
    reg [47:0] product_q, product2_q;
    always @(posedge clk_i) begin
        sign_q <= a_i[31] ^ b_i[31];
        zero_q <= a_i[30:23] == 0 || b_i[30:23] == 0;
        a_q <= {1'b1, a_i[22:0]};
        b_q <= {1'b1, b_i[22:0]};
        exponent_q <= {2'd0, a_i[30:23]} + {2'd0, b_i[30:23]} - 10'd127;

        {sign2_q, zero2_q, exponent2_q} <= {sign_q, zero_q, exponent_q};
        product_q <= a_q * b_q;
        {sign3_q, zero3_q, exponent3_q} <= {sign2_q, zero2_q, exponent2_q};
        product2_q <= product_q;
    end

    wire high = product2_q[47];  // the product of the mantissas is 2 or more
    wire [47:0] normal = high ? product2_q : {product2_q[46:0], 1'b0};
    wire up = normal[23] && (normal[24] || |normal[22:0]);
    wire [7:0] exponent = exponent3_q[7:0] + {7'd0, high};
    always @(posedge clk_i) product_o <= zero3_q ? 32'd0 : {sign3_q, {exponent, normal[46:24]} + {30'd0, up}};
endmodule

`default_nettype wire
