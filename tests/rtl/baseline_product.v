// SPDX-License-Identifier: Apache-2.0
// The products of baseline_mac: a weight converted to FP16, times an activation in FP16, exact in FP32.
`default_nettype none

module baseline_product #(
    parameter LANES = 4,
    parameter BITS = 4
) (
    input wire clk_i,
    input wire [15:0] half_i,
    input wire [BITS*LANES-1:0] codes_i,
    output wire [32*LANES-1:0] products_o  // three cycles later
);
    localparam signed [4:0] MIDDLE = 1 << (BITS - 1);
    genvar l;
    generate
        for (l = 0; l < LANES; l = l + 1) begin : g_lane
            wire signed [4:0] value = $signed({{(5 - BITS) {1'b0}}, codes_i[BITS*l+:BITS]}) - MIDDLE;
            wire [3:0] size = value[4] ? -value[3:0] : value[3:0];
            wire [4:0] exponent = size[3] ? 5'd18 : size[2] ? 5'd17 : size[1] ? 5'd16 : 5'd15;
            wire [3:0] shifted = size << (5'd18 - exponent);
            reg [15:0] weight_q, half_q;
            reg [21:0] product_q;
            reg [6:0] exponent_q;
            reg sign_q, zero_q;
            reg [31:0] float_q;
            wire high = product_q[21];
            always @(posedge clk_i) begin
                weight_q <= size == 0 ? 16'd0 : {value[4], exponent, shifted[2:0], 7'd0};
                half_q <= half_i;
                product_q <= {1'b1, weight_q[9:0]} * {1'b1, half_q[9:0]};
                exponent_q <= {2'd0, weight_q[14:10]} + {2'd0, half_q[14:10]};
                sign_q <= weight_q[15] ^ half_q[15];
                zero_q <= weight_q[14:10] == 0 || half_q[14:10] == 0;
                float_q <= zero_q ? 32'd0
                    : {sign_q, {1'b0, exponent_q} + 8'd97 + {7'd0, high}, high ? product_q[20:0] : {product_q[19:0], 1'b0}, 2'd0};
            end
            assign products_o[32*l+:32] = float_q;
        end
    endgenerate
endmodule

`default_nettype wire
