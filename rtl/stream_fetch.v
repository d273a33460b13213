// SPDX-License-Identifier: Apache-2.0
// One AXI4 read port: regions of whole beats, in order, into a FIFO as deep as the design affords.  It reads ahead of what is
// consumed as far as the FIFO has room, over the ends of regions, so that the bus does not wait for what happens in between.
//
// Bursts of at most MAX_BURST beats that cross no 4 KiB boundary (AXI4, A3.4.1); a burst is asked for when the FIFO has room
// for all of it, so that RREADY never falls.  A response that is not OKAY is reported, its beat is passed on.
`default_nettype none

module stream_fetch #(
    parameter ADDRESS_WIDTH = 40,
    parameter FIFO_BEATS = 512,   // a power of two, at least twice MAX_BURST
    parameter ULTRA = 0,          // 1: they lie in UltraRAM
    parameter MAX_BURST = 64,     // a power of two up to 256
    parameter QUEUE = 16          // regions that wait
) (
    input wire clk_i,
    input wire rst_i,
    input wire clear_i,           // forget all regions and beats; reads under way are waited for and dropped
    output wire draining_o,       // they still are
    output wire reading_o,        // a read is under way
    // A region.
    input wire [ADDRESS_WIDTH-1:0] region_address_i,  // a multiple of 16
    input wire [31:0] region_beats_i,                 // at least 1
    input wire region_valid_i,
    output wire region_ready_o,
    // AXI4, read channels.
    output reg [ADDRESS_WIDTH-1:0] m_axi_araddr,
    output reg [7:0] m_axi_arlen,
    output wire [2:0] m_axi_arsize,
    output wire [1:0] m_axi_arburst,
    output reg m_axi_arvalid,
    input wire m_axi_arready,
    input wire [127:0] m_axi_rdata,
    input wire [1:0] m_axi_rresp,
    input wire m_axi_rlast,
    input wire m_axi_rvalid,
    output wire m_axi_rready,
    // Its beats.
    output wire [127:0] beat_o,
    output wire valid_o,
    input wire ready_i,
    output wire error_o,          // a response was not OKAY, for a cycle
    output wire [1:0] response_o
);
    localparam ROOM = $clog2(FIFO_BEATS) + 1;
    localparam BURST = $clog2(MAX_BURST) + 1;
    localparam [31:0] LARGEST = MAX_BURST;
    localparam [31:0] DEEP = FIFO_BEATS;
    localparam [ROOM-1:0] ALL = DEEP[ROOM-1:0];
    initial if (MAX_BURST > 256 || FIFO_BEATS < 2 * MAX_BURST || MAX_BURST != 1 << $clog2(MAX_BURST))
        $fatal(1, "stream_fetch: bursts of %0d for a FIFO of %0d", MAX_BURST, FIFO_BEATS);

    assign m_axi_arsize = 3'd4;
    assign m_axi_arburst = 2'd1;
    assign m_axi_rready = 1'b1;

    wire [ADDRESS_WIDTH-1:0] address;
    wire [31:0] beats;
    wire region_valid, region_ready;
    stream_fifo #(.WIDTH(ADDRESS_WIDTH + 32), .DEPTH(QUEUE)) u_regions (
        .clk_i(clk_i), .rst_i(rst_i || clear_i), .data_i({region_address_i, region_beats_i}), .valid_i(region_valid_i),
        .ready_o(region_ready_o), .data_o({address, beats}), .valid_o(region_valid), .ready_i(region_ready), .count_o()
    );

    // The region under way, cut into bursts: first how long the next one is, then asked for when there is room.
    reg [ADDRESS_WIDTH-1:0] at_q;
    reg [31:0] left_q;
    reg [BURST-1:0] length_q;
    reg sized_q;
    reg [ROOM-1:0] room_q;  // beats of the FIFO that no burst has been asked for
    wire [8:0] to_boundary = 9'd256 - {1'b0, at_q[11:4]};
    wire [31:0] by_region = left_q < LARGEST ? left_q : LARGEST;
    wire [31:0] length = by_region < {23'd0, to_boundary} ? by_region : {23'd0, to_boundary};
    wire free = !m_axi_arvalid || m_axi_arready;
    wire [ROOM-1:0] wanted = {{(ROOM - BURST) {1'b0}}, length_q};
    wire [8:0] burst = {{(9 - BURST) {1'b0}}, length_q} - 9'd1;
    wire ask = sized_q && free && room_q >= wanted && !draining_o;
    wire popped = valid_o && ready_i;
    assign region_ready = left_q == 0 && !sized_q;
    always @(posedge clk_i) begin
        if (rst_i || clear_i) begin
            left_q <= 0;
            sized_q <= 1'b0;
            room_q <= ALL;
        end else begin
            if (region_valid && region_ready) begin
                at_q <= address;
                left_q <= beats;
            end else if (!sized_q && left_q != 0) begin
                length_q <= length[BURST-1:0];
                sized_q <= 1'b1;
            end else if (ask) begin
                at_q <= at_q + {{(ADDRESS_WIDTH - BURST - 4) {1'b0}}, length_q, 4'd0};
                left_q <= left_q - {{(32 - BURST) {1'b0}}, length_q};
                sized_q <= 1'b0;
            end
            room_q <= room_q - (ask ? wanted : {ROOM{1'b0}}) + {{(ROOM - 1) {1'b0}}, popped};
        end
        if (rst_i) m_axi_arvalid <= 1'b0;
        else m_axi_arvalid <= (ask && !clear_i) || !free;
        if (free) begin
            m_axi_araddr <= at_q;
            m_axi_arlen <= burst[7:0];
        end
    end

    // Bursts under way.  After a clear those are dropped.
    reg [7:0] bursts_q;
    reg drop_q;
    wire asked = m_axi_arvalid && m_axi_arready;
    wire ended = m_axi_rvalid && m_axi_rlast;
    assign draining_o = drop_q;
    assign reading_o = bursts_q != 0 || m_axi_arvalid;
    always @(posedge clk_i) begin
        if (rst_i) begin
            bursts_q <= 0;
            drop_q <= 1'b0;
        end else begin
            bursts_q <= bursts_q + {7'd0, asked} - {7'd0, ended};
            if (clear_i) drop_q <= 1'b1;
            else if (bursts_q == 0 && !m_axi_arvalid) drop_q <= 1'b0;
        end
    end

    wire keep = m_axi_rvalid && !drop_q && !clear_i;
    assign error_o = keep && m_axi_rresp != 2'd0;
    assign response_o = m_axi_rresp;
    stream_fifo #(.WIDTH(128), .DEPTH(FIFO_BEATS), .STYLE(ULTRA != 0 ? "ultra" : "block")) u_beats (
        .clk_i(clk_i), .rst_i(rst_i || clear_i), .data_i(m_axi_rdata), .valid_i(keep), .ready_o(),
        .data_o(beat_o), .valid_o(valid_o), .ready_i(ready_i), .count_o()
    );
endmodule

`default_nettype wire
