// SPDX-License-Identifier: Apache-2.0
// A DSP48E2 for simulators, as far as rtl/dsp_slice.v uses it: P = Z + (A or A + D) * B with Z = 0, PCIN or PCIN >> 17 (UG579,
// tables 2-2 to 2-9).  Ends the simulation where another use is made of it.  Synthesis takes the vendor's.
`default_nettype none

module DSP48E2 #(
    parameter AMULTSEL = "A", parameter BMULTSEL = "B", parameter PREADDINSEL = "A",
    parameter AREG = 1, parameter ACASCREG = 1, parameter DREG = 1, parameter ADREG = 1, parameter BREG = 1, parameter BCASCREG = 1,
    parameter CREG = 1, parameter MREG = 1, parameter PREG = 1, parameter INMODEREG = 1, parameter OPMODEREG = 1,
    parameter ALUMODEREG = 1, parameter CARRYINREG = 1, parameter CARRYINSELREG = 1
) (
    input wire CLK,
    input wire [29:0] A, ACIN,
    input wire [17:0] B, BCIN,
    input wire [47:0] C, PCIN,
    input wire [26:0] D,
    input wire [4:0] INMODE,
    input wire [8:0] OPMODE,
    input wire [3:0] ALUMODE,
    input wire [2:0] CARRYINSEL,
    input wire CARRYIN, CARRYCASCIN, MULTSIGNIN,
    input wire CEA1, CEA2, CEB1, CEB2, CEC, CED, CEAD, CEM, CEP, CEINMODE, CECTRL, CEALUMODE, CECARRYIN,
    input wire RSTA, RSTB, RSTC, RSTD, RSTM, RSTP, RSTINMODE, RSTCTRL, RSTALUMODE, RSTALLCARRYIN,
    output wire [47:0] P, PCOUT,
    output wire [29:0] ACOUT,
    output wire [17:0] BCOUT,
    output wire [3:0] CARRYOUT,
    output wire [7:0] XOROUT,
    output wire CARRYCASCOUT, MULTSIGNOUT, OVERFLOW, UNDERFLOW, PATTERNBDETECT, PATTERNDETECT
);
    localparam PREADD = AMULTSEL == "AD";
    wire [8:0] mode = OPMODE & 9'b110001111;
    initial begin
        if (MREG != 1 || PREG != 1 || CREG != 0 || INMODEREG != 0 || OPMODEREG != 0 || ALUMODEREG != 0)
            $fatal(1, "DSP48E2: registers that this model has not");
        if (PREADD ? AREG != 1 || BREG != 2 || DREG != 1 || ADREG != 1 : AREG != BREG)
            $fatal(1, "DSP48E2: AREG %0d, BREG %0d: this model has not", AREG, BREG);
    end
    // Constants all: looked at once, when they come.
    always @* begin
        if (mode != 9'b000000101 || ALUMODE != 0 || CARRYINSEL != 0 || CARRYIN || INMODE != (PREADD ? 5'b00100 : 5'b00000))
            $fatal(1, "DSP48E2: OPMODE %b, ALUMODE %b, INMODE %b: this model multiplies and adds", OPMODE, ALUMODE, INMODE);
        if ({RSTA, RSTB, RSTC, RSTD, RSTM, RSTP} != 0 || !CEA2 || !CEB2 || !CEM || !CEP)
            $fatal(1, "DSP48E2: a reset or an enable that this model has not");
    end

    reg signed [26:0] a1_q, a2_q, d_q;
    reg signed [17:0] b1_q, b2_q;
    reg signed [44:0] m_q;
    reg signed [47:0] p_q;
    wire signed [26:0] a = AREG == 2 || PREADD ? a2_q : a1_q;
    wire signed [17:0] b = BREG == 2 ? b2_q : b1_q;
    wire signed [47:0] cascade = PCIN;
    wire signed [47:0] z = OPMODE[6:4] == 3'b001 ? cascade : OPMODE[6:4] == 3'b101 ? cascade >>> 17 : 48'sd0;
    always @(posedge CLK) begin
        a1_q <= A[26:0];
        a2_q <= PREADD ? a1_q + d_q : a1_q;
        b1_q <= B;
        b2_q <= b1_q;
        d_q <= D;
        m_q <= a * b;
        p_q <= z + {{3{m_q[44]}}, m_q};
    end
    assign P = p_q;
    assign PCOUT = p_q;
    assign {ACOUT, BCOUT, CARRYOUT, XOROUT, CARRYCASCOUT, MULTSIGNOUT, OVERFLOW, UNDERFLOW, PATTERNBDETECT, PATTERNDETECT} = 0;
endmodule

`default_nettype wire
