// SPDX-License-Identifier: Apache-2.0
// A FIFO between two streams: DEPTH words in memory and one at the output.  A word is there two cycles after it came.
`default_nettype none

module stream_fifo #(
    parameter WIDTH = 32,
    parameter DEPTH = 16,  // a power of two, at least 2
    parameter STYLE = "auto"  // of the memory, as synthesis takes it
) (
    input wire clk_i,
    input wire rst_i,
    input wire [WIDTH-1:0] data_i,
    input wire valid_i,
    output wire ready_o,
    output reg [WIDTH-1:0] data_o,
    output reg valid_o,
    input wire ready_i,
    output wire [$clog2(DEPTH):0] count_o  // words in memory
);
    localparam BITS = $clog2(DEPTH);
    initial if (DEPTH < 2 || DEPTH != 1 << BITS) $fatal(1, "stream_fifo: DEPTH is %0d, not a power of two from 2 on", DEPTH);

    localparam [31:0] ALL = DEPTH;
    (* ram_style = STYLE *) reg [WIDTH-1:0] memory[0:DEPTH-1];
    reg [BITS-1:0] head_q, tail_q;  // where words leave and come
    reg [BITS:0] count_q;
    reg some_q, room_q;             // count_q is not 0; it is not DEPTH
    assign count_o = count_q;
    assign ready_o = room_q;
    wire take = valid_i && room_q;
    wire give = some_q && (ready_i || !valid_o);
    wire one = count_q == 1, nearly = count_q == ALL[BITS:0] - 1'b1;
    always @(posedge clk_i) begin
        if (take) memory[tail_q] <= data_i;
        if (give) data_o <= memory[head_q];
        if (rst_i) begin
            head_q <= 0;
            tail_q <= 0;
            count_q <= 0;
            some_q <= 1'b0;
            room_q <= 1'b1;
            valid_o <= 1'b0;
        end else begin
            tail_q <= tail_q + {{(BITS - 1) {1'b0}}, take};
            head_q <= head_q + {{(BITS - 1) {1'b0}}, give};
            if (take != give) begin
                count_q <= take ? count_q + 1'b1 : count_q - 1'b1;
                some_q <= take || !one;
                room_q <= give || !nearly;
            end
            valid_o <= give || (valid_o && !ready_i);
        end
    end
endmodule

`default_nettype wire
