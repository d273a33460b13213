// SPDX-License-Identifier: Apache-2.0
// Scales and minima of the groups being multiplied: kept as they came from memory, read as FP32, a row of every port at a time.
`default_nettype none

module pacq_parameters #(
    parameter PORTS = 4
) (
    input wire clk_i,
    input wire write_i,
    input wire [2:0] write_set_i,
    input wire [2:0] write_beat_i,
    input wire [128*PORTS-1:0] beats_i,
    input wire [2:0] set_i,
    input wire [3:0] row_i,               // of the band
    input wire wide_i,
    input wire minimum_i,
    output wire [32*PORTS-1:0] scale_o,   // ten cycles later
    output wire [32*PORTS-1:0] minimum_o  // zero where there is none
);
    localparam LATE = 6;  // cycles that the address waits for the sums it goes with
    reg [9*LATE-1:0] late_q;
    always @(posedge clk_i) late_q <= {late_q[9*(LATE-1)-1:0], wide_i, minimum_i, set_i, row_i};
    wire wide = late_q[9*LATE-1], minimum = late_q[9*LATE-2];
    wire [2:0] set = late_q[9*LATE-3-:3];
    wire [3:0] row = late_q[9*LATE-6-:4];
    wire [2:0] beat = wide && minimum ? row[3:1] : wide || minimum ? {1'b0, row[3:2]} : {2'b00, row[3]};

    reg [2:0] part_q;
    reg wide_q, minimum_q, wide2_q, wide3_q, wide4_q;
    always @(posedge clk_i) begin
        part_q <= row[2:0];
        {wide_q, minimum_q} <= {wide, minimum};
        {wide4_q, wide3_q, wide2_q} <= {wide3_q, wide2_q, wide_q};
    end
    genvar p;
    generate
        for (p = 0; p < PORTS; p = p + 1) begin : g_port
            reg [127:0] memory[0:63];
            reg [127:0] beat_q;
            always @(posedge clk_i) begin
                if (write_i) memory[{write_set_i, write_beat_i}] <= beats_i[128*p+:128];
                beat_q <= memory[{set, beat}];
            end
            // In FP16 a pair of 32 bits or a scale of 16; in FP32 a pair of 64 or a scale of 32.
            wire [63:0] pair = beat_q[64*part_q[0]+:64];
            wire [31:0] word = beat_q[32*part_q[1:0]+:32];
            wire [15:0] single = beat_q[16*part_q+:16];
            reg [31:0] wide_scale_q, wide_minimum_q, wide2_scale_q, wide2_minimum_q, wide3_scale_q, wide3_minimum_q;
            reg [15:0] half_scale_q, half_minimum_q;
            wire [31:0] half_scale, half_minimum;
            always @(posedge clk_i) begin
                wide_scale_q <= minimum_q ? pair[31:0] : word;
                wide_minimum_q <= minimum_q ? pair[63:32] : 32'd0;
                half_scale_q <= minimum_q ? word[15:0] : single;
                half_minimum_q <= minimum_q ? word[31:16] : 16'd0;
                {wide2_scale_q, wide2_minimum_q} <= {wide_scale_q, wide_minimum_q};
                {wide3_scale_q, wide3_minimum_q} <= {wide2_scale_q, wide2_minimum_q};
            end
            half_to_float u_scale (.clk_i(clk_i), .half_i(half_scale_q), .float_o(half_scale));
            half_to_float u_minimum (.clk_i(clk_i), .half_i(half_minimum_q), .float_o(half_minimum));
            assign scale_o[32*p+:32] = wide4_q ? wide3_scale_q : half_scale;
            assign minimum_o[32*p+:32] = wide4_q ? wide3_minimum_q : half_minimum;
        end
    endgenerate
endmodule

`default_nettype wire
