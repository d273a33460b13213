// SPDX-License-Identifier: Apache-2.0
// Sums in the order of rows: for 16 rows, for token, for half of the rows: eight INT32 side by side.
`default_nettype none

module column_results #(
    parameter TOKENS = 8,
    parameter DEPTH = 64           // words of 16 sums: a power of two
) (
    input wire clk_i,
    input wire rst_i,
    input wire [40:0] geometry_i,
    input wire geometry_valid_i,
    output wire geometry_ready_o,
    input wire valid_i,
    input wire [511:0] sums_i,
    output wire room_o,            // for those of a step, beside those on their way
    output wire [255:0] m_axis_tdata,
    output wire m_axis_tvalid,
    output wire m_axis_tlast,      // of the command
    input wire m_axis_tready
);
    initial if (DEPTH < 3 * TOKENS + 8) $fatal(1, "column_results: DEPTH is %0d, at least %0d", DEPTH, 3 * TOKENS + 8);
    wire [511:0] sums;
    wire some;
    wire [$clog2(DEPTH):0] count;
    reg half_q, room_q, done_q;
    wire pop = some && m_axis_tready && half_q && geometry_valid_i && !done_q;
    stream_fifo #(.WIDTH(512), .DEPTH(DEPTH)) u_fifo (
        .clk_i(clk_i), .rst_i(rst_i), .data_i(sums_i), .valid_i(valid_i), .ready_o(), .data_o(sums), .valid_o(some),
        .ready_i(pop), .count_o(count)
    );
    assign room_o = room_q;
    reg [7:0] token_q;
    reg [15:0] row_q;
    wire last_token = token_q == geometry_i[39:32] - 8'd1;
    wire last_row = row_q == geometry_i[15:0] - 16'd1;
    assign m_axis_tdata = half_q ? sums[511:256] : sums[255:0];
    assign m_axis_tvalid = some && geometry_valid_i && !done_q;
    assign m_axis_tlast = half_q && last_token && last_row;
    assign geometry_ready_o = done_q;
    localparam [31:0] LIMIT = DEPTH - 2 * TOKENS - 8;
    always @(posedge clk_i) begin
        room_q <= count <= LIMIT[$clog2(DEPTH):0];
        done_q <= !rst_i && pop && last_token && last_row;
        if (rst_i) begin
            half_q <= 1'b0;
            token_q <= 8'd0;
            row_q <= 16'd0;
        end else begin
            if (m_axis_tvalid && m_axis_tready) half_q <= !half_q;
            if (pop) begin
                token_q <= last_token ? 8'd0 : token_q + 8'd1;
                if (last_token) row_q <= last_row ? 16'd0 : row_q + 16'd1;
            end
        end
    end
endmodule

`default_nettype wire
