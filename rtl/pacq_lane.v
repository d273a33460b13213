// SPDX-License-Identifier: Apache-2.0
// One weight against an aligned activation, added to what comes down the cascade: one DSP48E2 and the gates that put the
// weight's four bits in their place.  Knows neither group nor row.
//
//     sum_o = sum_i + activation * (code - 8)          in units of 2^-24, exact
//
// The slice does all of it (UG579): D + A takes the 8 off at the weight's place, the multiplier finishes the shift that the
// mantissa began, the adder takes the neighbour's sum from PCIN.  So neither a barrel shifter nor an adder tree is built.
`default_nettype none

module pacq_lane (
    input wire clk_i,
    input wire [3:0] code_i,
    input wire signed [17:0] mantissa_i,  // from pacq_align, the same for every lane
    input wire [4:0] place_i,
    input wire signed [47:0] sum_i,       // three cycles later than the operands
    output wire signed [47:0] sum_o       // four cycles after the operands
);
    // The code's bits at the place that the activation chose, and minus eight there.
    wire [3:0] c = code_i;
    wire [26:0] weight = {27{place_i[0]}} & {23'd0, c} | {27{place_i[1]}} & {16'd0, c, 7'd0}
        | {27{place_i[2]}} & {9'd0, c, 14'd0} | {27{place_i[3]}} & {2'd0, c, 21'd0} | {27{place_i[4]}} & {c, 23'd0};
    wire [26:0] offset = {{24{place_i[0]}}, 3'd0} | {{17{place_i[1]}}, 10'd0} | {{10{place_i[2]}}, 17'd0}
        | {{3{place_i[3]}}, 24'd0} | {place_i[4], 26'd0};

`ifdef MEADOW_COUNT_DSP48E2
    // For Yosys, which folds neither registers nor adders into the slice.  Vivado does: it is given the lines below instead.
    DSP48E2 #(
        .AMULTSEL("AD"), .BMULTSEL("B"), .PREADDINSEL("A"), .AREG(1), .ACASCREG(1), .DREG(1), .ADREG(1), .BREG(2), .BCASCREG(2),
        .CREG(0), .MREG(1), .PREG(1), .INMODEREG(0), .OPMODEREG(0), .ALUMODEREG(0), .CARRYINREG(0), .CARRYINSELREG(0)
    ) u_slice (
        .CLK(clk_i), .A({{3{weight[26]}}, weight}), .B(mantissa_i), .C(48'd0), .D(offset), .PCIN(sum_i), .P(sum_o),
        .INMODE(5'b00100), .OPMODE(9'b000010101), .ALUMODE(4'd0), .CARRYIN(1'b0), .CARRYINSEL(3'd0),
        .CEA1(1'b0), .CEA2(1'b1), .CEB1(1'b1), .CEB2(1'b1), .CEC(1'b0), .CED(1'b1), .CEAD(1'b1), .CEM(1'b1), .CEP(1'b1),
        .CEINMODE(1'b0), .CECTRL(1'b0), .CEALUMODE(1'b0), .CECARRYIN(1'b0),
        .RSTA(1'b0), .RSTB(1'b0), .RSTC(1'b0), .RSTD(1'b0), .RSTM(1'b0), .RSTP(1'b0), .RSTINMODE(1'b0), .RSTCTRL(1'b0),
        .RSTALUMODE(1'b0), .RSTALLCARRYIN(1'b0), .ACIN(30'd0), .BCIN(18'd0), .CARRYCASCIN(1'b0), .MULTSIGNIN(1'b0)
    );
`else
    // The registers of the slice: A, D and B; AD and B again; M; P.
    reg signed [26:0] a_q, d_q, ad_q;
    reg signed [17:0] b_q, b2_q;
    reg signed [44:0] m_q;
    (* use_dsp = "yes" *) reg signed [47:0] p_q;
    always @(posedge clk_i) begin
        a_q <= weight;
        d_q <= offset;
        b_q <= mantissa_i;
        ad_q <= a_q + d_q;
        b2_q <= b_q;
        m_q <= ad_q * b2_q;
        p_q <= sum_i + {{3{m_q[44]}}, m_q};
    end
    assign sum_o = p_q;
`endif
endmodule

`default_nettype wire
