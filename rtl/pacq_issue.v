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
    input wire [79:0] geometry_i,
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
    wire [79:0] g = geometry_i;
    wire [15:0] bands = g[15:0];
    wire [9:0] groups = g[25:16];
    wire [15:0] row_words = g[41:26];
    wire [7:0] batches = g[57:50];
    wire [5:0] group_words = g[63:58];
    wire [3:0] tiles = g[67:64];
    wire hold = g[72], eight = g[74], two = g[75], wide = g[76], minimum = g[77];

    // -- the next window ---------------------------------------------------------------------------------------------
    reg [15:0] band_q;
    reg [9:0] group_q;
    reg [3:0] tile_q;
    reg [7:0] batch_q;
    reg [2:0] set_q;
    reg [6:0] base_q;                                   // of its weights
    reg [ADDRESS_BITS-1:0] row_q, start_q, window_at_q;  // the command's first activation; the group's; the window's
    reg [4:0] loads_q;                                  // commands whose activations are there and not begun
    reg begun_q;
    wire last_batch = batch_q == batches - 8'd1;
    wire last_tile = tile_q == tiles - 4'd1;
    wire last_group = group_q == groups - 10'd1;
    wire last_band = band_q == bands - 16'd1;
    wire [6:0] there = filled_i - base_q;
    wire weights_there = there >= {1'b0, group_words};
    wire ready = geometry_valid_i && begun_q && weights_there && (!last_group || room_i);
    wire queue_ready;
    wire decide = ready && queue_ready;
    wire command_done = decide && last_batch && last_tile && last_group && last_band;
    assign geometry_ready_o = command_done;
    wire begin_command = geometry_valid_i && !begun_q && loads_q != 0;
    wire [ADDRESS_BITS-1:0] step = {{(ADDRESS_BITS - 6) {1'b0}}, group_words};
    wire [ADDRESS_BITS-1:0] row = row_words[ADDRESS_BITS-1:0];
    wire [23:0] all_words = {16'd0, batches} * {8'd0, row_words};
    wire [ADDRESS_BITS:0] words_of_command = all_words[ADDRESS_BITS:0];
    always @(posedge clk_i) begin
        if (rst_i) begin
            begun_q <= 1'b0;
            loads_q <= 0;
            band_q <= 0;
            group_q <= 0;
            tile_q <= 0;
            batch_q <= 0;
            set_q <= 0;
            base_q <= 0;
            row_q <= 0;
            start_q <= 0;
            window_at_q <= 0;
        end else begin
            loads_q <= loads_q + {4'd0, loaded_i} - {4'd0, begin_command};
            if (begin_command) begin
                begun_q <= 1'b1;
                start_q <= row_q;
                window_at_q <= row_q;
            end
            if (decide) begin
                batch_q <= last_batch ? 8'd0 : batch_q + 8'd1;
                window_at_q <= window_at_q + row;
                if (last_batch) begin
                    base_q <= base_q + {1'b0, group_words};
                    tile_q <= last_tile ? 4'd0 : tile_q + 4'd1;
                    window_at_q <= start_q;
                    if (last_tile) begin
                        set_q <= set_q + 3'd1;
                        group_q <= last_group ? 10'd0 : group_q + 10'd1;
                        start_q <= last_group ? row_q : start_q + step;
                        window_at_q <= last_group ? row_q : start_q + step;
                        if (last_group) band_q <= last_band ? 16'd0 : band_q + 16'd1;
                    end
                end
            end
            if (command_done) begin
                begun_q <= 1'b0;
                if (!hold) row_q <= row_q + words_of_command[ADDRESS_BITS-1:0];
            end
        end
    end

    // -- windows decided on ------------------------------------------------------------------------------------------
    wire [17:0] window = {two, eight, wide, minimum, group_q == 0, last_group, set_q, tile_q[2:0], batch_q[5:0]};
    wire [17:0] running;
    wire [5:0] words;
    wire [6:0] base;
    wire [ADDRESS_BITS-1:0] at;
    wire give_weights, give_set, give_command;
    wire [ADDRESS_BITS:0] give_words;
    wire queued, run_next;
    stream_fifo #(.WIDTH(18 + 6 + 7 + ADDRESS_BITS + 3 + ADDRESS_BITS + 1), .DEPTH(2)) u_windows (
        .clk_i(clk_i), .rst_i(rst_i),
        .data_i({window, group_words, base_q, window_at_q, last_batch, last_batch && last_tile, command_done && !hold, words_of_command}),
        .valid_i(ready), .ready_o(queue_ready),
        .data_o({running, words, base, at, give_weights, give_set, give_command, give_words}),
        .valid_o(queued), .ready_i(run_next), .count_o()
    );
    assign waits_weights_o = geometry_valid_i && begun_q && !weights_there && !queued;
    assign waits_activations_o = geometry_valid_i && !begun_q && !queued;
    assign waits_results_o = geometry_valid_i && begun_q && weights_there && last_group && !room_i && !queued;

    // -- the window that runs: at least four cycles, in which pacq_scale takes four lanes; a short one begins late, so that
    // windows end four cycles or more after each other ----------------------------------------------------------------
    reg [5:0] cycle_q;
    wire [5:0] wait_for = words < 6'd4 ? 6'd4 - words : 6'd0;
    wire [5:0] word = cycle_q - wait_for;
    wire last_word = word == words - 6'd1;
    assign run_next = queued && last_word;
    always @(posedge clk_i) begin
        valid_o <= !rst_i && queued && cycle_q >= wait_for;
        first_o <= word == 0;
        last_o <= last_word;
        weight_o <= base[5:0] + word;
        activation_o <= at + {{(ADDRESS_BITS - 6) {1'b0}}, word};
        window_o <= running;
        cycle_q <= rst_i || !queued || run_next ? 6'd0 : cycle_q + 6'd1;
        if (rst_i) released_o <= 0;
        else if (run_next && give_weights) released_o <= base + {1'b0, words};
        set_done_o <= !rst_i && run_next && give_set;
        free_o <= !rst_i && run_next && give_command;
        free_words_o <= give_words;
    end
endmodule

`default_nettype wire
