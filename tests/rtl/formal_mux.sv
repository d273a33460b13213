// SPDX-License-Identifier: Apache-2.0
// For the SAT solver: the cells of mux4 and mux8 choose as their line for simulators does.
`default_nettype none

module formal_mux (
    input wire [23:0] choices_i,
    input wire [2:0] which_i
);
    wire [2:0] four, eight;
    mux4 #(.WIDTH(3)) u_four (.choices_i(choices_i[11:0]), .which_i(which_i[1:0]), .value_o(four));
    mux8 #(.WIDTH(3)) u_eight (.choices_i(choices_i), .which_i(which_i), .value_o(eight));
    always @* begin
        assert (four == choices_i[3*which_i[1:0]+:3]);
        assert (eight == choices_i[3*which_i+:3]);
    end
endmodule

`default_nettype wire
