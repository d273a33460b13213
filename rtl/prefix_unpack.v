// SPDX-License-Identifier: Apache-2.0
// The look-up unit of prefix codes: a 128-bit beat of packed weights in, a word of LANES weights out, up to one each a cycle.
// Fetches nothing; hls/weights.hpp:unpack_prefix and machine/storage/prefix.py are the same in C++ and numpy.
`default_nettype none

module prefix_unpack #(
    parameter LANES = 32,      // weights of a word, at most 32
    parameter CODE_BITS = 14   // of the longest code
) (
    input wire clk_i,
    input wire rst_i,
    // The matrix's table as it is in memory, 32 bits per cycle; taken when the words of the tiles before it are looked up,
    // and before a tile that is offered beside it.
    input wire [31:0] s_axis_table_tdata,
    input wire s_axis_table_tvalid,
    input wire s_axis_table_tlast,
    output wire s_axis_table_tready,
    // A tile: {beats, words}, 32 bits each.
    input wire [63:0] s_axis_tile_tdata,
    input wire s_axis_tile_tvalid,
    output wire s_axis_tile_tready,
    // Its beats.
    input wire [127:0] s_axis_beats_tdata,
    input wire s_axis_beats_tvalid,
    output wire s_axis_beats_tready,
    // Its words, the first column in the lowest bits.
    output wire [8*LANES-1:0] m_axis_words_tdata,
    output wire m_axis_words_tvalid,
    output wire m_axis_words_tlast,
    input wire m_axis_words_tready,
    // Since reset: cycles of a tile in which no word went on because beats were missing, and because nothing read.
    output reg [31:0] starved_o,
    output reg [31:0] stalled_o,
    // The beats of a tile ended before its words: it waits for a reset, and this stays up until then.
    output reg error_o
);
    localparam HALFWORDS = 8;             // in a beat
    localparam QUEUE = LANES + HALFWORDS;  // what every lane may want at once, and a beat
    localparam HEADER = 16;               // 32-bit words of the table before its weights

    initial if (LANES > 32 || CODE_BITS > 14) $fatal(1, "prefix_unpack: LANES is at most 32 and CODE_BITS at most 14");

    // -- the table ---------------------------------------------------------------------------------------------------
    reg [6:0] table_at_q;
    reg [(CODE_BITS-1)*(CODE_BITS+1)-1:0] bounds_q;
    reg [CODE_BITS*8-1:0] offsets_q;
    wire table_taken = s_axis_table_tvalid && s_axis_table_tready;
    wire weights_taken = table_taken && table_at_q >= HEADER;
    integer t;
    always @(posedge clk_i) begin
        if (rst_i) table_at_q <= 0;
        else if (table_taken) table_at_q <= s_axis_table_tlast ? 7'd0 : table_at_q + 7'd1;
        for (t = 0; t < CODE_BITS; t = t + 1) begin
            if (table_taken && {25'd0, table_at_q} == t / 2 && t < CODE_BITS - 1)
                bounds_q[t*(CODE_BITS+1)+:CODE_BITS+1] <= s_axis_table_tdata[16*(t%2)+:CODE_BITS+1];
            if (table_taken && {25'd0, table_at_q} == HEADER / 2 + t / 2) offsets_q[t*8+:8] <= s_axis_table_tdata[16*(t%2)+:8];
        end
    end

    // -- the tile ----------------------------------------------------------------------------------------------------
    reg [31:0] words_q, beats_q;  // left
    reg places_valid_q;           // a word whose weights are being looked up
    wire active = words_q != 0;
    wire open = active || beats_q != 0;  // beats that no word needed are taken and dropped
    wire begin_tile = s_axis_tile_tvalid && s_axis_tile_tready;
    // A table waits for the words that are still looking their weights up in the old one, and goes before a tile.
    assign s_axis_table_tready = !open && !places_valid_q;
    assign s_axis_tile_tready = !open && table_at_q == 0 && !s_axis_table_tvalid;

    reg [16*QUEUE-1:0] queue_q;
    reg [5:0] queued_q;
    wire [LANES-1:0] need;
    wire [8*LANES-1:0] places;
    reg [5:0] wanted;
    integer n;
    always @* begin
        wanted = 0;
        for (n = 0; n < LANES; n = n + 1) wanted = wanted + {5'd0, need[n]};
    end
    wire enough = wanted <= queued_q;
    wire advance;  // the words before this one have moved on
    wire step = active && enough && advance;
    assign s_axis_beats_tready = beats_q != 0 && (!active || queued_q <= QUEUE - HALFWORDS);
    wire beat = s_axis_beats_tvalid && s_axis_beats_tready;

    wire [5:0] gone = step ? wanted : 6'd0;
    wire [5:0] kept = queued_q - gone;
    wire [16*QUEUE-1:0] rest = queue_q >> {gone, 4'd0};
    // The beat turned so that its first halfword comes to lie behind what is kept; what lies behind the beat is of no matter.
    wire [255:0] twice = {s_axis_beats_tdata, s_axis_beats_tdata};
    wire [2:0] turn = 3'd0 - kept[2:0];
    wire [127:0] turned = twice[16*turn+:128];
    integer q;
    always @(posedge clk_i) begin
        for (q = 0; q < QUEUE; q = q + 1)
            queue_q[16*q+:16] <= q >= kept ? turned[16*(q%HALFWORDS)+:16] : rest[16*q+:16];
        if (rst_i || begin_tile) queued_q <= 0;
        else queued_q <= kept + (beat && active ? HALFWORDS : 0);
        if (rst_i) begin
            words_q <= 0;
            beats_q <= 0;
        end else if (begin_tile) begin
            words_q <= s_axis_tile_tdata[31:0];
            beats_q <= s_axis_tile_tdata[63:32];
        end else begin
            words_q <= words_q - {31'd0, step};
            beats_q <= beats_q - {31'd0, beat};
        end
    end

    // -- the lanes ---------------------------------------------------------------------------------------------------
    genvar l;
    generate
        for (l = 0; l < LANES; l = l + 1) begin : g_lane
            // A lane's halfword comes after those of the lanes before it.
            reg [5:0] ahead;
            integer k;
            always @* begin
                ahead = 0;
                for (k = 0; k < l; k = k + 1) ahead = ahead + {5'd0, need[k]};
            end
            wire [16*(l+1)-1:0] reach = queue_q[16*(l+1)-1:0];
            wire [15:0] fresh = reach[16*ahead+:16];
            prefix_lane #(
                .CODE_BITS(CODE_BITS)
            ) lane (
                .clk_i(clk_i),
                .clear_i(begin_tile),
                .step_i(step),
                .need_o(need[l]),
                .fresh_i(fresh),
                .bounds_i(bounds_q),
                .offsets_i(offsets_q),
                .place_o(places[8*l+:8])
            );
        end
    endgenerate

    // -- two registers: places, then weights ---------------------------------------------------------------------------
    reg [8*LANES-1:0] places_q;
    reg places_last_q, word_valid_q, word_last_q;
    wire move = !word_valid_q || m_axis_words_tready;
    assign advance = !places_valid_q || move;
    generate
        for (l = 0; l < LANES; l = l + 1) begin : g_weight
            // Four banks, so that a cycle loads four weights of the table.
            (* ram_style = "distributed" *) reg [7:0] bank0 [0:63];
            (* ram_style = "distributed" *) reg [7:0] bank1 [0:63];
            (* ram_style = "distributed" *) reg [7:0] bank2 [0:63];
            (* ram_style = "distributed" *) reg [7:0] bank3 [0:63];
            wire [5:0] row = table_at_q[5:0] - HEADER;
            wire [7:0] place = places_q[8*l+:8];
            reg [7:0] weight_q;
            always @(posedge clk_i) begin
                if (weights_taken) begin
                    bank0[row] <= s_axis_table_tdata[7:0];
                    bank1[row] <= s_axis_table_tdata[15:8];
                    bank2[row] <= s_axis_table_tdata[23:16];
                    bank3[row] <= s_axis_table_tdata[31:24];
                end
                if (move) begin
                    case (place[1:0])
                        2'd0: weight_q <= bank0[place[7:2]];
                        2'd1: weight_q <= bank1[place[7:2]];
                        2'd2: weight_q <= bank2[place[7:2]];
                        default: weight_q <= bank3[place[7:2]];
                    endcase
                end
            end
            assign m_axis_words_tdata[8*l+:8] = weight_q;
        end
    endgenerate
    always @(posedge clk_i) begin
        if (advance) begin
            places_q <= places;
            places_last_q <= words_q == 1;
        end
        if (move) word_last_q <= places_last_q;
        if (rst_i) begin
            places_valid_q <= 1'b0;
            word_valid_q <= 1'b0;
        end else begin
            if (advance) places_valid_q <= step;
            if (move) word_valid_q <= places_valid_q;
        end
    end
    assign m_axis_words_tvalid = word_valid_q;
    assign m_axis_words_tlast = word_last_q;

    // -- what it waited for --------------------------------------------------------------------------------------------
    always @(posedge clk_i) begin
        if (rst_i) begin
            starved_o <= 0;
            stalled_o <= 0;
            error_o <= 1'b0;
        end else begin
            if (active && !enough) starved_o <= starved_o + 1;
            if (active && enough && !advance) stalled_o <= stalled_o + 1;
            if (active && !enough && beats_q == 0) error_o <= 1'b1;
        end
    end
endmodule

`default_nettype wire
