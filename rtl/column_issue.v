// SPDX-License-Identifier: Apache-2.0
// The steps of column_gemm: a beat of every port with the codes of their columns, stripe after stripe; and, in between, sums that
// leave.  A stripe has one of two halves of the memories of sums; it leaves while the next is added up.
`default_nettype none

module column_issue #(
    parameter PORTS = 4,
    parameter MAX_WORDS = 256,
    parameter STRIPE = 256         // beats of a column in a stripe, at most
) (
    input wire clk_i,
    input wire rst_i,
    input wire [40:0] geometry_i,  // listed, tokens 8, row words 16, rows 16
    input wire geometry_valid_i,
    output wire geometry_ready_o,
    input wire [5:0] loaded_i,     // column_codes
    input wire [15:0] groups0_i,
    input wire [15:0] groups1_i,
    output reg [5:0] done_o,
    input wire beats_there_i,
    output wire take_o,            // a beat of every port
    input wire room_i,             // for the sums of all tokens, and those on their way
    // A step: column_lanes.
    output reg [$clog2(MAX_WORDS):0] read_at_o,
    output reg [3:0] pick_o,
    output reg add_o,
    output reg begin_o,
    output reg drain_o,
    output reg [7:0] tokens_o,
    output reg [$clog2(STRIPE):0] sums_at_o,
    output reg listed_o,
    output reg [$clog2(16*MAX_WORDS/PORTS):0] list_at_o,
    output wire waits_weights_o,
    output wire waits_codes_o,
    output wire waits_results_o
);
    localparam SB = $clog2(STRIPE), GB = $clog2(16 * MAX_WORDS / PORTS);
    localparam PB = $clog2(PORTS);
    localparam [3:0] PICKS = PORTS == 1 ? 4'd15 : PORTS == 2 ? 4'd7 : 4'd3;
    localparam [31:0] MOST = STRIPE;
    localparam SHORTEST = 4;       // steps until sums can be added to again (column_lane)

    wire [15:0] rows = geometry_i[15:0];
    reg [5:0] mine_q;
    wire [5:0] behind = loaded_i - mine_q;
    wire loaded = behind != 0 && !behind[5];
    // The stripe under way.
    reg known_q, stripe_q, running_q, half_q, last_stripe_q, first_q, more_q, listed_q;
    reg [15:0] left_q, group_q, last_group_q;
    reg [SB:0] beats_q;
    reg [SB-1:0] at_q, last_at_q;
    reg [2:0] pause_q;
    reg wait_q;
    // The stripes that leave, one of each half.
    reg [1:0] leaving_q;
    reg [SB-1:0] leave_last0_q, leave_last1_q;
    reg [7:0] leave_tokens0_q, leave_tokens1_q;
    reg leave_half_q, hold_q;
    reg [SB-1:0] leave_at_q;
    reg [8:0] timer_q;

    wire step = running_q && beats_there_i && !hold_q && !wait_q;
    wire last_at = at_q == last_at_q, last_group = group_q == last_group_q;
    wire end_group = step && last_at, end_stripe = end_group && last_group;
    assign take_o = running_q && !hold_q && !wait_q;
    assign geometry_ready_o = end_stripe && last_stripe_q;
    assign waits_weights_o = running_q && !beats_there_i;
    assign waits_codes_o = geometry_valid_i && !known_q && !loaded;
    assign waits_results_o = known_q && stripe_q && leaving_q[half_q];
    wire [7:0] leave_tokens = leave_half_q ? leave_tokens1_q : leave_tokens0_q;
    wire [SB-1:0] leave_last = leave_half_q ? leave_last1_q : leave_last0_q;
    wire leave_done = hold_q && leave_at_q == leave_last;
    wire [15:0] next_left = left_q - {{(15 - SB) {1'b0}}, beats_q};
    always @(posedge clk_i) begin
        if (rst_i) begin
            mine_q <= 6'd0;
            done_o <= 6'd0;
            known_q <= 1'b0;
            stripe_q <= 1'b0;
            running_q <= 1'b0;
            half_q <= 1'b0;
            leaving_q <= 2'd0;
            leave_half_q <= 1'b0;
            hold_q <= 1'b0;
            timer_q <= 9'd0;
            leave_at_q <= 0;
            add_o <= 1'b0;
            drain_o <= 1'b0;
        end else begin
            // A command, once its codes are there.
            if (!known_q && geometry_valid_i && loaded) begin
                known_q <= 1'b1;
                stripe_q <= 1'b1;
            end
            // A stripe, once its half is free.
            if (stripe_q && !leaving_q[half_q]) begin
                stripe_q <= 1'b0;
                running_q <= 1'b1;
            end
            if (end_stripe) begin
                running_q <= 1'b0;
                half_q <= !half_q;
                leaving_q[half_q] <= 1'b1;
                if (last_stripe_q) begin
                    known_q <= 1'b0;
                    mine_q <= mine_q + 6'd1;
                    done_o <= done_o + 6'd1;
                end else stripe_q <= 1'b1;
            end
            // What leaves: a beat of rows of all tokens at once, as fast as the conveyor is free.
            hold_q <= 1'b0;
            timer_q <= timer_q != 0 ? timer_q - 9'd1 : 9'd0;
            if (end_stripe && leaving_q == 0) timer_q <= 9'd16;  // until its last sums are written
            else if (leaving_q[leave_half_q] && timer_q == 0 && room_i && !hold_q) begin
                hold_q <= 1'b1;
                timer_q <= {1'b0, leave_tokens} + {3'd0, leave_tokens[7:2]} + 9'd4;
            end
            if (hold_q) begin
                leave_at_q <= leave_done ? {SB{1'b0}} : leave_at_q + 1'b1;
                if (leave_done) begin
                    leaving_q[leave_half_q] <= 1'b0;
                    leave_half_q <= !leave_half_q;
                    timer_q <= timer_q + 9'd16;  // the next stripe may have ended only now
                end
            end
            add_o <= step;
            drain_o <= hold_q;
        end
        if (!known_q) begin
            left_q <= rows;
            beats_q <= rows > MOST[15:0] ? MOST[SB:0] : rows[SB:0];
            last_group_q <= (mine_q[0] ? groups1_i : groups0_i) - 16'd1;
            listed_q <= geometry_i[40];
        end else if (end_stripe) begin
            left_q <= next_left;
            beats_q <= next_left > MOST[15:0] ? MOST[SB:0] : next_left[SB:0];
        end
        last_stripe_q <= left_q <= MOST[15:0];
        if (!running_q) begin
            last_at_q <= beats_q[SB-1:0] - 1'b1;
            at_q <= 0;
            group_q <= 16'd0;
            first_q <= 1'b1;
            wait_q <= 1'b0;
            pause_q <= beats_q < SHORTEST ? SHORTEST[2:0] - beats_q[2:0] : 3'd0;
            more_q <= beats_q < SHORTEST;
        end else begin
            if (step) at_q <= last_at ? {SB{1'b0}} : at_q + 1'b1;
            if (end_group) begin
                group_q <= group_q + 16'd1;
                first_q <= 1'b0;
            end
            if (end_group && more_q) begin
                wait_q <= 1'b1;
                pause_q <= SHORTEST[2:0] - beats_q[2:0];
            end else if (wait_q) begin
                pause_q <= pause_q - 3'd1;
                wait_q <= pause_q != 3'd1;
            end
        end
        if (end_stripe && !half_q) {leave_last0_q, leave_tokens0_q} <= {last_at_q, geometry_i[39:32]};
        if (end_stripe && half_q) {leave_last1_q, leave_tokens1_q} <= {last_at_q, geometry_i[39:32]};
        listed_o <= listed_q;
        begin_o <= first_q;
        tokens_o <= leave_tokens;
        sums_at_o <= hold_q ? {leave_half_q, leave_at_q} : {half_q, at_q};
        read_at_o <= {mine_q[0], group_q[GB-1:4-PB]};
        pick_o <= group_q[3:0] & PICKS;
        list_at_o <= {mine_q[0], group_q[GB-1:0]};
    end
endmodule

`default_nettype wire
