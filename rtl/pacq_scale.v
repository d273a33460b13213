// SPDX-License-Identifier: Apache-2.0
// From sums of a group to results: four lanes of every port after each other, one per cycle, each
//
//     y = y + (scale * fp32(sum + offset) + minimum * fp32(shared sum))
//
// over the groups in ascending order, from +0.  The partial results of a band of rows wait here for their next group.
`default_nettype none

module pacq_scale #(
    parameter PORTS = 4,
    parameter BATCHES = 64  // a power of two
) (
    input wire clk_i,
    input wire rst_i,
    // A lane of every port; its sums come a cycle later.
    input wire valid_i,
    input wire [1:0] lane_i,
    input wire eight_i,                      // INT8: lanes 2n and 2n + 1 are the halves of a code
    input wire first_i,                      // the group is the row's first
    input wire last_i,
    input wire [3:0] row_i,                  // of the band
    input wire [$clog2(BATCHES)-1:0] batch_i,
    // A cycle later.
    input wire [4*56*PORTS-1:0] sums_i,      // of four lanes of each port
    input wire [57:0] offset_i,
    input wire [31:0] shared_i,
    // Ten cycles later.
    input wire [32*PORTS-1:0] scale_i,
    input wire [32*PORTS-1:0] minimum_i,
    // 27 cycles later: a row's result.
    output wire valid_o,
    output wire [32*PORTS-1:0] result_o
);
    localparam BITS = $clog2(BATCHES) + 4;
    localparam LATENCY = 27;
    localparam ADD = 6;  // cycles of float_add

    // What goes along: the shared sum for nine steps, its product with the offset for two, the place of the partial result to the end.
    reg [LATENCY-1:0] valid_q, last_q, first_q;
    reg [BITS*LATENCY-1:0] place_q;
    reg [32*9-1:0] shared_q;
    reg [57:0] offset_q, offset2_q;
    reg eight_q, eight2_q;
    always @(posedge clk_i) begin
        valid_q <= rst_i ? {LATENCY{1'b0}} : {valid_q[LATENCY-2:0], valid_i && (!eight_i || lane_i[0])};
        last_q <= {last_q[LATENCY-2:0], last_i};
        first_q <= {first_q[LATENCY-2:0], first_i};
        place_q <= {place_q[BITS*(LATENCY-1)-1:0], batch_i, row_i};
        shared_q <= {shared_q[32*8-1:0], shared_i};
        {offset2_q, offset_q} <= {offset_q, offset_i};
        {eight2_q, eight_q} <= {eight_q, eight_i};
    end
    // A partial result is read two cycles before it is needed.  A row comes again at the earliest eight cycles later, which is when
    // its last result is written: then that is taken.
    wire [BITS-1:0] read_place = place_q[BITS*(LATENCY-ADD-3)+:BITS];
    wire [BITS-1:0] write_place = place_q[BITS*(LATENCY-1)+:BITS];
    wire begin_row = first_q[LATENCY-ADD-2];
    reg written_q;
    always @(posedge clk_i) written_q <= write && read_place == write_place;
    wire write = valid_q[LATENCY-1] && !last_q[LATENCY-1];
    assign valid_o = valid_q[LATENCY-1] && last_q[LATENCY-1];

    genvar p;
    generate
        for (p = 0; p < PORTS; p = p + 1) begin : g_port
            (* keep *) reg [1:0] lane_q;  // a copy for each port, whose sums it chooses from
            wire [55:0] lane0 = sums_i[56*4*p+:56], lane1 = sums_i[56*(4*p+1)+:56];
            wire [55:0] lane2 = sums_i[56*(4*p+2)+:56], lane3 = sums_i[56*(4*p+3)+:56];
            wire [55:0] below = lane_q[1] ? lane2 : lane0;
            wire [55:0] sum = lane_q[0] ? (lane_q[1] ? lane3 : lane1) : below;
            reg signed [55:0] sum_q, below_q;
            reg signed [63:0] code_q, whole_q;
            wire [31:0] float, scaled, shifted, term;
            always @(posedge clk_i) begin
                lane_q <= lane_i;
                sum_q <= sum;
                below_q <= below;
                code_q <= eight2_q ? {{4{sum_q[55]}}, sum_q, 4'd0} + {{8{below_q[55]}}, below_q} : {{8{sum_q[55]}}, sum_q};
                whole_q <= code_q + {{6{offset2_q[57]}}, offset2_q};
            end
            fixed_to_float #(.WIDTH(64)) u_float (.clk_i(clk_i), .fixed_i(whole_q), .float_o(float));
            float_multiply u_scale (.clk_i(clk_i), .a_i(float), .b_i(scale_i[32*p+:32]), .product_o(scaled));
            float_multiply u_minimum (.clk_i(clk_i), .a_i(shared_q[32*8+:32]), .b_i(minimum_i[32*p+:32]), .product_o(shifted));
            float_add u_term (.clk_i(clk_i), .a_i(scaled), .b_i(shifted), .sum_o(term));
            reg [31:0] partial[0:(1<<BITS)-1];
            reg [31:0] read_q, result_q, previous_q;
            wire [31:0] result;
            always @(posedge clk_i) begin
                read_q <= partial[read_place];
                result_q <= result;
                previous_q <= begin_row ? 32'd0 : written_q ? result_q : read_q;
            end
            float_add u_result (.clk_i(clk_i), .a_i(previous_q), .b_i(term), .sum_o(result));
            always @(posedge clk_i) if (write) partial[write_place] <= result;
            assign result_o[32*p+:32] = result;
        end
    endgenerate
endmodule

`default_nettype wire
