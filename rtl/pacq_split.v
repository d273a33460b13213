// SPDX-License-Identifier: Apache-2.0
// What comes off the ports, told apart: parameters of a group of a band of rows, then its weights.  Beats are taken from all
// ports at once.  Weights wait in a buffer that a group of them is read from as often as there are tokens.
`default_nettype none

module pacq_split #(
    parameter PORTS = 4
) (
    input wire clk_i,
    input wire rst_i,
    input wire [95:0] geometry_i,
    input wire geometry_valid_i,
    output wire geometry_ready_o,
    input wire [128*PORTS-1:0] beats_i,
    input wire valid_i,               // every port has one
    output wire ready_o,
    // Parameters: beat `parameter_beat_o` of set `set_o`, of every port.
    output wire parameter_valid_o,
    output reg [2:0] set_o,
    output reg [2:0] parameter_beat_o,
    input wire set_done_i,            // the oldest set is not multiplied with any more
    // Weights: `filled_o` beats per port were written, modulo 128; `released_i` need not be kept.
    output reg [6:0] filled_o,
    input wire [6:0] released_i,
    input wire [5:0] read_i,
    output reg [128*PORTS-1:0] weights_o  // one cycle later
);
    localparam DEPTH = 64;
    localparam [6:0] ALL = DEPTH;
    wire [95:0] g = geometry_i;
    wire [3:0] parameter_beats = g[71:68];

    reg busy_q, weights_q;      // a set is being taken; its weights are
    reg [15:0] band_q;
    reg [9:0] group_q;
    reg [5:0] word_q;
    reg [3:0] tile_q;
    reg [2:0] sets_q;           // sets begun and not done: at most four, so that what still scales can read them
    // Room is known a cycle late, so one beat less is held.
    wire [6:0] held = filled_o - released_i;
    reg room_q;
    always @(posedge clk_i) room_q <= held < ALL - 7'd1;
    reg done_q;  // the geometry goes a cycle after its last set
    wire start = geometry_valid_i && !busy_q && !done_q && sets_q < 3'd4;
    assign ready_o = busy_q && (!weights_q || room_q);
    wire take = valid_i && ready_o;
    assign parameter_valid_o = take && !weights_q;
    wire last_parameter = {1'b0, parameter_beat_o} == parameter_beats - 4'd1;
    // A group has at least two words, so that what changes with it is compared in time.
    reg last_word, last_tile, last_group, last_band;
    wire [5:0] word_1 = word_q + 6'd1;
    wire set_taken = take && weights_q && last_word && last_tile;
    wire command_done = set_taken && last_group && last_band;
    assign geometry_ready_o = done_q;
    always @(posedge clk_i) begin
        if (rst_i) begin
            busy_q <= 1'b0;
            done_q <= 1'b0;
            weights_q <= 1'b0;
            set_o <= 0;
            parameter_beat_o <= 0;
            filled_o <= 0;
            band_q <= 0;
            group_q <= 0;
            word_q <= 0;
            tile_q <= 0;
            sets_q <= 0;
        end else begin
            done_q <= command_done;
            last_word <= take && weights_q ? !last_word && word_1 == g[63:58] : word_q == g[63:58];
            last_tile <= tile_q == g[67:64];
            last_group <= group_q == g[25:16];
            last_band <= band_q == g[15:0];
            sets_q <= sets_q + {2'd0, set_taken} - {2'd0, set_done_i};
            // The next set begins without a pause where it may.
            busy_q <= set_taken ? !command_done && sets_q < 3'd3 : busy_q || start;
            if (take && !weights_q) begin
                parameter_beat_o <= last_parameter ? 3'd0 : parameter_beat_o + 3'd1;
                weights_q <= last_parameter;
            end
            if (take && weights_q) begin
                filled_o <= filled_o + 7'd1;
                word_q <= last_word ? 6'd0 : word_1;
                if (last_word) tile_q <= last_tile ? 4'd0 : tile_q + 4'd1;
            end
            if (set_taken) begin
                weights_q <= 1'b0;
                set_o <= set_o + 3'd1;
                group_q <= last_group ? 10'd0 : group_q + 10'd1;
                if (last_group) band_q <= last_band ? 16'd0 : band_q + 16'd1;
            end
        end
    end

    reg [128*PORTS-1:0] memory[0:DEPTH-1];
    always @(posedge clk_i) begin
        if (take && weights_q) memory[filled_o[5:0]] <= beats_i;
        weights_o <= memory[read_i];
    end
endmodule

`default_nettype wire
