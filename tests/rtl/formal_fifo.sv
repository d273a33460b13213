// SPDX-License-Identifier: Apache-2.0
// For the SAT solver: whatever stalls, the n-th word that leaves stream_fifo is the n-th that came, for any n.
`default_nettype none

module formal_fifo #(
    parameter DEPTH = 4
) (
    input wire clk_i,
    input wire rst_i,
    input wire [1:0] data_i,
    input wire valid_i,
    input wire ready_i,
    input wire [4:0] chosen_i  // which word is watched
);
    wire ready, valid;
    wire [1:0] data;
    stream_fifo #(.WIDTH(2), .DEPTH(DEPTH)) u_fifo (
        .clk_i(clk_i), .rst_i(rst_i), .data_i(data_i), .valid_i(valid_i), .ready_o(ready), .data_o(data), .valid_o(valid),
        .ready_i(ready_i), .count_o()
    );
    reg [4:0] came_q = 0, left_q = 0, chosen_q = 0;
    reg [1:0] watched_q = 0, offered_q = 0;
    reg started_q = 0, stalled_q = 0;
    always @(posedge clk_i) begin
        if (rst_i || !started_q) begin
            came_q <= 0;
            left_q <= 0;
            chosen_q <= chosen_i;
            started_q <= rst_i || started_q;
            stalled_q <= 0;
        end else begin
            came_q <= came_q + (valid_i && ready);
            left_q <= left_q + (valid && ready_i);
            if (valid_i && ready && came_q == chosen_q) watched_q <= data_i;
            stalled_q <= valid && !ready_i;
            offered_q <= data;
        end
    end
    always @* begin
        if (started_q && !rst_i) begin
            assert (left_q <= came_q);                                              // nothing is made up
            assert (came_q - left_q <= DEPTH + 1);                                  // nothing more is held than there is room for
            if (valid && left_q == chosen_q) assert (data == watched_q);            // in order, nothing lost or doubled
            if (stalled_q) assert (valid && data == offered_q);                     // what is offered stays
            if (came_q == left_q) assert (!valid);
        end
    end
endmodule

`default_nettype wire
