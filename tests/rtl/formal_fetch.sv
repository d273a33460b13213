// SPDX-License-Identifier: Apache-2.0
// For the SAT solver: stream_fetch keeps the rules of an AXI4 read manager (IHI 0022: A3.2.1, A3.4.1) before any subordinate that keeps
// its own, whatever stalls and whenever it is cleared; and what it takes, its FIFO has room for.
`default_nettype none

module formal_fetch #(
    parameter FIFO_BEATS = 8,
    parameter MAX_BURST = 4
) (
    input wire clk_i,
    input wire rst_i,
    input wire clear_i,
    input wire [15:0] address_i,
    input wire [5:0] beats_i,
    input wire region_i,
    input wire arready_i,
    input wire answers_i,   // the subordinate has a beat now, if it owes one
    input wire [1:0] response_i,
    input wire ready_i
);
    wire [15:0] araddr;
    wire [7:0] arlen;
    wire [2:0] arsize;
    wire [1:0] arburst;
    wire arvalid, rready, draining, valid;
    // A subordinate: bursts that it owes, in order; RLAST on the last beat of each.
    reg [7:0] owed[0:15];
    reg [3:0] first_q = 0, next_q = 0;
    reg [7:0] sent_q = 0;
    wire owes = first_q != next_q;
    wire rvalid = answers_i && owes;
    wire rlast = sent_q == owed[first_q];
    stream_fetch #(.ADDRESS_WIDTH(16), .FIFO_BEATS(FIFO_BEATS), .MAX_BURST(MAX_BURST), .QUEUE(2)) u_fetch (
        .clk_i(clk_i), .rst_i(rst_i), .clear_i(clear_i), .draining_o(draining), .reading_o(), .region_address_i(address_i),
        .region_beats_i({26'd0, beats_i}), .region_valid_i(region_i), .region_ready_o(), .m_axi_araddr(araddr), .m_axi_arlen(arlen),
        .m_axi_arsize(arsize), .m_axi_arburst(arburst), .m_axi_arvalid(arvalid), .m_axi_arready(arready_i), .m_axi_rdata(128'd0),
        .m_axi_rresp(response_i), .m_axi_rlast(rlast), .m_axi_rvalid(rvalid), .m_axi_rready(rready), .beat_o(), .valid_o(valid),
        .ready_i(ready_i), .error_o(), .response_o()
    );
    reg started_q = 0, waits_q = 0;
    reg [15:0] address_q;
    reg [7:0] length_q, held_q = 0;
    always @(posedge clk_i) begin
        started_q <= rst_i || started_q;
        address_q <= araddr;
        length_q <= arlen;
        if (rst_i || !started_q) begin
            first_q <= 0;
            next_q <= 0;
            sent_q <= 0;
            waits_q <= 0;
            held_q <= 0;
        end else begin
            if (arvalid && arready_i) begin
                owed[next_q] <= arlen;
                next_q <= next_q + 4'd1;
            end
            if (rvalid && rready) begin
                sent_q <= rlast ? 8'd0 : sent_q + 8'd1;
                if (rlast) first_q <= first_q + 4'd1;
            end
            waits_q <= arvalid && !arready_i;
            held_q <= clear_i ? 8'd0 : held_q + (rvalid && !draining) - (valid && ready_i);
        end
    end
    always @* begin
        if (started_q && !rst_i) begin
            assume (address_i[3:0] == 0 && beats_i != 0);
            assume (next_q + 4'd1 != first_q);
            if (waits_q) assert (arvalid && araddr == address_q && arlen == length_q);    // an address stays until it is accepted
            if (arvalid) begin
                assert (arsize == 3'd4 && arburst == 2'd1 && araddr[3:0] == 0);
                assert ({1'b0, araddr[11:4]} + {1'b0, arlen} < 9'd256);                 // no burst crosses 4 KiB
                assert (arlen < MAX_BURST);
            end
            assert (rready);
            if (rvalid && !draining && !clear_i) assert (held_q < FIFO_BEATS + 1);      // memory, and the word at the output
        end
    end
endmodule

`default_nettype wire
