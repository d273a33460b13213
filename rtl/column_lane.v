// SPDX-License-Identifier: Apache-2.0
// A token of column_gemm: its codes of a command, 16 rows against PORTS columns of the matrix in a cycle, and its sums.
//
// Two rows share a DSP48E2: (upper row << 18 + lower row) * code.  A product of two codes is at most 2^14, the sum over four ports
// 2^16: fields of 18 bits stay apart for every INT8 value.  The upper field is one less where the lower is negative, which the
// carry gives back.
`default_nettype none

module column_lane #(
    parameter INDEX = 0,         // which token
    parameter PORTS = 4,
    parameter WORDS = 512,       // of 16 codes: two commands
    parameter DEPTH = 512        // of 16 sums: two stripes
) (
    input wire clk_i,
    // A word of codes of a token.
    input wire write_i,
    input wire [7:0] write_token_i,
    input wire [$clog2(WORDS)-1:0] write_at_i,
    input wire [127:0] write_data_i,
    // Cycle 0: which codes.  Cycle 2: those of single columns instead.  Cycle 3 + p: the weights of port p.
    input wire [$clog2(WORDS)-1:0] read_at_i,
    input wire [3:0] pick_i,
    input wire listed_i,
    input wire [8*PORTS-1:0] list_i,
    input wire [128*PORTS-1:0] weights_i,
    // Cycle 4 + PORTS: where the sums are, and what becomes of them.
    input wire add_i,
    input wire begin_i,          // they begin with this column
    input wire drain_i,          // they leave
    input wire [7:0] tokens_i,   // of which there are so many
    input wire [$clog2(DEPTH)-1:0] sums_at_i,
    // The conveyor, from higher tokens to token 0.
    input wire carried_i,
    input wire [511:0] conveyor_i,
    output reg carried_o,
    output reg [511:0] conveyor_o
);
    localparam [31:0] MINE = INDEX;
    localparam SB = $clog2(DEPTH);

    (* ram_style = "block" *) reg [127:0] codes[0:WORDS-1];
    reg [127:0] word_q, word2_q;
    reg [3:0] pick_q, pick2_q;
    reg [8*PORTS-1:0] code_q;
    wire [8*PORTS-1:0] picked;
    wire unused = |{pick_i, listed_i, list_i};  // not all designs, nor all tokens, have a use for them
    genvar p, r, k;
    generate
        if (PORTS == 1) begin : g_one
            assign picked = word2_q[8*pick2_q[3:0]+:8];
        end else if (PORTS == 2) begin : g_two
            assign picked = word2_q[16*pick2_q[2:0]+:16];
        end else begin : g_four
            assign picked = word2_q[32*pick2_q[1:0]+:32];
        end
    endgenerate
    always @(posedge clk_i) begin
        if (write_i && write_token_i == MINE[7:0]) codes[write_at_i] <= write_data_i;
        word_q <= codes[read_at_i];
        word2_q <= word_q;
        pick_q <= pick_i;
        pick2_q <= pick_q;
        code_q <= INDEX == 0 && listed_i ? list_i : picked;
    end

    // Port p's operands are p cycles late.
    wire signed [47:0] down[0:8*(PORTS+1)-1];
    wire signed [47:0] sum[0:7];
    generate
        for (p = 0; p < PORTS; p = p + 1) begin : g_port
            wire [7:0] code;
            if (p == 0) begin : g_now
                assign code = code_q[7:0];
            end else begin : g_late
                reg [8*p-1:0] late_q;
                wire [8*p+7:0] chain = {late_q, code_q[8*p+:8]};
                always @(posedge clk_i) late_q <= chain[8*p-1:0];
                assign code = chain[8*p+:8];
            end
            for (r = 0; r < 8; r = r + 1) begin : g_pair
                wire [7:0] lower = weights_i[128*p+16*r+:8], upper = weights_i[128*p+16*r+8+:8];
                wire signed [47:0] whole;
                dsp_slice #(.FIRST(p == 0), .PREADD(1)) u_slice (
                    .clk_i(clk_i), .a_i({upper[7], upper, 18'd0}), .b_i({{10{code[7]}}, code}), .d_i({{19{lower[7]}}, lower}),
                    .pcin_i(down[8*p+r]), .p_o(whole), .pcout_o(down[8*(p+1)+r])
                );
                if (p == PORTS - 1) begin : g_last
                    assign sum[r] = whole;
                end
            end
        end
        for (r = 0; r < 8; r = r + 1) begin : g_first
            assign down[r] = 48'sd0;
        end
    endgenerate

    // Sums: read, added to, written three cycles later.
    (* ram_style = "block" *) reg [511:0] sums[0:DEPTH-1];
    reg [511:0] sums_q, sums2_q, new_q;
    reg [3*SB-1:0] at_q;
    reg [2:0] add_q;
    reg [1:0] begin_q, drain_q;
    wire [511:0] new_sums;
    generate
        for (k = 0; k < 8; k = k + 1) begin : g_add
            add_clear #(.WIDTH(32)) u_lower (
                .clear_i(begin_q[1]), .a_i(sums2_q[64*k+:32]), .b_i({{14{sum[k][17]}}, sum[k][17:0]}), .carry_i(1'b0),
                .sum_o(new_sums[64*k+:32])
            );
            add_clear #(.WIDTH(32)) u_upper (
                .clear_i(begin_q[1]), .a_i(sums2_q[64*k+32+:32]), .b_i({{2{sum[k][47]}}, sum[k][47:18]}), .carry_i(sum[k][17]),
                .sum_o(new_sums[64*k+32+:32])
            );
        end
    endgenerate
    always @(posedge clk_i) begin
        sums_q <= sums[sums_at_i];
        sums2_q <= sums_q;
        new_q <= new_sums;
        at_q <= {at_q[2*SB-1:0], sums_at_i};
        add_q <= {add_q[1:0], add_i};
        begin_q <= {begin_q[0], begin_i};
        drain_q <= {drain_q[0], drain_i && tokens_i > MINE[7:0]};
        if (add_q[2]) sums[at_q[3*SB-1-:SB]] <= new_q;
        carried_o <= drain_q[1] || carried_i;
        conveyor_o <= drain_q[1] ? sums2_q : conveyor_i;
    end
endmodule

`default_nettype wire
