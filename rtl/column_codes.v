// SPDX-License-Identifier: Apache-2.0
// Codes of a command, token after token.  They go to the tokens' memories as they come; where only live columns are read, the codes
// that are not 0 are listed with their columns instead, filled up with column 0 and code 0 to whole groups of PORTS.
//
// There is room for two commands.  A group's columns may be read while the list is still made.
`default_nettype none

module column_codes #(
    parameter PORTS = 4,
    parameter MAX_WORDS = 256      // of 16 codes in a row: a power of two
) (
    input wire clk_i,
    input wire rst_i,
    input wire listed_i,           // the geometry
    input wire [7:0] tokens_i,
    input wire [15:0] words_i,
    input wire geometry_valid_i,
    output wire geometry_ready_o,
    input wire [127:0] s_axis_tdata,
    input wire s_axis_tvalid,
    output wire s_axis_tready,
    // To the memories of the tokens.
    output reg write_o,
    output reg [7:0] write_token_o,
    output reg [$clog2(MAX_WORDS):0] write_at_o,
    output reg [127:0] write_data_o,
    // Commands that are loaded, and that are done with: counters, of more than twice the commands that may be under way.  How many groups those have, by the lowest bit of their number.
    output reg [5:0] loaded_o,
    input wire [5:0] done_i,
    output reg [15:0] groups0_o,
    output reg [15:0] groups1_o,
    output wire [15:0] listed_o,   // groups of the command that is being loaded, so far
    // The list, two cycles after the group: which columns are to be read, and their codes.
    input wire [$clog2(16*MAX_WORDS/PORTS):0] columns_at_i,
    output wire [16*PORTS-1:0] columns_o,
    input wire [$clog2(16*MAX_WORDS/PORTS):0] list_at_i,
    output wire [8*PORTS-1:0] list_o
);
    localparam WB = $clog2(MAX_WORDS);
    initial if (MAX_WORDS > 2048) $fatal(1, "column_codes: MAX_WORDS is %0d; at most 2048 words of codes are possible", MAX_WORDS);
    localparam GROUPS = 16 * MAX_WORDS / PORTS;
    localparam GB = $clog2(GROUPS);
    localparam PB = $clog2(PORTS);
    localparam [31:0] EVERY = PORTS;
    localparam [1:0] LAST_PORT = EVERY[1:0] - 2'd1;

    wire buffer = loaded_o[0];
    wire [5:0] ahead = loaded_o - done_i;   // 0, 1 or 2 commands are kept
    reg some_room_q, busy_q, listed_q, coming_q, end_q;
    reg [7:0] token_q, last_token_q;
    reg [15:0] word_q, last_word_q;
    // A word whose columns are being listed.
    reg [127:0] beat_q;
    reg [15:0] live_q;
    reg [15:0] column_q;           // of its first code
    wire [15:0] lowest = live_q & (~live_q + 16'd1), rest = live_q & ~lowest;
    wire some_live = live_q != 0;
    assign s_axis_tready = coming_q && (!listed_q || !some_live);
    wire take = s_axis_tvalid && s_axis_tready;
    wire last_of_all = word_q == last_word_q && token_q == last_token_q;
    wire [15:0] alive;
    genvar k, p;
    generate
        for (k = 0; k < 16; k = k + 1) begin : g_alive
            assign alive[k] = s_axis_tdata[8*k+:8] != 8'd0;
        end
    endgenerate

    // A listed column: found, a cycle later with its code.
    reg found_q, entry_q;
    reg [15:0] found_at_q, found_column_q, entry_column_q;
    reg [127:0] found_beat_q;
    reg [7:0] entry_code_q, code;
    reg [1:0] port_q;              // where the next entry goes
    reg [15:0] group_q;
    reg [3:0] place;
    integer n;
    always @* begin
        code = 8'd0;
        place = 4'd0;
        for (n = 0; n < 16; n = n + 1) begin
            if (found_at_q[n]) begin
                code = code | found_beat_q[8*n+:8];
                place = place | n[3:0];
            end
        end
    end
    assign listed_o = group_q;
    assign geometry_ready_o = !busy_q && some_room_q;
    wire whole = port_q == 2'd0 && group_q != 0;  // groups, at least one
    wire settled = !found_q && !entry_q;
    // All of a list is on its way no more: known a cycle late, so that neither the search nor what follows is long.
    reg listed_all_q;
    wire fill = listed_all_q && !whole;
    wire finish = listed_all_q ? whole : busy_q && end_q && !listed_q;
    always @(posedge clk_i) begin
        some_room_q <= !rst_i && ahead < 6'd2 && !finish && !(geometry_valid_i && geometry_ready_o);
        if (rst_i) begin
            busy_q <= 1'b0;
            coming_q <= 1'b0;
            end_q <= 1'b0;
            loaded_o <= 6'd0;
            live_q <= 16'd0;
            listed_all_q <= 1'b0;
            found_q <= 1'b0;
            entry_q <= 1'b0;
            port_q <= 2'd0;
            group_q <= 16'd0;
            write_o <= 1'b0;
        end else begin
            if (geometry_valid_i && geometry_ready_o) begin
                busy_q <= 1'b1;
                coming_q <= 1'b1;
                listed_q <= listed_i;
                last_token_q <= tokens_i - 8'd1;
                last_word_q <= words_i - 16'd1;
                token_q <= 8'd0;
                word_q <= 16'd0;
            end
            if (take) begin
                word_q <= word_q == last_word_q ? 16'd0 : word_q + 16'd1;
                if (word_q == last_word_q) token_q <= token_q + 8'd1;
                if (last_of_all) begin
                    coming_q <= 1'b0;
                    end_q <= 1'b1;
                end
            end
            write_o <= take && !listed_q;
            if (listed_q && (take || some_live)) live_q <= take ? alive : rest;
            listed_all_q <= busy_q && end_q && listed_q && !some_live && settled && !fill && !finish;
            found_q <= some_live;
            entry_q <= found_q || fill;  // column 0 fills the last group, when nothing else is on its way
            if (entry_q) begin
                port_q <= port_q == LAST_PORT ? 2'd0 : port_q + 2'd1;
                if (port_q == LAST_PORT) group_q <= group_q + 16'd1;
            end
            if (finish) begin
                busy_q <= 1'b0;
                end_q <= 1'b0;
                port_q <= 2'd0;
                group_q <= 16'd0;
                loaded_o <= loaded_o + 6'd1;
                if (buffer) groups1_o <= listed_q ? group_q : (last_word_q + 16'd1) << (4 - PB);
                else groups0_o <= listed_q ? group_q : (last_word_q + 16'd1) << (4 - PB);
            end
        end
        write_token_o <= token_q;
        write_at_o <= {buffer, word_q[WB-1:0]};
        write_data_o <= s_axis_tdata;
        if (take) begin
            beat_q <= s_axis_tdata;
            column_q <= {word_q[11:0], 4'd0};
        end
        found_at_q <= lowest;
        found_beat_q <= beat_q;
        found_column_q <= column_q;
        entry_code_q <= found_q ? code : 8'd0;
        entry_column_q <= found_q ? {found_column_q[15:4], place} : 16'd0;
    end

    generate
        for (p = 0; p < PORTS; p = p + 1) begin : g_port
            localparam [31:0] MINE = p;
            reg [15:0] columns[0:2*GROUPS-1];
            reg [7:0] codes[0:2*GROUPS-1];
            reg [15:0] columns_q, columns2_q;
            reg [7:0] codes_q, codes2_q;
            always @(posedge clk_i) begin
                if (entry_q && port_q == MINE[1:0]) begin
                    columns[{buffer, group_q[GB-1:0]}] <= entry_column_q;
                    codes[{buffer, group_q[GB-1:0]}] <= entry_code_q;
                end
                columns_q <= columns[columns_at_i];
                columns2_q <= columns_q;
                codes_q <= codes[list_at_i];
                codes2_q <= codes_q;
            end
            assign columns_o[16*p+:16] = columns2_q;
            assign list_o[8*p+:8] = codes2_q;
        end
    endgenerate
endmodule

`default_nettype wire
