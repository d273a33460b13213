// SPDX-License-Identifier: Apache-2.0
// The tokens of column_gemm in groups of four: weights, codes and control hop from group to group, a cycle each, and sums come
// back on a conveyor that always moves.  They leave in the order of tokens.
`default_nettype none

module column_lanes #(
    parameter PORTS = 4,
    parameter TOKENS = 8,
    parameter WORDS = 512,
    parameter DEPTH = 512
) (
    input wire clk_i,
    input wire rst_i,
    input wire write_i,
    input wire [7:0] write_token_i,
    input wire [$clog2(WORDS)-1:0] write_at_i,
    input wire [127:0] write_data_i,
    // Cycle 0 of a step: beats of PORTS columns, and what they meet.
    input wire [128*PORTS-1:0] weights_i,
    input wire [$clog2(WORDS)-1:0] read_at_i,
    input wire [3:0] pick_i,
    input wire add_i,
    input wire begin_i,
    input wire drain_i,
    input wire [7:0] tokens_i,
    input wire [$clog2(DEPTH)-1:0] sums_at_i,
    // Cycle 2: the codes of single columns, for token 0.
    input wire listed_i,
    input wire [8*PORTS-1:0] list_i,
    output wire valid_o,
    output wire [511:0] sums_o
);
    localparam GROUP = 4;
    localparam GROUPS = (TOKENS + GROUP - 1) / GROUP;
    localparam WB = $clog2(WORDS), SB = $clog2(DEPTH);
    localparam LATE = 4 + PORTS;         // of what becomes of the sums
    localparam CONTROL = 11 + SB;

    // Weights of port p are needed 3 + p cycles late.
    wire [128*PORTS-1:0] weights_there;
    wire [CONTROL-1:0] control = {add_i && !rst_i, begin_i, drain_i && !rst_i, tokens_i, sums_at_i};
    reg [CONTROL*LATE-1:0] control_q;
    wire [CONTROL-1:0] control_there = control_q[CONTROL*LATE-1-:CONTROL];
    always @(posedge clk_i) control_q <= {control_q[CONTROL*(LATE-1)-1:0], control};
    genvar p, g, t;
    generate
        for (p = 0; p < PORTS; p = p + 1) begin : g_port
            reg [128*(3+p)-1:0] late_q;
            always @(posedge clk_i) late_q <= {late_q[128*(2+p)-1:0], weights_i[128*p+:128]};
            assign weights_there[128*p+:128] = late_q[128*(3+p)-1-:128];
        end
    endgenerate

    localparam WRITE = 1 + 8 + WB + 128, READ = WB + 4;
    wire [TOKENS:0] carried;
    wire [512*(TOKENS+1)-1:0] conveyor;
    assign carried[TOKENS] = 1'b0;
    assign conveyor[512*TOKENS+:512] = 512'd0;
    assign valid_o = carried[0];
    assign sums_o = conveyor[511:0];
    generate
        for (g = 0; g < GROUPS; g = g + 1) begin : g_group
            wire [128*PORTS-1:0] weights;
            wire [CONTROL-1:0] what;
            wire [WRITE-1:0] write;
            wire [READ-1:0] read;
            if (g == 0) begin : g_first
                assign weights = weights_there;
                assign what = control_there;
                assign write = {write_i, write_token_i, write_at_i, write_data_i};
                assign read = {read_at_i, pick_i};
            end else begin : g_hop
                (* keep *) reg [128*PORTS-1:0] weights_q;
                (* keep *) reg [CONTROL-1:0] what_q;
                (* keep *) reg [WRITE-1:0] write_q;
                (* keep *) reg [READ-1:0] read_q;
                assign weights = weights_q;
                assign what = what_q;
                assign write = write_q;
                assign read = read_q;
                always @(posedge clk_i) begin
                    weights_q <= g_group[g-1].weights;
                    what_q <= g_group[g-1].what;
                    write_q <= g_group[g-1].write;
                    read_q <= g_group[g-1].read;
                end
            end
            for (t = GROUP * g; t < TOKENS && t < GROUP * (g + 1); t = t + 1) begin : g_token
                column_lane #(.INDEX(t), .PORTS(PORTS), .WORDS(WORDS), .DEPTH(DEPTH)) u_lane (
                    .clk_i(clk_i), .write_i(write[WRITE-1]), .write_token_i(write[128+WB+:8]), .write_at_i(write[128+:WB]),
                    .write_data_i(write[127:0]), .read_at_i(read[4+:WB]), .pick_i(read[3:0]), .listed_i(listed_i), .list_i(list_i),
                    .weights_i(weights), .add_i(what[SB+10]), .begin_i(what[SB+9]), .drain_i(what[SB+8]), .tokens_i(what[SB+:8]),
                    .sums_at_i(what[SB-1:0]), .carried_i(carried[t+1]), .conveyor_i(conveyor[512*(t+1)+:512]),
                    .carried_o(carried[t]), .conveyor_o(conveyor[512*t+:512])
                );
            end
        end
    endgenerate
endmodule

`default_nettype wire
