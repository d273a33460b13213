// SPDX-License-Identifier: Apache-2.0
// What stops pacq_gemv and column_gemm until they are cleared: a command that cannot be run, a read that fails, one that does not end.
`default_nettype none

module gemv_faults #(
    parameter PORTS = 4
) (
    input wire clk_i,
    input wire rst_i,
    input wire clear_i,
    input wire bad_command_i,
    input wire [PORTS-1:0] bus_error_i,
    input wire [2*PORTS-1:0] responses_i,
    input wire quiet_i,             // a read is under way, and nothing moves
    input wire [31:0] watchdog_i,   // cycles that this may last
    output wire stopped_o,
    (* keep *) output reg core_rst_o,  // a cycle later, so that it reaches everything
    output wire [31:0] error_o      // gemv_registers: ERROR
);
    reg stopped_q, late_q, quiet_now_q;
    reg [31:0] error_q, quiet_q;
    assign stopped_o = stopped_q;
    assign error_o = error_q;
    reg [1:0] where, response;
    integer e;
    always @* begin
        where = 2'd0;
        response = 2'd0;
        for (e = PORTS - 1; e >= 0; e = e - 1) begin
            if (bus_error_i[e]) begin
                where = e[1:0];
                response = responses_i[2*e+:2];
            end
        end
    end
    always @(posedge clk_i) begin
        core_rst_o <= rst_i || stopped_q || clear_i;
        quiet_now_q <= quiet_i;
        quiet_q <= rst_i || clear_i || !quiet_now_q ? 32'd0 : quiet_q + 32'd1;
        late_q <= quiet_q >= watchdog_i;
        if (rst_i || clear_i) begin
            stopped_q <= 1'b0;
            error_q <= 32'd0;
        end else if (!stopped_q && (bad_command_i || bus_error_i != 0 || late_q)) begin
            stopped_q <= 1'b1;
            error_q <= bus_error_i != 0 ? {14'd0, response, 6'd0, where, 8'd2} : bad_command_i ? 32'd1 : 32'd3;
        end
    end
endmodule

`default_nettype wire
