// SPDX-License-Identifier: Apache-2.0
// Four bits of a carry chain as the vendor defines it (UG974), for simulators; a synthesis tool has its own.
`default_nettype none

module CARRY4 (
    input wire CI,
    input wire CYINIT,
    input wire [3:0] DI,
    input wire [3:0] S,
    output wire [3:0] O,
    output wire [3:0] CO
);
    wire [4:0] chain = {CO, CI | CYINIT};
    assign CO = (S & chain[3:0]) | (~S & DI);
    assign O = S ^ chain[3:0];
endmodule

`default_nettype wire
