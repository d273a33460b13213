// SPDX-License-Identifier: Apache-2.0
// The array: ROWS rows of weights against PAIRS columns of two tokens, eight columns of K per cycle.  For INT8 codes a slice makes two
// products; for probabilities and, with FLOATS, for FP16 activations one.  Exact.
//
// Cascades stand in blocks of BLOCK_ROWS x BLOCK_PAIRS.  Operands and control hop from block to block, a register each, so that no net
// leaves a block but to its neighbour.  A tile's sums are copied to a conveyor per column, and leave row after row while the next tile
// is multiplied.
`default_nettype none

module array_grid #(
    parameter ROWS = 16,
    parameter PAIRS = 12,
    parameter FLOATS = 0,
    parameter LOW = 32,
    parameter HIGH = 32,
    parameter BLOCK_ROWS = 4,
    parameter BLOCK_PAIRS = 4
) (
    input wire clk_i,
    input wire rst_i,
    input wire [1:0] mode_i,                 // array_edge.v: the same for all beats of a tile
    input wire valid_i,
    input wire begin_i,                      // the tile's first beat
    input wire end_i,                        // its last; the next end is ROWS + blocks of rows cycles later, or more
    input wire [PAIRS*8*16-1:0] values_i,    // pair p, column k: bits 128p + 16k ..
    input wire [ROWS*8*8-1:0] weights_i,     // row r, column k: bits 64r + 8k ..; codes within +-127, of FP16 -8 .. 7
    output wire leave_o,                     // row 0 of the first block's pairs is at sums_o, then row after row
    output wire [PAIRS*(LOW+HIGH)-1:0] sums_o  // a cycle later per block of pairs; a bubble between blocks of rows
);
    localparam EDGE = FLOATS ? 2 : 1;
    localparam DOWN = (ROWS + BLOCK_ROWS - 1) / BLOCK_ROWS;
    localparam ACROSS = (PAIRS + BLOCK_PAIRS - 1) / BLOCK_PAIRS;
    localparam LATENCY = EDGE + 1 + 4 + 7;  // edge, hop, slice, cascade
    genvar r, p, k, g;

    // Weights wait as long as the edge, k cycles for column k, and a cycle for each block of rows; then they hop over the blocks of pairs.
    wire [ROWS*64-1:0] weights[0:ACROSS-1];
    generate
        for (r = 0; r < ROWS; r = r + 1) begin : g_weights
            for (k = 0; k < 8; k = k + 1) begin : g_k
                localparam WAIT = EDGE + k + r / BLOCK_ROWS;
                reg [8*WAIT-1:0] late_q;
                reg [8*ACROSS-1:0] hop_q;
                wire [8*WAIT+7:0] late = {late_q, weights_i[64*r+8*k+:8]};
                wire [8*ACROSS+7:0] hop = {hop_q, late_q[8*(WAIT-1)+:8]};
                always @(posedge clk_i) begin
                    late_q <= late[8*WAIT-1:0];
                    hop_q <= hop[8*ACROSS-1:0];
                end
                for (g = 0; g < ACROSS; g = g + 1) begin : g_block
                    assign weights[g][64*r+8*k+:8] = hop_q[8*g+:8];
                end
            end
        end
    endgenerate

    // Activations wait k cycles for column k and a cycle for each block of pairs; then the edge; then they hop over the blocks of rows.
    wire [PAIRS*8*27-1:0] first[0:DOWN-1];
    wire [PAIRS*64-1:0] second[0:DOWN-1];
    wire [PAIRS*8-1:0] high[0:DOWN-1];
    generate
        for (p = 0; p < PAIRS; p = p + 1) begin : g_values
            for (k = 0; k < 8; k = k + 1) begin : g_k
                localparam WAIT = k + p / BLOCK_PAIRS;
                wire [17:0] late;
                if (WAIT == 0) begin : g_now
                    assign late = {mode_i, values_i[128*p+16*k+:16]};
                end else begin : g_late
                    reg [18*WAIT-1:0] late_q;
                    wire [18*WAIT+17:0] more = {late_q, mode_i, values_i[128*p+16*k+:16]};
                    always @(posedge clk_i) late_q <= more[18*WAIT-1:0];
                    assign late = late_q[18*WAIT-1-:18];
                end
                wire [26:0] d;
                wire [7:0] a;
                wire h;
                array_edge #(.FLOATS(FLOATS)) u_edge (
                    .clk_i(clk_i), .mode_i(late[17:16]), .value_i(late[15:0]), .first_o(d), .second_o(a), .high_o(h)
                );
                reg [36*DOWN-1:0] hop_q;
                wire [36*DOWN+35:0] hop = {hop_q, h, a, d};
                always @(posedge clk_i) hop_q <= hop[36*DOWN-1:0];
                for (g = 0; g < DOWN; g = g + 1) begin : g_block
                    assign {high[g][8*p+k], second[g][64*p+8*k+:8], first[g][216*p+27*k+:27]} = hop_q[36*g+:36];
                end
            end
        end
    endgenerate

    // Control comes with the sums: a cycle later per block down and per block across.
    localparam STAGES = LATENCY + DOWN + ACROSS + 2;
    reg [STAGES-1:0] valid_q, begin_q, end_q;
    always @(posedge clk_i) begin
        valid_q <= rst_i ? {STAGES{1'b0}} : {valid_q[STAGES-2:0], valid_i};
        begin_q <= {begin_q[STAGES-2:0], begin_i};
        end_q <= rst_i ? {STAGES{1'b0}} : {end_q[STAGES-2:0], end_i & valid_i};
    end
    assign leave_o = end_q[LATENCY+1];
    generate
        for (p = 0; p < PAIRS; p = p + 1) begin : g_pair
            wire [LOW+HIGH-1:0] conveyor[0:ROWS];
            assign conveyor[ROWS] = {LOW + HIGH{1'b0}};
            for (r = 0; r < ROWS; r = r + 1) begin : g_row
                localparam LATER = LATENCY - 2 + r / BLOCK_ROWS + p / BLOCK_PAIRS;
                array_cascade #(.FLOATS(FLOATS), .LOW(LOW), .HIGH(HIGH)) u_cascade (
                    .clk_i(clk_i), .first_i(first[r/BLOCK_ROWS][216*p+:216]), .second_i(second[r/BLOCK_ROWS][64*p+:64]),
                    .high_i(high[r/BLOCK_ROWS][8*p+:8]), .weights_i(weights[p/BLOCK_PAIRS][64*r+:64]), .valid_i(valid_q[LATER]),
                    .begin_i(begin_q[LATER]), .leave_i(end_q[LATER+1]), .conveyor_i(conveyor[r+1]), .conveyor_o(conveyor[r])
                );
            end
            assign sums_o[p*(LOW+HIGH)+:LOW+HIGH] = conveyor[0];
        end
    endgenerate
endmodule

`default_nettype wire
