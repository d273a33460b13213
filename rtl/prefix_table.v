// SPDX-License-Identifier: Apache-2.0
// The table of a prefix code into writes for the lanes.  It comes as it lies in memory, 32 bits per cycle; its header is kept, so that
// an entry of the lengths and an offset go out beside every four weights.
`default_nettype none

module prefix_table (
    input wire clk_i,
    input wire rst_i,
    input wire [31:0] data_i,
    input wire take_i,
    output reg [6:0] at_o,      // words that have come; 0 between tables
    output reg write_o,
    output reg offset_write_o,
    output reg [5:0] place_o,
    output reg [7:0] lengths_o,
    output reg [7:0] offset_o,
    output reg [31:0] weights_o
);
    localparam [6:0] OFFSETS = 16, WEIGHTS = 20, LAST = 83;  // 32-bit words before the offsets, before the weights, and the last
    (* ram_style = "distributed" *) reg [31:0] lengths[0:15];
    (* ram_style = "distributed" *) reg [31:0] offsets[0:3];
    wire [5:0] row = at_o[5:0] - WEIGHTS[5:0];
    wire [31:0] four_lengths = lengths[row[5:2]], four_offsets = offsets[row[3:2]];
    always @(posedge clk_i) begin
        if (take_i && at_o < OFFSETS) lengths[at_o[3:0]] <= data_i;
        if (take_i && at_o >= OFFSETS && at_o < WEIGHTS) offsets[at_o[1:0]] <= data_i;
        place_o <= row;
        lengths_o <= four_lengths[8*row[1:0]+:8];
        offset_o <= four_offsets[8*row[1:0]+:8];
        weights_o <= data_i;
        if (rst_i) begin
            at_o <= 7'd0;
            write_o <= 1'b0;
            offset_write_o <= 1'b0;
        end else begin
            if (take_i) at_o <= at_o == LAST ? 7'd0 : at_o + 7'd1;
            write_o <= take_i && at_o >= WEIGHTS;
            offset_write_o <= take_i && at_o >= WEIGHTS && at_o < WEIGHTS + 7'd16;
        end
    end
endmodule

`default_nettype wire
