// SPDX-License-Identifier: Apache-2.0
// The activations of the commands under way: rows of FP16 come token after token, are kept with the shared sum of each of their
// groups, and are read eight columns at a time, those of TOKEN_LANES tokens at once.
//
// The memory is a ring: the rows of the next command come while those of this one are read, where there is room.
`default_nettype none

module pacq_activations #(
    parameter TOKEN_LANES = 1,
    parameter WORDS = 1024,  // of eight activations, of each token lane; a power of two, at least 128
    parameter ULTRA = 0      // 1: they lie in UltraRAM
) (
    input wire clk_i,
    input wire rst_i,
    input wire [95:0] geometry_i,
    input wire geometry_valid_i,
    output wire geometry_ready_o,
    // Rows: tokens x columns padded to whole groups, eight FP16 a word.
    input wire [127:0] s_axis_tdata,
    input wire s_axis_tvalid,
    output wire s_axis_tready,
    output reg loaded_o,      // the rows of a command are there, sums included
    input wire free_i,        // and are not needed any more
    input wire [$clog2(WORDS):0] free_words_i,
    // Two cycles after the address: eight columns of each token lane; one cycle later still, what their group sums to.
    input wire [$clog2(WORDS)-1:0] read_i,
    output wire [128*TOKEN_LANES-1:0] halves_o,
    output wire [90*TOKEN_LANES-1:0] sums_o  // {offset, float} of pacq_sum
);
    localparam BITS = $clog2(WORDS);
    localparam [31:0] LAST = TOKEN_LANES - 1, ALL = WORDS;
    localparam [7:0] LAST_LANE = LAST[7:0];
    localparam STYLE = ULTRA != 0 ? "ultra" : "block";
    localparam SETTLED = 16;  // cycles until the last sum is written
    initial if (WORDS != 1 << BITS || WORDS < 128) $fatal(1, "pacq_activations: %0d words", WORDS);
    wire [95:0] g = geometry_i;
    wire [15:0] row_words = g[41:26];
    wire reuse = g[73], eight = g[74], two = g[75], minimum = g[77];
    wire [BITS:0] wanted = g[80+:BITS+1];

    reg busy_q;
    reg [4:0] settle_q;
    reg [BITS:0] used_q, free_q;
    reg [BITS-1:0] head_q, row_q;
    reg [BITS-1:0] at_q;
    reg [15:0] word_q, last_word_of_row_q;
    reg [7:0] token_q, lane_q;
    reg [5:0] in_group_q;
    wire [BITS:0] size = ALL[BITS:0];
    // Two cycles behind, and of this geometry: room only grows while nothing begins.
    reg room_q;
    reg [2:0] seen_q;
    always @(posedge clk_i) begin
        free_q <= size - used_q;
        room_q <= wanted <= free_q;
        seen_q <= rst_i || loaded_o || !geometry_valid_i ? 3'd0 : {seen_q[1:0], 1'b1};
        last_word_of_row_q <= row_words - 16'd1;
    end
    wire begin_rows = geometry_valid_i && !busy_q && settle_q == 0 && !reuse && room_q && seen_q[2] && !loaded_o;
    wire take = s_axis_tvalid && s_axis_tready;
    wire row_done = take && word_q == last_word_of_row_q;
    wire all_done = row_done && token_q == g[49:42];
    wire last_lane = lane_q == LAST_LANE;
    wire last_in_group = in_group_q == g[63:58];
    wire reused = geometry_valid_i && !busy_q && settle_q == 0 && reuse && !loaded_o;
    assign s_axis_tready = busy_q;
    assign geometry_ready_o = loaded_o;
    always @(posedge clk_i) begin
        if (rst_i) begin
            busy_q <= 1'b0;
            settle_q <= 0;
            used_q <= 0;
            head_q <= 0;
            loaded_o <= 1'b0;
        end else begin
            used_q <= used_q + (begin_rows ? wanted : {(BITS + 1) {1'b0}}) - (free_i ? free_words_i : {(BITS + 1) {1'b0}});
            if (begin_rows) begin
                busy_q <= 1'b1;
                row_q <= head_q;
                at_q <= head_q;
                head_q <= head_q + wanted[BITS-1:0];
                word_q <= 0;
                token_q <= 0;
                lane_q <= 0;
                in_group_q <= 0;
            end
            if (take) begin
                word_q <= row_done ? 16'd0 : word_q + 16'd1;
                in_group_q <= last_in_group ? 6'd0 : in_group_q + 6'd1;
                at_q <= at_q + 1'b1;
                if (row_done) begin
                    token_q <= token_q + 8'd1;
                    lane_q <= last_lane ? 8'd0 : lane_q + 8'd1;
                    // Tokens lie side by side in their lanes, TOKEN_LANES of them in a row of words.
                    at_q <= last_lane ? row_q + row_words[BITS-1:0] : row_q;
                    if (last_lane) row_q <= row_q + row_words[BITS-1:0];
                end
            end
            if (all_done) begin
                busy_q <= 1'b0;
                settle_q <= SETTLED;
            end else if (settle_q != 0) settle_q <= settle_q - 5'd1;
            loaded_o <= settle_q == 5'd1 || reused;
        end
    end

    // The sums, kept under the address of the group's first words, halved: a group has at least two.
    wire sum_valid;
    wire [BITS-2+8:0] sum_tag;
    wire [89:0] sum;
    pacq_sum #(.TAG(BITS - 1 + 8)) u_sum (
        .clk_i(clk_i), .rst_i(rst_i), .halves_i(s_axis_tdata), .valid_i(take), .first_i(in_group_q == 0), .last_i(last_in_group),
        .shift_i(eight ? (minimum ? 2'd3 : 2'd1) : two ? (minimum ? 2'd0 : 2'd2) : (minimum ? 2'd1 : 2'd0)),
        .tag_i({lane_q, at_q[BITS-1:1]}), .valid_o(sum_valid), .tag_o(sum_tag), .offset_o(sum[89:32]), .float_o(sum[31:0])
    );

    genvar t;
    generate
        for (t = 0; t < TOKEN_LANES; t = t + 1) begin : g_lane
            (* ram_style = STYLE *) reg [127:0] memory[0:WORDS-1];
            (* ram_style = STYLE *) reg [89:0] sums[0:WORDS/2-1];
            reg [127:0] word_read_q, halves_q;
            reg [89:0] sum_read_q, sum_q, sum2_q;
            always @(posedge clk_i) begin
                if (take && lane_q == t) memory[at_q] <= s_axis_tdata;
                word_read_q <= memory[read_i];
                halves_q <= word_read_q;
                if (sum_valid && sum_tag[BITS-1+:8] == t) sums[sum_tag[BITS-2:0]] <= sum;
                sum_read_q <= sums[read_i[BITS-1:1]];
                sum_q <= sum_read_q;
                sum2_q <= sum_q;
            end
            assign halves_o[128*t+:128] = halves_q;
            assign sums_o[90*t+:90] = sum2_q;
        end
    endgenerate
endmodule

`default_nettype wire
