// SPDX-License-Identifier: Apache-2.0
// The FP32 product, rounded to nearest even; one per cycle, five cycles later.  For normal numbers and zeros whose product is
// one too: machine/storage/groups.py keeps scales where nothing can overflow or become subnormal.
`default_nettype none

module float_multiply (
    input wire clk_i,
    input wire [31:0] a_i,
    input wire [31:0] b_i,
    output reg [31:0] product_o
);
    // 1 to 4: the mantissas, over two slices; the second takes the upper seven bits of one factor and what the first hands on.
    wire [47:0] low, low_cascade, high;
    wire [26:0] a = {4'd1, a_i[22:0]};
    dsp_slice #(.FIRST(1), .DELAYS(1)) u_low (
        .clk_i(clk_i), .a_i(a), .b_i({1'b0, b_i[16:0]}), .d_i(27'd0), .pcin_i(48'd0), .p_o(low), .pcout_o(low_cascade)
    );
    dsp_slice #(.SHIFT(1), .DELAYS(2)) u_high (
        .clk_i(clk_i), .a_i(a), .b_i({12'd1, b_i[22:17]}), .d_i(27'd0), .pcin_i(low_cascade), .p_o(high), .pcout_o()
    );
    reg [3:0] sign_q, zero_q;
    reg [39:0] exponent_q;
    reg [16:0] low_q;
    always @(posedge clk_i) begin
        sign_q <= {sign_q[2:0], a_i[31] ^ b_i[31]};
        zero_q <= {zero_q[2:0], a_i[30:23] == 0 || b_i[30:23] == 0};
        exponent_q <= {exponent_q[29:0], {2'd0, a_i[30:23]} + {2'd0, b_i[30:23]} - 10'd127};
        low_q <= low[16:0];
    end

    // 5: rounded.
    wire [47:0] product = {high[30:0], low_q};
    wire upper = product[47];  // the product of the mantissas is 2 or more
    wire [47:0] normal = upper ? product : {product[46:0], 1'b0};
    wire up = normal[23] && (normal[24] || |normal[22:0]);
    wire [7:0] exponent = exponent_q[37:30] + {7'd0, upper};
    always @(posedge clk_i) product_o <= zero_q[3] ? 32'd0 : {sign_q[3], {exponent, normal[46:24]} + {30'd0, up}};
endmodule

`default_nettype wire
