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
    output wire [79:0] geometry_o,
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
    reg [2:0] check_q;  // steps of the checks, since products take a cycle each
    assign ready_o = check_q == 0 && !valid_o;

    // What the format says.
    wire [3:0] group_log = format_q[11:8];
    wire two = format_q[7:0] == 8'd2, four = format_q[7:0] == 8'd4, eight = format_q[7:0] == 8'd8;
    wire minimum = format_q[16], wide = format_q[17];
    wire [5:0] group_words = 6'd1 << (group_log - 4'd3);  // beats of a group: 2 to 32
    wire [3:0] tiles = eight ? 4'd8 : four ? 4'd4 : 4'd2;
    wire [3:0] parameter_beats = 4'd2 << ({1'b0, minimum} + {1'b0, wide});
    wire [15:0] row_words = groups_q << (group_log - 4'd3);
    wire [15:0] batches = (tokens_q + (16'd1 << BATCH_BITS) - 16'd1) >> BATCH_BITS;
    wire good_format = (four || eight || (two && LANES == 8)) && group_log >= 4 && group_log <= 8
        && {format_q[31:18], format_q[15:12]} == {14'd64, 4'd0};

    reg [31:0] group_beats_q, activation_words_q, product_q;
    wire good = good_format && bands_q != 0 && groups_q != 0 && groups_q < 16'd1024 && tokens_q != 0 && tokens_q <= TOKENS
        && activation_words_q <= ACTIVATION_WORDS;
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
                if (word_q == LAST[2:0]) check_q <= 3'd1;
            end
            if (check_q != 0) check_q <= check_q == 3'd3 ? 3'd0 : check_q + 3'd1;
            if (check_q == 3'd3) begin
                valid_o <= good;
                error_o <= !good;
            end else if (ready_i) valid_o <= 1'b0;
        end
        group_beats_q <= {28'd0, parameter_beats} + {22'd0, {4'd0, group_words} * {6'd0, tiles}};
        activation_words_q <= batches * row_words;
        product_q <= bands_q * groups_q;
        beats_o <= product_q * group_beats_q;
    end

    genvar q;
    generate
        for (q = 0; q < PORTS; q = q + 1) begin : g_address
            assign addresses_o[ADDRESS_WIDTH*q+:ADDRESS_WIDTH] = addresses_q[64*q+:ADDRESS_WIDTH];
        end
    endgenerate
    // The geometry, as every reader of it cuts it up.
    assign geometry_o = {
        2'd0, minimum, wide, two, eight, reuse_q, hold_q, parameter_beats, tiles, group_words,
        batches[7:0], tokens_q[7:0], row_words[15:0], groups_q[9:0], bands_q
    };
endmodule

`default_nettype wire
