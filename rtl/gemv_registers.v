// SPDX-License-Identifier: Apache-2.0
// The AXI4-Lite register file of pacq_gemv and column_gemm: who it is, how it is, what it counted.  Starts nothing: commands come over a stream.
//
//     0x00 ID           "PACQ" or "COLS"              0x40 CYCLES        while busy, 64 bits
//     0x04 VERSION      of commands and registers     0x48 COMMANDS
//     0x08 SHAPE        ports | lanes << 8 |          0x4C WAITS_WEIGHTS      cycles without a window, for want of weights,
//                       token lanes << 16             0x50 WAITS_ACTIVATIONS  of activations,
//     0x0C SIZE         most tokens | 128 words of        0x54 WAITS_RESULTS      of a reader for the results
//                       activations << 16             0x58 WAITS_MULTIPLIERS  cycles in which a beat waited for them
//     0x10 DESIGN_ID    64 bits                       0x60 BEATS         of port 0, 1, 2, 3
//     0x18 CONTROL      write 1: forget everything,
//                       counters too
//     0x1C STATUS       busy | stopped << 1 | draining << 2
//     0x20 ERROR        0 none, 1 command, 2 bus, 3 watchdog | port << 8 | response << 16
//     0x24 WATCHDOG     cycles that a read may take
`default_nettype none

module gemv_registers #(
    parameter [31:0] ID = 32'h51434150,
    parameter [31:0] SHAPE = 0,
    parameter [31:0] SIZE = 0,
    parameter [63:0] DESIGN_ID = 0,
    parameter PORTS = 4
) (
    input wire clk_i,
    input wire rst_i,
    input wire [7:0] s_axil_awaddr,
    input wire s_axil_awvalid,
    output wire s_axil_awready,
    input wire [31:0] s_axil_wdata,
    input wire [3:0] s_axil_wstrb,
    input wire s_axil_wvalid,
    output wire s_axil_wready,
    output wire [1:0] s_axil_bresp,
    output reg s_axil_bvalid,
    input wire s_axil_bready,
    input wire [7:0] s_axil_araddr,
    input wire s_axil_arvalid,
    output wire s_axil_arready,
    output reg [31:0] s_axil_rdata,
    output wire [1:0] s_axil_rresp,
    output reg s_axil_rvalid,
    input wire s_axil_rready,
    output reg clear_o,                // for a cycle
    output reg [31:0] watchdog_o,
    input wire busy_i,
    input wire stopped_i,
    input wire draining_i,
    input wire [31:0] error_i,
    // Counted while they are up.
    input wire command_i,
    input wire waits_weights_i,
    input wire waits_activations_i,
    input wire waits_results_i,
    input wire waits_multipliers_i,
    input wire [PORTS-1:0] beats_i
);
    localparam [31:0] VERSION = 32'd1;

    assign s_axil_bresp = 2'd0;
    assign s_axil_rresp = 2'd0;
    // No output follows an input within a cycle (IHI 0022, A3.2.1): address and data wait here for each other.
    reg address_q, data_q;
    reg [7:0] awaddr;
    reg [31:0] wdata;
    reg strobed;
    wire write = address_q && data_q && !s_axil_bvalid;
    assign s_axil_awready = !address_q;
    assign s_axil_wready = !data_q;
    assign s_axil_arready = !s_axil_rvalid;
    wire read = s_axil_arvalid && !s_axil_rvalid;

    reg [63:0] cycles_q;
    reg [31:0] commands_q, weights_q, activations_q, results_q, multipliers_q;
    reg [31:0] beats_q[0:3];
    integer p;
    always @(posedge clk_i) begin
        clear_o <= write && strobed && awaddr == 8'h18 && wdata[0];
        if (!address_q) awaddr <= s_axil_awaddr;
        if (!data_q) {strobed, wdata} <= {&s_axil_wstrb, s_axil_wdata};
        if (rst_i) begin
            s_axil_bvalid <= 1'b0;
            s_axil_rvalid <= 1'b0;
            address_q <= 1'b0;
            data_q <= 1'b0;
            watchdog_o <= 32'd65536;
            clear_o <= 1'b0;
        end else begin
            s_axil_bvalid <= write || (s_axil_bvalid && !s_axil_bready);
            s_axil_rvalid <= read || (s_axil_rvalid && !s_axil_rready);
            address_q <= !write && (address_q || s_axil_awvalid);
            data_q <= !write && (data_q || s_axil_wvalid);
            if (write && strobed && awaddr == 8'h24) watchdog_o <= wdata;
        end
        if (rst_i || clear_o) begin
            cycles_q <= 0;
            commands_q <= 0;
            weights_q <= 0;
            activations_q <= 0;
            results_q <= 0;
            multipliers_q <= 0;
            for (p = 0; p < 4; p = p + 1) beats_q[p] <= 0;
        end else begin
            cycles_q <= cycles_q + {63'd0, busy_i};
            commands_q <= commands_q + {31'd0, command_i};
            weights_q <= weights_q + {31'd0, waits_weights_i};
            activations_q <= activations_q + {31'd0, waits_activations_i};
            results_q <= results_q + {31'd0, waits_results_i};
            multipliers_q <= multipliers_q + {31'd0, waits_multipliers_i};
            for (p = 0; p < PORTS; p = p + 1) beats_q[p] <= beats_q[p] + {31'd0, beats_i[p]};
        end
        if (read) begin
            case (s_axil_araddr)
                8'h00: s_axil_rdata <= ID;
                8'h04: s_axil_rdata <= VERSION;
                8'h08: s_axil_rdata <= SHAPE;
                8'h0C: s_axil_rdata <= SIZE;
                8'h10: s_axil_rdata <= DESIGN_ID[31:0];
                8'h14: s_axil_rdata <= DESIGN_ID[63:32];
                8'h1C: s_axil_rdata <= {29'd0, draining_i, stopped_i, busy_i};
                8'h20: s_axil_rdata <= error_i;
                8'h24: s_axil_rdata <= watchdog_o;
                8'h40: s_axil_rdata <= cycles_q[31:0];
                8'h44: s_axil_rdata <= cycles_q[63:32];
                8'h48: s_axil_rdata <= commands_q;
                8'h4C: s_axil_rdata <= weights_q;
                8'h50: s_axil_rdata <= activations_q;
                8'h54: s_axil_rdata <= results_q;
                8'h58: s_axil_rdata <= multipliers_q;
                8'h60: s_axil_rdata <= beats_q[0];
                8'h64: s_axil_rdata <= beats_q[1];
                8'h68: s_axil_rdata <= beats_q[2];
                8'h6C: s_axil_rdata <= beats_q[3];
                default: s_axil_rdata <= 32'd0;
            endcase
        end
    end
endmodule

`default_nettype wire
