// SPDX-License-Identifier: Apache-2.0
// One DSP48E2 as everything here uses it: P = PCIN + (D + A) * B, every register of the slice in use.  Instantiated, so that no tool
// has to infer it; rtl/sim/DSP48E2.v is what simulators take for it.  UG579 has the ports.
`default_nettype none

module dsp_slice #(
    parameter FIRST = 0,   // of a cascade: PCIN is not added
    parameter SHIFT = 0,   // PCIN is shifted by 17 bits
    parameter DELAYS = 1,  // registers of B, and of A where D is not added: 1 or 2
    parameter PREADD = 0   // D is added to A; B then has two registers
) (
    input wire clk_i,
    input wire signed [26:0] a_i,
    input wire signed [17:0] b_i,
    input wire signed [26:0] d_i,
    input wire signed [47:0] pcin_i,   // the neighbour's pcout_o, a cycle before the product's last register
    output wire signed [47:0] p_o,     // DELAYS + 2 cycles after the operands, 4 with PREADD
    output wire signed [47:0] pcout_o
);
    localparam [8:0] OPMODE = {2'b00, FIRST ? 3'b000 : SHIFT ? 3'b101 : 3'b001, 4'b0101};
    localparam A_REGISTERS = PREADD ? 1 : DELAYS;
    localparam B_REGISTERS = PREADD ? 2 : DELAYS;
    DSP48E2 #(
        .AMULTSEL(PREADD ? "AD" : "A"), .BMULTSEL("B"), .PREADDINSEL("A"), .AREG(A_REGISTERS), .ACASCREG(A_REGISTERS), .DREG(1), .ADREG(1),
        .BREG(B_REGISTERS), .BCASCREG(B_REGISTERS), .CREG(0), .MREG(1), .PREG(1), .INMODEREG(0), .OPMODEREG(0), .ALUMODEREG(0),
        .CARRYINREG(0), .CARRYINSELREG(0)
    ) u_slice (
        .CLK(clk_i), .A({{3{a_i[26]}}, a_i}), .B(b_i), .C(48'd0), .D(d_i), .PCIN(pcin_i), .P(p_o), .PCOUT(pcout_o),
        .INMODE(PREADD ? 5'b00100 : 5'b00000), .OPMODE(OPMODE), .ALUMODE(4'd0), .CARRYIN(1'b0), .CARRYINSEL(3'd0),
        .CEA1(A_REGISTERS == 2), .CEA2(1'b1), .CEB1(B_REGISTERS == 2), .CEB2(1'b1), .CEC(1'b0), .CED(1'b1), .CEAD(1'b1), .CEM(1'b1),
        .CEP(1'b1), .CEINMODE(1'b0), .CECTRL(1'b0), .CEALUMODE(1'b0), .CECARRYIN(1'b0), .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0),
        .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0), .RSTINMODE(1'b0), .RSTCTRL(1'b0), .RSTALUMODE(1'b0), .RSTALLCARRYIN(1'b0),
        .ACIN(30'd0), .BCIN(18'd0), .CARRYCASCIN(1'b0), .MULTSIGNIN(1'b0), .ACOUT(), .BCOUT(), .CARRYCASCOUT(), .CARRYOUT(),
        .MULTSIGNOUT(), .OVERFLOW(), .PATTERNBDETECT(), .PATTERNDETECT(), .UNDERFLOW(), .XOROUT()
    );
endmodule

`default_nettype wire
