// SPDX-License-Identifier: Apache-2.0
// The multiplexer behind two look-up tables of a slice (UG974), for simulators; a synthesis tool has its own.
`default_nettype none

module MUXF7 (
    input wire I0,
    input wire I1,
    input wire S,
    output wire O
);
    assign O = S ? I1 : I0;
endmodule

`default_nettype wire
