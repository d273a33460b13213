// SPDX-License-Identifier: Apache-2.0
// Commands of column_gemm: a matrix each, checked, then told to everybody as a geometry.
//
// A command is two words of 128 bits:
//     word 0   [15:0] beats of a column: rows / 16, [31:16] beats of a row of codes: columns / 16, [47:32] tokens,
//              [48] listed: only columns whose code is not 0 are read, for one token
//     word 1   [63:0] address of the matrix (machine/storage/columns.py)
`default_nettype none

module column_commands #(
    parameter TOKENS = 8,
    parameter MAX_WORDS = 256,     // of 16 codes in a row
    parameter ADDRESS_WIDTH = 40
) (
    input wire clk_i,
    input wire rst_i,
    input wire [127:0] command_i,
    input wire valid_i,
    output wire ready_o,
    output reg [ADDRESS_WIDTH+40:0] geometry_o,  // listed, tokens 8, row words 16, rows 16, address
    output reg valid_o,
    input wire ready_i,
    output reg error_o             // a command that this design cannot run, for a cycle
);
    localparam [31:0] MANY = TOKENS, LONG = MAX_WORDS;
    reg second_q;
    reg [2:0] check_q;
    reg [127:0] first_q;
    reg [63:0] address_q;
    reg good_size_q, good_tokens_q, good_rest_q, good_q;
    wire [15:0] rows = first_q[15:0], words = first_q[31:16], tokens = first_q[47:32];
    wire listed = first_q[48];
    assign ready_o = check_q == 0 && !valid_o;
    always @(posedge clk_i) begin
        error_o <= 1'b0;
        if (rst_i) begin
            second_q <= 1'b0;
            check_q <= 3'd0;
            valid_o <= 1'b0;
        end else begin
            if (valid_i && ready_o) begin
                if (second_q) address_q <= command_i[63:0];
                else first_q <= command_i;
                second_q <= !second_q;
                if (second_q) check_q <= 3'd1;
            end
            if (check_q != 0) check_q <= check_q == 3'd4 ? 3'd0 : check_q + 3'd1;
            if (check_q == 3'd4) begin
                valid_o <= good_q;
                error_o <= !good_q;
            end else if (ready_i) valid_o <= 1'b0;
        end
        good_size_q <= rows != 0 && words != 0 && words <= LONG[15:0];
        good_tokens_q <= tokens != 0 && tokens <= MANY[15:0] && (!listed || tokens == 16'd1);
        good_rest_q <= first_q[127:49] == 0 && address_q[3:0] == 0 && address_q[63:ADDRESS_WIDTH] == 0;
        good_q <= good_size_q && good_tokens_q && good_rest_q;
        geometry_o <= {listed, tokens[7:0], words, rows, address_q[ADDRESS_WIDTH-1:0]};
    end
endmodule

`default_nettype wire
