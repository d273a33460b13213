// SPDX-License-Identifier: Apache-2.0
// Which beats the ports of column_gemm read: for every stripe of a matrix, group after group of PORTS columns, a column per port.
// Where all columns are read it runs ahead of the codes, else as far as they are listed.
`default_nettype none

module column_regions #(
    parameter PORTS = 4,
    parameter MAX_WORDS = 256,
    parameter STRIPE = 256,        // beats of a column in a stripe, at most
    parameter ADDRESS_WIDTH = 40
) (
    input wire clk_i,
    input wire rst_i,
    input wire [ADDRESS_WIDTH+40:0] geometry_i,
    input wire geometry_valid_i,
    output wire geometry_ready_o,
    input wire [5:0] loaded_i,     // column_codes
    input wire [15:0] groups0_i,
    input wire [15:0] groups1_i,
    input wire [15:0] listed_i,
    output wire [$clog2(16*MAX_WORDS/PORTS):0] columns_at_o,
    input wire [16*PORTS-1:0] columns_i,
    // A region of each port, taken by all at once.
    output reg [ADDRESS_WIDTH*PORTS-1:0] address_o,
    output wire [31:0] beats_o,
    output reg valid_o,
    input wire ready_i
);
    localparam GB = $clog2(16 * MAX_WORDS / PORTS);
    localparam PB = $clog2(PORTS);
    localparam [31:0] MOST = STRIPE;
    localparam AB = ADDRESS_WIDTH - 4;  // addresses in beats

    wire [15:0] rows = geometry_i[ADDRESS_WIDTH+:16], words = geometry_i[ADDRESS_WIDTH+16+:16];
    wire listed = geometry_i[ADDRESS_WIDTH+40];
    reg [5:0] mine_q;              // number of the command
    reg active_q, begin_q, listed_q, known_q, some_q, all_q, more_q;
    reg [15:0] left_q, beats_q, group_q, last_q, words_q;
    reg [AB-1:0] base_q;
    wire [5:0] behind = loaded_i - mine_q;
    wire there = behind != 0 && !behind[5], coming = behind == 0;
    // A group takes nine cycles: its columns come of the list with the second, their places in the stripe with the sixth.
    reg [6:1] stage_q;
    wire idle = stage_q == 0 && !valid_o;
    wire give = active_q && some_q;
    wire past = known_q && group_q > last_q;
    assign beats_o = {16'd0, beats_q};
    assign geometry_ready_o = begin_q;
    assign columns_at_o = {mine_q[0], group_q[GB-1:0]};
    always @(posedge clk_i) begin
        if (rst_i) begin
            mine_q <= 6'd0;
            active_q <= 1'b0;
            begin_q <= 1'b0;
            stage_q <= 6'd0;
            valid_o <= 1'b0;
        end else begin
            begin_q <= 1'b0;
            if (!active_q && !begin_q && geometry_valid_i) begin
                active_q <= 1'b1;
                begin_q <= 1'b1;
            end
            if (active_q && all_q && !more_q) begin
                active_q <= 1'b0;
                mine_q <= mine_q + 6'd1;
            end
            stage_q <= {stage_q[5:1], give};
            valid_o <= stage_q[6] || (valid_o && !ready_i);
        end
        if (!active_q) begin
            listed_q <= listed;
            left_q <= rows;
            words_q <= words;
            base_q <= geometry_i[ADDRESS_WIDTH-1:4];
            beats_q <= rows > MOST[15:0] ? MOST[15:0] : rows;
            group_q <= 16'd0;
            known_q <= 1'b0;
            some_q <= 1'b0;
            all_q <= 1'b0;
        end else begin
            // How many groups there are, once that is known; whether the next one is, a cycle before it goes.
            known_q <= !listed_q || there;
            last_q <= listed_q ? (mine_q[0] ? groups1_i : groups0_i) - 16'd1 : (words_q << (4 - PB)) - 16'd1;
            more_q <= left_q > MOST[15:0];
            some_q <= !some_q && idle && !all_q && !past && (known_q || (listed_q && coming && group_q < listed_i));
            if (valid_o && ready_i) group_q <= group_q + 16'd1;
            all_q <= past && idle && !all_q;
            if (all_q) begin
                group_q <= 16'd0;
                base_q <= base_q + ({{(AB - 16) {1'b0}}, words_q} << 12);  // words x 16 columns x 256 beats
                left_q <= left_q - beats_q;
                beats_q <= left_q - beats_q > MOST[15:0] ? MOST[15:0] : left_q - beats_q;
            end
        end
    end

    genvar p;
    generate
        for (p = 0; p < PORTS; p = p + 1) begin : g_port
            localparam [31:0] MINE = p;
            reg [15:0] column_q;
            wire [15:0] whole = (group_q << PB) | MINE[15:0];
            wire signed [47:0] place;
            dsp_slice #(.FIRST(1)) u_place (
                .clk_i(clk_i), .a_i({11'd0, beats_q}), .b_i({2'd0, column_q}), .d_i(27'd0), .pcin_i(48'd0), .p_o(place), .pcout_o()
            );
            always @(posedge clk_i) begin
                if (stage_q[2]) column_q <= listed_q ? columns_i[16*p+:16] : whole;
                if (stage_q[6]) address_o[ADDRESS_WIDTH*p+:ADDRESS_WIDTH] <= {base_q + place[AB-1:0], 4'd0};
            end
        end
    endgenerate
endmodule

`default_nettype wire
