// SPDX-License-Identifier: Apache-2.0
// The look-up unit of a weight port: 128-bit beats of tiles in prefix codes, or raw, in; words of 32 weights out, up to one of each per cycle.
// Fetches nothing; hls/weights.hpp:unpack_prefix and machine/storage/prefix.py are the same in C++ and numpy.
`default_nettype none

module prefix_unpack (
    input wire clk_i,
    input wire rst_i,
    // The matrix's table as it is in memory, 32 bits per cycle; taken when the words of the tiles before it are looked up,
    // and before a tile that is first offered in the same cycle.
    input wire [31:0] s_axis_table_tdata,
    input wire s_axis_table_tvalid,
    output wire s_axis_table_tready,
    // A tile: its words (32 bits), its beats (32), words of a row (16), flags (16): 0 a segment of streams starts, 1 it ends, 2 raw.
    // A coded tile has a multiple of four beats, a raw one two beats a word.
    input wire [95:0] s_axis_tile_tdata,
    input wire s_axis_tile_tvalid,
    output wire s_axis_tile_tready,
    // Its beats.
    input wire [127:0] s_axis_beats_tdata,
    input wire s_axis_beats_tvalid,
    output wire s_axis_beats_tready,
    // Its words, the first column in the lowest bits.
    output wire [255:0] m_axis_words_tdata,
    output wire m_axis_words_tvalid,
    output wire m_axis_words_tlast,
    input wire m_axis_words_tready,
    // Since reset: cycles of a tile in which no word began because beats were missing, and because nothing read.
    output reg [31:0] starved_o,
    output reg [31:0] stalled_o,
    // A tile is not as it must be, or a segment had fewer bits than its words: it waits for a reset, and this stays up until then.
    output reg error_o
);
    localparam FIFO_BITS = 6;       // logarithm of the halfwords that may wait for a lane
    localparam OUT_WORDS = 32;      // that wait at the output
    localparam [2:0] SETTLED = 6;   // cycles after which the lanes' flags are those of a new segment
    localparam [2:0] CHECKED = 7;   // cycles after which what the last word took is checked
    localparam [1:0] HELD = 3;      // halfwords that a lane holds before its first word
    localparam STAGES = 8;          // from a step to its word

    // -- tiles: the writer's own, and one that waits for the reader -----------------------------------------------------
    wire [31:0] t_words = s_axis_tile_tdata[31:0], t_beats = s_axis_tile_tdata[63:32];
    wire [15:0] t_row = s_axis_tile_tdata[79:64];
    wire t_start = s_axis_tile_tdata[80], t_end = s_axis_tile_tdata[81], t_raw = s_axis_tile_tdata[82];
    reg tile_ready_q, left_q, raw_q, next_q, next_start_q, next_end_q, next_some_q;
    reg [23:0] beats_q, next_words_q;
    reg [15:0] next_row_q;
    reg [FIFO_BITS:0] next_base_q;
    reg quiet_q;                    // no word is on its way to the output
    wire running, begins, goes_on;
    wire [6:0] table_at;
    wire take = tile_ready_q && s_axis_tile_tvalid;
    wire closed = left_q || next_q || error_o;
    assign s_axis_tile_tready = tile_ready_q;

    // -- the writer: a beat to the eight lanes whose turn it is -----------------------------------------------------------
    reg [1:0] group_q;
    reg [127:0] beat_q;
    reg [3:0] write_q;
    reg [FIFO_BITS:0] place_q[0:3];
    reg room_q, drop_q, out_room_q, same_q;  // same: the reader's tile is the writer's
    assign s_axis_beats_tready = left_q && (raw_q ? out_room_q : room_q || drop_q);
    wire beat = s_axis_beats_tvalid && s_axis_beats_tready;
    integer g;
    wire [3:0] of_group = 4'd1 << group_q;
    always @(posedge clk_i) begin
        beat_q <= s_axis_beats_tdata;
        for (g = 0; g < 4; g = g + 1) begin
            write_q[g] <= beat && !raw_q && of_group[g];
            if (rst_i) place_q[g] <= 0;
            else if (write_q[g]) place_q[g] <= place_q[g] + 1'b1;
        end
        if (take) begin
            raw_q <= t_raw;
            next_base_q <= place_q[3] + {{FIFO_BITS{1'b0}}, write_q[3]};
            next_words_q <= t_words[23:0];
            next_row_q <= t_row;
            next_start_q <= t_start;
            next_end_q <= t_end;
            next_some_q <= t_words != 0;
        end
        if (rst_i) begin
            tile_ready_q <= 1'b0;
            left_q <= 1'b0;
            next_q <= 1'b0;
            raw_q <= 1'b0;
            group_q <= 2'd0;
            beats_q <= 24'd0;
            same_q <= 1'b0;
            drop_q <= 1'b0;
        end else begin
            tile_ready_q <= s_axis_tile_tvalid && !tile_ready_q && !closed && table_at == 0 && !s_axis_table_tvalid
                && (!t_raw || (quiet_q && !running));
            if (take) begin
                beats_q <= t_beats[23:0];
                left_q <= t_beats != 0;
            end else if (beat) begin
                beats_q <= beats_q - 24'd1;
                left_q <= beats_q != 24'd1;
            end
            if (beat && !raw_q) group_q <= group_q + 2'd1;
            if (take) next_q <= !t_raw;
            else if (begins || goes_on) next_q <= 1'b0;
            if (take) same_q <= 1'b0;
            else if (begins || goes_on) same_q <= 1'b1;
            drop_q <= same_q && !running && !next_q;
        end
    end

    // -- the table ---------------------------------------------------------------------------------------------------
    reg table_open_q;
    assign s_axis_table_tready = table_open_q && !tile_ready_q;
    wire table_take = s_axis_table_tvalid && s_axis_table_tready;
    wire table_write, offset_write;
    wire [5:0] table_place;
    wire [7:0] lengths, offset;
    wire [31:0] weights;
    prefix_table u_table (
        .clk_i(clk_i), .rst_i(rst_i), .data_i(s_axis_table_tdata), .take_i(table_take), .at_o(table_at), .write_o(table_write),
        .offset_write_o(offset_write), .place_o(table_place), .lengths_o(lengths), .offset_o(offset), .weights_o(weights)
    );

    // -- the reader: every lane takes a halfword, then a weight, whenever all have what they may need -----------------------
    reg running_q, end_q, ended_q, enough_q, begin_q, prime_q, step_q, last_q;
    reg [23:0] words_q;
    reg [15:0] row_q, column_q;
    reg [FIFO_BITS:0] base_q;
    reg [2:0] settled_q, check_q;
    reg [1:0] held_q;
    reg [4:0] turn_q, step_turn_q;
    assign running = running_q;
    wire settled = settled_q == SETTLED;
    wire go = running_q && settled && enough_q && out_room_q && !error_o;
    wire word = go && held_q == HELD;
    wire done = word && words_q == 24'd1;
    assign begins = next_q && next_start_q && !running_q && check_q == 0;
    assign goes_on = next_q && !next_start_q && (!running_q || done);
    always @(posedge clk_i) begin
        begin_q <= begins || rst_i;
        prime_q <= go && !word;
        step_q <= word && !rst_i;
        last_q <= words_q == 24'd1;
        step_turn_q <= turn_q;
        ended_q <= end_q && !(same_q && left_q) && !begins;
        if (begins || goes_on) begin
            words_q <= next_words_q;
            row_q <= next_row_q;
            end_q <= next_end_q;
        end else if (word) words_q <= words_q - 24'd1;
        if (rst_i) base_q <= 0;
        else if (begins) base_q <= next_base_q;
        if (begins || goes_on) column_q <= 16'd1;
        else if (word) column_q <= column_q == row_q ? 16'd1 : column_q + 16'd1;
        if (begins) turn_q <= 5'd0;
        else if (word && column_q == row_q) turn_q <= turn_q + 5'd5;
        if (begins) held_q <= 2'd0;
        else if (go && !word) held_q <= held_q + 2'd1;
        if (begins) settled_q <= 3'd0;
        else if (!settled) settled_q <= settled_q + 3'd1;
        if (rst_i) check_q <= 3'd0;
        else if (done) check_q <= CHECKED;
        else if (check_q != 0) check_q <= check_q - 3'd1;
        if (rst_i) begin
            running_q <= 1'b0;
            end_q <= 1'b0;
            settled_q <= SETTLED;
            held_q <= 2'd0;
        end else if (begins || goes_on) running_q <= next_some_q;
        else if (done) running_q <= 1'b0;
    end

    // -- the lanes, two to a copy of what moves them ------------------------------------------------------------------------
    wire [31:0] enough, room, behind;
    wire [255:0] of_lanes;
    reg [3:0] enough_four_q, room_four_q, behind_four_q;
    reg behind_q;
    always @(posedge clk_i) begin
        for (g = 0; g < 4; g = g + 1) begin
            enough_four_q[g] <= &enough[8*g+:8];
            room_four_q[g] <= &room[8*g+:8];
            behind_four_q[g] <= |behind[8*g+:8];
        end
        enough_q <= &enough_four_q;
        room_q <= &room_four_q;
        behind_q <= |behind_four_q;
    end
    genvar l;
    generate
        for (l = 0; l < 32; l = l + 1) begin : g_lane
            if (l % 2 == 0) begin : g_move
                (* keep *) reg begin_c, prime_c, step_c, ended_c;
                always @(posedge clk_i) begin
                    begin_c <= begin_q;
                    prime_c <= prime_q;
                    step_c <= step_q;
                    ended_c <= ended_q && !begin_q;
                end
            end
            if (l % 8 == 0) begin : g_table
                (* keep *) reg write_c, offset_write_c;
                (* keep *) reg [5:0] place_c;
                (* keep *) reg [7:0] lengths_c, offset_c;
                (* keep *) reg [31:0] weights_c;
                always @(posedge clk_i) begin
                    write_c <= table_write;
                    offset_write_c <= offset_write;
                    place_c <= table_place;
                    lengths_c <= lengths;
                    offset_c <= offset;
                    weights_c <= weights;
                end
            end
            prefix_lane #(.FIFO_BITS(FIFO_BITS)) u_lane (
                .clk_i(clk_i), .begin_i(g_lane[l/2*2].g_move.begin_c), .base_i(base_q), .step_i(g_lane[l/2*2].g_move.step_c),
                .prime_i(g_lane[l/2*2].g_move.prime_c), .ended_i(g_lane[l/2*2].g_move.ended_c), .write_i(write_q[l/8]),
                .place_i(place_q[l/8]), .halfword_i(beat_q[16*(l%8)+:16]), .enough_o(enough[l]), .room_o(room[l]), .behind_o(behind[l]),
                .table_write_i(g_lane[l/8*8].g_table.write_c), .offset_write_i(g_lane[l/8*8].g_table.offset_write_c),
                .table_place_i(g_lane[l/8*8].g_table.place_c), .lengths_i(g_lane[l/8*8].g_table.lengths_c),
                .offset_i(g_lane[l/8*8].g_table.offset_c), .weights_i(g_lane[l/8*8].g_table.weights_c),
                .weight_o(of_lanes[8*l+:8])
            );
        end
    endgenerate

    // -- words: columns in their order, or two raw beats --------------------------------------------------------------------
    reg [STAGES:1] valid_q, late_last_q;
    reg [4:0] turn_two_q, turn_three_q, turn_four_q;
    reg [127:0] low_q;
    reg [255:0] raw_word_q;
    reg second_q, raw_valid_q, raw_last_q, in_valid_q, in_last_q, raw_go_q, raw_end_q;
    wire raw_word = beat && raw_q && second_q;
    wire [255:0] in_word;
    always @(posedge clk_i) begin
        late_last_q <= {late_last_q[STAGES-1:1], last_q};
        turn_two_q <= step_turn_q;
        turn_three_q <= turn_two_q;
        turn_four_q <= turn_three_q;
        if (beat && !second_q) low_q <= s_axis_beats_tdata;
        raw_word_q <= {beat_q, low_q};
        raw_end_q <= beats_q == 24'd1;
        raw_last_q <= raw_end_q;
        in_last_q <= raw_valid_q ? raw_last_q : late_last_q[STAGES-1];
        if (rst_i) begin
            valid_q <= 0;
            second_q <= 1'b0;
            raw_go_q <= 1'b0;
            raw_valid_q <= 1'b0;
            in_valid_q <= 1'b0;
        end else begin
            valid_q <= {valid_q[STAGES-1:1], step_q};
            if (take) second_q <= 1'b0;
            else if (beat) second_q <= !second_q;
            raw_go_q <= raw_word;
            raw_valid_q <= raw_go_q;
            in_valid_q <= valid_q[STAGES-1] || raw_valid_q;
        end
        quiet_q <= !running_q && !go && !step_q && !begins && valid_q == 0;
        table_open_q <= !rst_i && !closed && !tile_ready_q && !running_q && !step_q && valid_q == 0 && quiet_q;
    end
    prefix_turn u_turn (
        .clk_i(clk_i), .lanes_i(of_lanes), .turn_i(turn_four_q), .raw_i(raw_go_q), .raw_word_i(raw_word_q), .word_o(in_word)
    );
    // A place at the output is kept for every word that begins.
    reg [5:0] used_q;
    wire given = m_axis_words_tvalid && m_axis_words_tready;
    localparam [31:0] KEPT = OUT_WORDS - 4;
    always @(posedge clk_i) begin
        if (rst_i) used_q <= 6'd0;
        else used_q <= used_q + {5'd0, word || raw_word} - {5'd0, given};
        out_room_q <= used_q < KEPT[5:0];
    end
    stream_fifo #(
        .WIDTH(257), .DEPTH(OUT_WORDS)
    ) u_words (
        .clk_i(clk_i), .rst_i(rst_i), .data_i({in_last_q, in_word}), .valid_i(in_valid_q), .ready_o(),
        .data_o({m_axis_words_tlast, m_axis_words_tdata}), .valid_o(m_axis_words_tvalid), .ready_i(m_axis_words_tready), .count_o()
    );

    // -- what it waited for, and what is wrong --------------------------------------------------------------------------------
    wire wrong = s_axis_tile_tdata[95:83] != 0 || t_words[31:24] != 0 || t_beats[31:24] != 0
        || (t_raw ? t_beats != {t_words[30:0], 1'b0} : t_beats[1:0] != 0 || t_row == 0);
    reg wrong_q;
    wire raw_open = left_q && raw_q;
    always @(posedge clk_i) begin
        wrong_q <= take && wrong && !rst_i;
        if (rst_i) begin
            starved_o <= 0;
            stalled_o <= 0;
            error_o <= 1'b0;
        end else begin
            if (raw_open ? out_room_q && !s_axis_beats_tvalid : running_q && settled && out_room_q && !enough_q) starved_o <= starved_o + 1;
            if (raw_open ? !out_room_q : running_q && settled && !out_room_q) stalled_o <= stalled_o + 1;
            if (wrong_q || (behind_q && ((running_q && settled) || check_q != 0))) error_o <= 1'b1;
        end
    end
endmodule

`default_nettype wire
