// SPDX-License-Identifier: Apache-2.0
// What is multiplied when.  A window is a group of columns of a tile of rows for a batch of tokens; it is decided on when all
// it needs is there, and then runs without a pause, a beat of weights per cycle.
//
//     for band, for group, for tile, for batch: a window
`default_nettype none

module pacq_issue #(
    parameter ADDRESS_BITS = 10  // of the activation memory
) (
    input wire clk_i,
    input wire rst_i,
    input wire [95:0] geometry_i,
    input wire geometry_valid_i,
    output wire geometry_ready_o,
    // What windows wait for.
    input wire [6:0] filled_i,        // beats of weights, modulo 128
    input wire loaded_i,              // the activations of a command are there, for a cycle
    input wire room_i,                // for the results of the windows under way and one more
    // Given back.
    output reg [6:0] released_o,
    output reg set_done_o,
    output reg free_o,                // activations of `free_words_o` words are not needed any more
    output reg [ADDRESS_BITS:0] free_words_o,
    // A cycle of a window.
    output reg valid_o,
    output reg first_o,
    output reg last_o,
    output reg [5:0] weight_o,                      // address in the buffer of weights
    output reg [ADDRESS_BITS-1:0] activation_o,     // address in the memory of activations
    output reg [17:0] window_o,       // {two, eight, wide, minimum, first group, last group, set, tile, batch}
    // Why no window runs.
    output wire waits_weights_o,
    output wire waits_activations_o,
    output wire waits_results_o
);
    wire [95:0] g = geometry_i;
    wire [15:0] row_words = g[41:26];
    wire hold = g[72], eight = g[74], two = g[75], wide = g[76], minimum = g[77];
    wire [ADDRESS_BITS:0] words_of_command = g[80+:ADDRESS_BITS+1];

    // -- the next window: what it is, whether it is a last one and whether its weights are there is known a cycle before ------------
    reg [15:0] band_q;
    reg [9:0] group_q;
    reg [3:0] tile_q;
    reg [7:0] batch_q;
    reg [2:0] set_q;
    reg [6:0] base_q, base_next_q;                      // of its weights, and of the next tile's
    reg [ADDRESS_BITS-1:0] row_q, start_q, window_at_q;  // the command's first activation; the group's; the window's
    reg [4:0] loads_q;                                  // commands whose activations are there and not begun
    reg begun_q, first_group_q, last_batch_q, last_tile_q, last_group_q, last_band_q, weights_there_q;
    reg [5:0] group_words_q, end_q;  // end_q: the window's last cycle, of at least four
    reg [1:0] wait_q;                // cycles before its first word
    wire queue_ready;
    wire ready = begun_q && weights_there_q && (!last_group_q || room_i);
    wire decide = ready && queue_ready;
    wire next_tile = decide && last_batch_q;
    wire next_group = next_tile && last_tile_q;
    wire next_band = next_group && last_group_q;
    wire command_done = next_band && last_band_q;
    reg done_q;  // the geometry goes a cycle after its last window
    assign geometry_ready_o = done_q;
    wire begin_command = geometry_valid_i && !begun_q && !done_q && loads_q != 0;
    wire [ADDRESS_BITS-1:0] step = {{(ADDRESS_BITS - 6) {1'b0}}, group_words_q};
    wire [ADDRESS_BITS-1:0] row = row_words[ADDRESS_BITS-1:0];
    // Beats from this window's on, and from the next tile's on.
    wire [6:0] there = filled_i - base_q, there_next = filled_i - base_next_q;
    wire [7:0] batch_1 = batch_q + 8'd1;
    wire [3:0] tile_1 = tile_q + 4'd1;
    wire [9:0] group_1 = group_q + 10'd1;
    wire [15:0] band_1 = band_q + 16'd1;
    always @(posedge clk_i) begin
        group_words_q <= g[63:58] + 6'd1;
        wait_q <= g[63:58] < 6'd3 ? 2'd3 - g[59:58] : 2'd0;
        end_q <= g[63:58] < 6'd3 ? 6'd3 : g[63:58];
        done_q <= !rst_i && command_done;
        if (rst_i) begin
            begun_q <= 1'b0;
            loads_q <= 0;
            band_q <= 0;
            group_q <= 0;
            tile_q <= 0;
            batch_q <= 0;
            set_q <= 0;
            base_q <= 0;
            base_next_q <= 0;
            row_q <= 0;
            start_q <= 0;
            window_at_q <= 0;
            weights_there_q <= 1'b0;
        end else begin
            loads_q <= loads_q + {4'd0, loaded_i} - {4'd0, begin_command};
            weights_there_q <= next_tile ? there_next >= {1'b0, group_words_q} : there >= {1'b0, group_words_q};
            if (!begun_q) begin  // the first window of a command, which begins a cycle later at the earliest
                base_next_q <= base_q + {1'b0, g[63:58]} + 7'd1;
                start_q <= row_q;
                window_at_q <= row_q;
                first_group_q <= 1'b1;
                last_batch_q <= g[57:50] == 0;
                last_tile_q <= g[67:64] == 0;
                last_group_q <= g[25:16] == 0;
                last_band_q <= g[15:0] == 0;
            end
            if (begin_command) begun_q <= 1'b1;
            if (decide) begin
                batch_q <= last_batch_q ? 8'd0 : batch_1;
                last_batch_q <= last_batch_q ? g[57:50] == 0 : batch_1 == g[57:50];
                window_at_q <= window_at_q + row;
            end
            if (next_tile) begin
                base_q <= base_next_q;
                base_next_q <= base_next_q + {1'b0, group_words_q};
                tile_q <= last_tile_q ? 4'd0 : tile_1;
                last_tile_q <= last_tile_q ? g[67:64] == 0 : tile_1 == g[67:64];
                window_at_q <= start_q;
            end
            if (next_group) begin
                set_q <= set_q + 3'd1;
                group_q <= last_group_q ? 10'd0 : group_1;
                first_group_q <= last_group_q;
                last_group_q <= last_group_q ? g[25:16] == 0 : group_1 == g[25:16];
                start_q <= last_group_q ? row_q : start_q + step;
                window_at_q <= last_group_q ? row_q : start_q + step;
            end
            if (next_band) begin
                band_q <= last_band_q ? 16'd0 : band_1;
                last_band_q <= last_band_q ? g[15:0] == 0 : band_1 == g[15:0];
            end
            if (command_done) begin
                begun_q <= 1'b0;
                if (!hold) row_q <= row_q + words_of_command[ADDRESS_BITS-1:0];
            end
        end
    end

    // -- windows decided on ------------------------------------------------------------------------------------------
    wire [17:0] window = {two, eight, wide, minimum, first_group_q, last_group_q, set_q, tile_q[2:0], batch_q[5:0]};
    wire [17:0] running;
    wire [5:0] last_cycle;
    wire [1:0] wait_for;
    wire [5:0] base;
    wire [6:0] base_next;
    wire [ADDRESS_BITS-1:0] at;
    wire give_weights, give_set, give_command;
    wire [ADDRESS_BITS:0] give_words;
    wire queued, run_next;
    stream_fifo #(.WIDTH(18 + 8 + 13 + ADDRESS_BITS + 3 + ADDRESS_BITS + 1), .DEPTH(2)) u_windows (
        .clk_i(clk_i), .rst_i(rst_i),
        .data_i({
            window, wait_q, end_q, base_q[5:0], base_next_q, window_at_q, last_batch_q, last_batch_q && last_tile_q,
            last_batch_q && last_tile_q && last_group_q && last_band_q && !hold, words_of_command
        }),
        .valid_i(ready), .ready_o(queue_ready),
        .data_o({running, wait_for, last_cycle, base, base_next, at, give_weights, give_set, give_command, give_words}),
        .valid_o(queued), .ready_i(run_next), .count_o()
    );
    assign waits_weights_o = geometry_valid_i && begun_q && !weights_there_q && !queued;
    assign waits_activations_o = geometry_valid_i && !begun_q && !queued;
    assign waits_results_o = geometry_valid_i && begun_q && weights_there_q && last_group_q && !room_i && !queued;

    // -- the window that runs: at least four cycles, in which pacq_scale takes four lanes; a short one begins late, so that
    // windows end four cycles or more after each other ----------------------------------------------------------------
    reg [5:0] cycle_q;
    wire [5:0] word = cycle_q - {4'd0, wait_for};
    wire last_word = cycle_q == last_cycle;
    assign run_next = queued && last_word;
    always @(posedge clk_i) begin
        valid_o <= !rst_i && queued && cycle_q >= {4'd0, wait_for};
        first_o <= word == 0;
        last_o <= last_word;
        weight_o <= base + word;
        activation_o <= at + {{(ADDRESS_BITS - 6) {1'b0}}, word};
        window_o <= running;
        cycle_q <= rst_i || !queued || run_next ? 6'd0 : cycle_q + 6'd1;
        if (rst_i) released_o <= 0;
        else if (run_next && give_weights) released_o <= base_next;
        set_done_o <= !rst_i && run_next && give_set;
        free_o <= !rst_i && run_next && give_command;
        free_words_o <= give_words;
    end
endmodule

`default_nettype wire
