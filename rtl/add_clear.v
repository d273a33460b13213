// SPDX-License-Identifier: Apache-2.0
// (clear ? 0 : a) + b + carry in one look-up table per bit of the fabric, with its carry chain: instantiated, since a tool may take a
// level of tables to clear a and another to add.  Simulators are told the same in one line, which the solver proves
// (tests/rtl/formal_add.sv).
`default_nettype none

module add_clear #(
    parameter WIDTH = 32
) (
    input wire clear_i,
    input wire [WIDTH-1:0] a_i,
    input wire [WIDTH-1:0] b_i,
    input wire carry_i,
    output wire [WIDTH-1:0] sum_o
);
`ifdef SYNTHESIS
    localparam FOURS = (WIDTH + 3) / 4;
    wire [4*FOURS-1:0] half, data, sum, carry;
    assign half = {{(4 * FOURS - WIDTH) {1'b0}}, (a_i & {WIDTH{~clear_i}}) ^ b_i};
    assign data = {{(4 * FOURS - WIDTH) {1'b0}}, b_i};  // the carry where both bits are the same
    genvar f;
    generate
        for (f = 0; f < FOURS; f = f + 1) begin : g_four
            CARRY4 u_carry (
                .CI(f == 0 ? 1'b0 : carry[4*f-1]), .CYINIT(f == 0 ? carry_i : 1'b0), .DI(data[4*f+:4]), .S(half[4*f+:4]),
                .O(sum[4*f+:4]), .CO(carry[4*f+:4])
            );
        end
    endgenerate
    assign sum_o = sum[WIDTH-1:0];
`else
    assign sum_o = (clear_i ? {WIDTH{1'b0}} : a_i) + b_i + {{(WIDTH - 1) {1'b0}}, carry_i};
`endif
endmodule

`default_nettype wire
