// SPDX-License-Identifier: Apache-2.0
// Commands: a matrix each, checked, sent to the fetch units as regions and to everybody else as a geometry.
//
// A command is 1 + ceil(PORTS / 2) words of 128 bits:
//     word 0   [31:0] format (machine/storage/groups.py: GroupFormat.word), [47:32] bands of rows, [63:48] groups of columns,
//              [79:64] tokens, [80] reuse: no activations come, those of the command before serve, [81] hold: the next reuses
//     word 1   [63:0] address of port 0's stream, [127:64] of port 1's; word 2: ports 2 and 3
`default_nettype none

module pacq_commands #(
    parameter PORTS = 4,
    parameter LANES = 4,          // codes of a port's column: 4, or 8 where INT2 is taken
    parameter TOKEN_LANES = 1,
    parameter MAX_TOKENS = 64,
    parameter ACTIVATION_WORDS = 1024,
    parameter ADDRESS_WIDTH = 40
) (
    input wire clk_i,
    input wire rst_i,
    input wire [127:0] command_i,
    input wire valid_i,
    output wire ready_o,
    output wire [ADDRESS_WIDTH*PORTS-1:0] addresses_o,
    output reg [31:0] beats_o,    // of each port
    output wire [95:0] geometry_o,
    output reg valid_o,           // to everybody at once
    input wire ready_i,
    output reg error_o            // a command that this design cannot run, for a cycle
);
    localparam WORDS = 1 + (PORTS + 1) / 2;
    localparam [31:0] MANY = MAX_TOKENS, LAST = WORDS - 1;
    localparam [15:0] TOKENS = MANY[15:0];
    localparam BATCH_BITS = $clog2(TOKEN_LANES);

    reg [31:0] format_q;
    reg [15:0] bands_q, groups_q, tokens_q;
    reg reuse_q, hold_q;
    reg [64*PORTS-1:0] addresses_q;
    reg [2:0] word_q;
    reg [4:0] check_q;  // steps of the checks: products are sums of a bit each
    assign ready_o = check_q == 0 && !valid_o;

    // What the format says, in numbers that are powers of two.
    wire [3:0] group_log = format_q[11:8];
    wire two = format_q[7:0] == 8'd2, four = format_q[7:0] == 8'd4, eight = format_q[7:0] == 8'd8;
    wire minimum = format_q[16], wide = format_q[17];
    reg [2:0] group_shift_q;  // beats of a group: 2 to 32
    reg [1:0] tile_shift_q;   // tiles of a band: 2, 4 or 8
    reg [3:0] weight_shift_q;
    reg [2:0] parameter_shift_q;
    reg good_format_q, good_numbers_q, good_words_q;
    reg [15:0] row_words_q, batches_q;
    reg [25:0] product_q, bands_shifted_q;
    reg [9:0] groups_left_q;
    reg [23:0] words_q, words_shifted_q;
    reg [7:0] batches_left_q;
    reg [31:0] weight_beats_q, parameter_beats_q;
    localparam STEPS = 14;
    integer p;
    always @(posedge clk_i) begin
        error_o <= 1'b0;
        if (rst_i) begin
            word_q <= 0;
            check_q <= 0;
            valid_o <= 1'b0;
        end else begin
            if (valid_i && ready_o) begin
                if (word_q == 0) begin
                    {tokens_q, groups_q, bands_q, format_q} <= command_i[79:0];
                    {hold_q, reuse_q} <= command_i[81:80];
                end
                for (p = 0; p < PORTS; p = p + 1) if ({29'd0, word_q} == 1 + p / 2) addresses_q[64*p+:64] <= command_i[64*(p%2)+:64];
                word_q <= word_q == LAST[2:0] ? 3'd0 : word_q + 3'd1;
                if (word_q == LAST[2:0]) check_q <= 5'd1;
            end
            if (check_q != 0) check_q <= check_q == STEPS ? 5'd0 : check_q + 5'd1;
            if (check_q == STEPS) begin
                valid_o <= good_format_q && good_numbers_q && good_words_q;
                error_o <= !(good_format_q && good_numbers_q && good_words_q);
            end else if (ready_i) valid_o <= 1'b0;
        end
        // 1: the format.  2: rows and batches.  3 to 12: bands x groups, batches x words of a row.  13: beats, in two parts.
        good_format_q <= (four || eight || (two && LANES == 8)) && group_log >= 4 && group_log <= 8
            && {format_q[31:18], format_q[15:12]} == {14'd64, 4'd0};
        good_numbers_q <= bands_q != 0 && groups_q != 0 && groups_q < 16'd1024 && tokens_q != 0 && tokens_q <= TOKENS;
        group_shift_q <= group_log[2:0] - 3'd3;  // 4 to 8, of which the highest bit is lost
        tile_shift_q <= eight ? 2'd3 : four ? 2'd2 : 2'd1;
        weight_shift_q <= {1'b0, group_shift_q} + {2'd0, tile_shift_q};
        parameter_shift_q <= 3'd1 + {2'd0, minimum} + {2'd0, wide};
        row_words_q <= groups_q << group_shift_q;
        batches_q <= (tokens_q + (16'd1 << BATCH_BITS) - 16'd1) >> BATCH_BITS;
        if (check_q == 5'd2) begin
            product_q <= 0;
            bands_shifted_q <= {10'd0, bands_q};
            groups_left_q <= groups_q[9:0];
        end else begin
            if (groups_left_q[0]) product_q <= product_q + bands_shifted_q;
            bands_shifted_q <= bands_shifted_q << 1;
            groups_left_q <= groups_left_q >> 1;
        end
        if (check_q == 5'd3) begin
            words_q <= 0;
            words_shifted_q <= {8'd0, row_words_q};
            batches_left_q <= batches_q[7:0];
        end else begin
            if (batches_left_q[0]) words_q <= words_q + words_shifted_q;
            words_shifted_q <= words_shifted_q << 1;
            batches_left_q <= batches_left_q >> 1;
        end
        good_words_q <= {8'd0, words_q} <= ACTIVATION_WORDS;
        weight_beats_q <= {6'd0, product_q} << weight_shift_q;
        parameter_beats_q <= {6'd0, product_q} << parameter_shift_q;
        beats_o <= weight_beats_q + parameter_beats_q;
    end

    genvar q;
    generate
        for (q = 0; q < PORTS; q = q + 1) begin : g_address
            assign addresses_o[ADDRESS_WIDTH*q+:ADDRESS_WIDTH] = addresses_q[64*q+:ADDRESS_WIDTH];
        end
    endgenerate
    // The geometry, as every reader of it cuts it up: what is counted stands as the last of its count.
    reg [15:0] last_band_q, last_group_q, last_token_q, last_batch_q;
    reg [5:0] last_word_q;
    reg [3:0] last_tile_q;
    always @(posedge clk_i) begin
        last_band_q <= bands_q - 16'd1;
        last_group_q <= groups_q - 16'd1;
        last_token_q <= tokens_q - 16'd1;
        last_batch_q <= batches_q - 16'd1;
        last_word_q <= (6'd1 << group_shift_q) - 6'd1;
        last_tile_q <= (4'd1 << tile_shift_q) - 4'd1;
    end
    assign geometry_o = {
        words_q[15:0], 2'd0, minimum, wide, two, eight, reuse_q, hold_q, 4'd1 << parameter_shift_q, last_tile_q, last_word_q,
        last_batch_q[7:0], last_token_q[7:0], row_words_q, last_group_q[9:0], last_band_q
    };
endmodule

`default_nettype wire
