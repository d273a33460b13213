// SPDX-License-Identifier: Apache-2.0
// A look-up table of six inputs as the vendor defines it (UG974), for simulators; a synthesis tool has its own.
`default_nettype none

module LUT6 #(
    parameter [63:0] INIT = 64'd0
) (
    input wire I0,
    input wire I1,
    input wire I2,
    input wire I3,
    input wire I4,
    input wire I5,
    output wire O
);
    assign O = INIT[{I5, I4, I3, I2, I1, I0}];
endmodule

`default_nettype wire
