// SPDX-License-Identifier: Apache-2.0
// For the SAT solver: the AXI4-Lite side of gemv_registers.  No ready follows an input within a cycle, an answer stays until it is
// taken, and each address gets one answer (IHI 0022: A3.2.1, A3.3.1).
`default_nettype none

module formal_registers (
    input wire clk_i,
    input wire rst_i,
    input wire awvalid_i, wvalid_i, bready_i, arvalid_i, rready_i,

    input wire [7:0] awaddr_i, araddr_i
);
    wire awready, wready, bvalid, arready, rvalid;
    wire [31:0] rdata;
    gemv_registers u_registers (
        .clk_i(clk_i), .rst_i(rst_i), .s_axil_awaddr(awaddr_i), .s_axil_awvalid(awvalid_i), .s_axil_awready(awready),
        .s_axil_wdata(32'd0), .s_axil_wstrb(4'd15), .s_axil_wvalid(wvalid_i), .s_axil_wready(wready), .s_axil_bresp(),
        .s_axil_bvalid(bvalid), .s_axil_bready(bready_i), .s_axil_araddr(araddr_i), .s_axil_arvalid(arvalid_i),
        .s_axil_arready(arready), .s_axil_rdata(rdata), .s_axil_rresp(), .s_axil_rvalid(rvalid), .s_axil_rready(rready_i),
        .clear_o(), .watchdog_o(), .busy_i(1'b0), .stopped_i(1'b0), .draining_i(1'b0), .error_i(32'd0), .command_i(1'b0),
        .waits_weights_i(1'b0), .waits_activations_i(1'b0), .waits_results_i(1'b0), .waits_multipliers_i(1'b0), .beats_i(4'd0)
    );
    reg started_q = 0, answers_q = 0, reads_q = 0;
    reg [31:0] rdata_q;
    reg [4:0] addresses_q = 0, data_q = 0, written_q = 0, asked_q = 0, read_q = 0;
    always @(posedge clk_i) begin
        started_q <= rst_i || started_q;
        rdata_q <= rdata;
        if (rst_i || !started_q) begin
            answers_q <= 0;
            reads_q <= 0;
            addresses_q <= 0;
            data_q <= 0;
            written_q <= 0;
            asked_q <= 0;
            read_q <= 0;
        end else begin
            answers_q <= bvalid && !bready_i;
            reads_q <= rvalid && !rready_i;
            addresses_q <= addresses_q + (awvalid_i && awready);
            data_q <= data_q + (wvalid_i && wready);
            written_q <= written_q + (bvalid && bready_i);
            asked_q <= asked_q + (arvalid_i && arready);
            read_q <= read_q + (rvalid && rready_i);
        end
    end
    always @* begin
        if (started_q && !rst_i) begin
            if (answers_q) assert (bvalid);
            if (reads_q) assert (rvalid && rdata == rdata_q);
            if (bvalid) assert (written_q < addresses_q && written_q < data_q);
            if (rvalid) assert (read_q < asked_q);
            assert (addresses_q - written_q <= 2 && data_q - written_q <= 2 && asked_q - read_q <= 1);
        end
    end
endmodule

`default_nettype wire
