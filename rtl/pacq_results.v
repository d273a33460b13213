// SPDX-License-Identifier: Apache-2.0
// Results in the order of rows: for band, for tile of rows, for token, for lane, one of each port side by side.
`default_nettype none

module pacq_results #(
    parameter PORTS = 4,
    parameter SCALES = 1,       // pacq_scale of a token lane
    parameter TOKEN_LANES = 1,
    parameter DEPTH = 128
) (
    input wire clk_i,
    input wire rst_i,
    input wire [95:0] geometry_i,
    input wire geometry_valid_i,
    output wire geometry_ready_o,
    // pacq_scale s of token lane t is number t * SCALES + s.
    input wire [SCALES*TOKEN_LANES-1:0] valid_i,
    input wire [32*PORTS*SCALES*TOKEN_LANES-1:0] results_i,
    output wire room_o,         // for what is under way and one window more
    output wire [32*PORTS-1:0] m_axis_tdata,
    output wire m_axis_tvalid,
    output wire m_axis_tlast,   // of the command
    input wire m_axis_tready
);
    localparam FIFOS = SCALES * TOKEN_LANES;
    localparam CHOICE = FIFOS > 1 ? $clog2(FIFOS) : 1;
    localparam MARGIN = 64;     // results of the windows that may be under way: 52 at most
    initial if (DEPTH < 2 * MARGIN) $fatal(1, "pacq_results: DEPTH is %0d, at least %0d", DEPTH, 2 * MARGIN);
    wire [95:0] g = geometry_i;
    wire [7:0] last_of_tokens = g[49:42];
    wire eight = g[74], two = g[75];

    wire [FIFOS-1:0] valid, full, pop;
    wire [32*PORTS-1:0] data[0:FIFOS-1];
    genvar f;
    generate
        for (f = 0; f < FIFOS; f = f + 1) begin : g_fifo
            wire [$clog2(DEPTH):0] count;
            stream_fifo #(.WIDTH(32 * PORTS), .DEPTH(DEPTH)) u_fifo (
                .clk_i(clk_i), .rst_i(rst_i), .data_i(results_i[32*PORTS*f+:32*PORTS]), .valid_i(valid_i[f]),
                .ready_o(), .data_o(data[f]), .valid_o(valid[f]), .ready_i(pop[f]), .count_o(count)
            );
            assign full[f] = count >= DEPTH - MARGIN;
        end
    endgenerate
    reg room_q;
    always @(posedge clk_i) room_q <= full == 0;
    assign room_o = room_q;

    // Which FIFO is next.  Lanes of tokens that the last batch has not are taken and dropped.
    reg [15:0] band_q;
    reg [3:0] tile_q;
    reg [7:0] token_q, token_lane_q;
    reg [1:0] lane_q;
    reg scale_q;
    localparam [31:0] LAST = TOKEN_LANES - 1, MANY = SCALES;
    localparam [7:0] EACH = MANY[7:0], LAST_LANE = LAST[7:0];
    wire [7:0] number = token_lane_q * EACH + {7'd0, scale_q};
    wire [CHOICE-1:0] choice = number[CHOICE-1:0];
    wire real_token = token_q <= last_of_tokens;
    wire last_lane = lane_q == (eight ? 2'd1 : 2'd3);
    wire last_scale = !two || EACH == 8'd1 || scale_q;
    wire last_token_lane = token_lane_q == LAST_LANE;
    wire last_token = token_q >= last_of_tokens;
    wire last_tile = tile_q == g[67:64];
    wire last_band = band_q == g[15:0];
    reg done_q;  // the geometry goes a cycle after its last result
    wire there = geometry_valid_i && valid[choice] && !done_q;
    wire take = there && (!real_token || m_axis_tready);
    wire window_done = take && last_lane && last_scale && last_token_lane;
    wire tile_done = window_done && last_token;
    // The last real result: of the last token, which need not be in the last token lane.
    assign m_axis_tlast = last_lane && last_scale && token_q == last_of_tokens && last_tile && last_band;
    assign m_axis_tdata = data[choice];
    assign m_axis_tvalid = there && real_token;
    assign geometry_ready_o = done_q;
    assign pop = {{(FIFOS - 1) {1'b0}}, take} << choice;
    always @(posedge clk_i) begin
        done_q <= !rst_i && tile_done && last_tile && last_band;
        if (rst_i) begin
            band_q <= 0;
            tile_q <= 0;
            token_q <= 0;
            token_lane_q <= 0;
            lane_q <= 0;
            scale_q <= 1'b0;
        end else if (take) begin
            lane_q <= last_lane ? 2'd0 : lane_q + 2'd1;
            if (last_lane) begin
                scale_q <= !last_scale;
                if (last_scale) begin
                    token_lane_q <= last_token_lane ? 8'd0 : token_lane_q + 8'd1;
                    token_q <= tile_done ? 8'd0 : token_q + 8'd1;
                end
            end
            if (tile_done) begin
                tile_q <= last_tile ? 4'd0 : tile_q + 4'd1;
                if (last_tile) band_q <= last_band ? 16'd0 : band_q + 16'd1;
            end
        end
    end
endmodule

`default_nettype wire
