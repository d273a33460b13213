// SPDX-License-Identifier: Apache-2.0
// column_gemm: INT8 codes of up to TOKENS tokens times an INT8 matrix that lies column by column, read over AXI4 ports of its own.
// A column meets the codes of all tokens as it comes, so that no weight is kept; for one token, columns whose code is 0 need not be
// read.  A command names a matrix, codes follow as a stream, exact INT32 sums leave as a stream; weights are read ahead as far as
// the FIFOs reach.  machine/engines/columns.py is its meaning, machine/storage/columns.py its memory.
//
// An error stops it until CONTROL is written: until then it takes every command and code and answers with zeros, so that whoever
// waits for results goes on, and finds the error in the registers.
`default_nettype none

module column_gemm #(
    parameter PORTS = 4,                 // 1, 2 or 4
    parameter TOKENS = 8,                // that meet a column
    parameter MAX_WORDS = 256,           // of 16 codes in a row: a power of two
    parameter STRIPE = 256,              // beats of a column whose sums are kept: a power of two
    parameter FIFO_BEATS = 512,          // of each port: a power of two
    parameter ULTRA = 0,                 // 1: beats lie in UltraRAM, 0: in block RAM
    parameter MAX_BURST = 64,
    parameter ADDRESS_WIDTH = 40,
    parameter [63:0] DESIGN_ID = 0
) (
    input wire clk_i,
    input wire rst_i,
    input wire [127:0] s_axis_command_tdata,      // column_commands.v
    input wire s_axis_command_tvalid,
    output wire s_axis_command_tready,
    input wire [127:0] s_axis_activation_tdata,   // 16 INT8 codes of a token
    input wire s_axis_activation_tvalid,
    output wire s_axis_activation_tready,
    output wire [255:0] m_axis_result_tdata,      // column_results.v
    output wire m_axis_result_tvalid,
    output wire m_axis_result_tlast,              // of the command
    input wire m_axis_result_tready,
    output wire [ADDRESS_WIDTH*PORTS-1:0] m_axi_araddr,  // port 0 in the lowest bits, as everywhere
    output wire [8*PORTS-1:0] m_axi_arlen,
    output wire [3*PORTS-1:0] m_axi_arsize,
    output wire [2*PORTS-1:0] m_axi_arburst,
    output wire [PORTS-1:0] m_axi_arvalid,
    input wire [PORTS-1:0] m_axi_arready,
    input wire [128*PORTS-1:0] m_axi_rdata,
    input wire [2*PORTS-1:0] m_axi_rresp,
    input wire [PORTS-1:0] m_axi_rlast,
    input wire [PORTS-1:0] m_axi_rvalid,
    output wire [PORTS-1:0] m_axi_rready,
    input wire [7:0] s_axil_awaddr,
    input wire s_axil_awvalid,
    output wire s_axil_awready,
    input wire [31:0] s_axil_wdata,
    input wire [3:0] s_axil_wstrb,
    input wire s_axil_wvalid,
    output wire s_axil_wready,
    output wire [1:0] s_axil_bresp,
    output wire s_axil_bvalid,
    input wire s_axil_bready,
    input wire [7:0] s_axil_araddr,
    input wire s_axil_arvalid,
    output wire s_axil_arready,
    output wire [31:0] s_axil_rdata,
    output wire [1:0] s_axil_rresp,
    output wire s_axil_rvalid,
    input wire s_axil_rready
);
    localparam GEOMETRY = ADDRESS_WIDTH + 41;
    localparam QUEUE = 16;  // commands under way
    localparam WB = $clog2(MAX_WORDS), SB = $clog2(STRIPE), GB = $clog2(16 * MAX_WORDS / PORTS);
    localparam SPACE = 3 * TOKENS + 8 <= 64 ? 64 : 3 * TOKENS + 8 <= 128 ? 128 : 256;
    initial begin
        if (PORTS != 1 && PORTS != 2 && PORTS != 4) $fatal(1, "column_gemm: PORTS is %0d; 1, 2 or 4 are possible", PORTS);
        if (TOKENS < 1 || TOKENS > 64) $fatal(1, "column_gemm: TOKENS is %0d; 1 to 64 are possible", TOKENS);
        if (MAX_WORDS != 1 << WB || STRIPE != 256)
            $fatal(1, "column_gemm: MAX_WORDS is %0d, a power of two is possible; STRIPE is %0d, 256 is possible", MAX_WORDS, STRIPE);
    end

    wire clear, bad_command, stopped, begin_rst;
    // Sums on the conveyor have left it before anything begins anew.
    reg [6:0] settling_q;
    reg core_rst;
    wire settling = begin_rst || settling_q != 0;
    always @(posedge clk_i) begin
        settling_q <= begin_rst ? 7'd127 : settling_q - {6'd0, settling_q != 0};
        core_rst <= settling;
    end
    wire [31:0] watchdog, error;
    wire [PORTS-1:0] bus_error, reading, draining;
    wire [2*PORTS-1:0] responses;
    gemv_faults #(.PORTS(PORTS)) u_faults (
        .clk_i(clk_i), .rst_i(rst_i), .clear_i(clear), .bad_command_i(bad_command), .bus_error_i(bus_error), .responses_i(responses),
        .quiet_i(reading != 0 && (m_axi_rvalid & m_axi_rready) == 0 && (m_axi_arvalid & m_axi_arready) == 0),
        .watchdog_i(watchdog), .stopped_o(stopped), .core_rst_o(begin_rst), .error_o(error)
    );

    // -- commands ----------------------------------------------------------------------------------------------------
    wire command_ready, geometry_valid, code_ready, result_valid, result_last;
    wire [255:0] result;
    wire [GEOMETRY-1:0] geometry, g_regions;
    wire [40:0] g_codes, g_issue, g_results;
    wire regions_ready, codes_ready, issue_ready, results_ready, v_regions, v_codes, v_issue, v_results;
    wire r_regions, r_codes, r_issue, r_results;
    wire all_ready = regions_ready && codes_ready && issue_ready && results_ready;
    wire spread = geometry_valid && all_ready;
    assign s_axis_command_tready = stopped || (command_ready && !core_rst && !settling);
    assign s_axis_activation_tready = stopped || code_ready;
    assign m_axis_result_tvalid = stopped || result_valid;
    assign m_axis_result_tdata = stopped ? 256'd0 : result;
    assign m_axis_result_tlast = stopped || result_last;
    column_commands #(.TOKENS(TOKENS), .MAX_WORDS(MAX_WORDS), .ADDRESS_WIDTH(ADDRESS_WIDTH)) u_commands (
        .clk_i(clk_i), .rst_i(core_rst), .command_i(s_axis_command_tdata),
        .valid_i(s_axis_command_tvalid && s_axis_command_tready && !stopped), .ready_o(command_ready), .geometry_o(geometry),
        .valid_o(geometry_valid), .ready_i(all_ready), .error_o(bad_command)
    );
    // Everybody's own copy of the geometries under way.
    stream_fifo #(.WIDTH(GEOMETRY), .DEPTH(QUEUE)) u_for_regions (
        .clk_i(clk_i), .rst_i(core_rst), .data_i(geometry), .valid_i(spread), .ready_o(regions_ready), .data_o(g_regions),
        .valid_o(v_regions), .ready_i(r_regions), .count_o()
    );
    stream_fifo #(.WIDTH(41), .DEPTH(QUEUE)) u_for_codes (
        .clk_i(clk_i), .rst_i(core_rst), .data_i(geometry[GEOMETRY-1:ADDRESS_WIDTH]), .valid_i(spread), .ready_o(codes_ready),
        .data_o(g_codes), .valid_o(v_codes), .ready_i(r_codes), .count_o()
    );
    stream_fifo #(.WIDTH(41), .DEPTH(QUEUE)) u_for_issue (
        .clk_i(clk_i), .rst_i(core_rst), .data_i(geometry[GEOMETRY-1:ADDRESS_WIDTH]), .valid_i(spread), .ready_o(issue_ready),
        .data_o(g_issue), .valid_o(v_issue), .ready_i(r_issue), .count_o()
    );
    stream_fifo #(.WIDTH(41), .DEPTH(QUEUE)) u_for_results (
        .clk_i(clk_i), .rst_i(core_rst), .data_i(geometry[GEOMETRY-1:ADDRESS_WIDTH]), .valid_i(spread), .ready_o(results_ready),
        .data_o(g_results), .valid_o(v_results), .ready_i(r_results), .count_o()
    );

    // -- codes -------------------------------------------------------------------------------------------------------
    wire write;
    wire [7:0] write_token;
    wire [WB:0] write_at;
    wire [127:0] write_data;
    wire [5:0] loaded, done;
    wire [15:0] groups0, groups1, listed_groups;
    wire [GB:0] columns_at, list_at;
    wire [16*PORTS-1:0] columns;
    wire [8*PORTS-1:0] list;
    column_codes #(.PORTS(PORTS), .MAX_WORDS(MAX_WORDS)) u_codes (
        .clk_i(clk_i), .rst_i(core_rst), .listed_i(g_codes[40]), .tokens_i(g_codes[39:32]), .words_i(g_codes[31:16]),
        .geometry_valid_i(v_codes), .geometry_ready_o(r_codes), .s_axis_tdata(s_axis_activation_tdata),
        .s_axis_tvalid(s_axis_activation_tvalid && !stopped), .s_axis_tready(code_ready), .write_o(write), .write_token_o(write_token),
        .write_at_o(write_at), .write_data_o(write_data), .loaded_o(loaded), .done_i(done), .groups0_o(groups0), .groups1_o(groups1),
        .listed_o(listed_groups), .columns_at_i(columns_at), .columns_o(columns), .list_at_i(list_at),
        .list_o(list)
    );

    // -- weights -----------------------------------------------------------------------------------------------------
    wire [ADDRESS_WIDTH*PORTS-1:0] addresses;
    wire [31:0] region_beats;
    wire region_valid;
    wire [PORTS-1:0] region_ready, beat_valid;
    wire regions_taken = &region_ready;
    column_regions #(.PORTS(PORTS), .MAX_WORDS(MAX_WORDS), .STRIPE(STRIPE), .ADDRESS_WIDTH(ADDRESS_WIDTH)) u_regions (
        .clk_i(clk_i), .rst_i(core_rst), .geometry_i(g_regions), .geometry_valid_i(v_regions), .geometry_ready_o(r_regions),
        .loaded_i(loaded), .groups0_i(groups0), .groups1_i(groups1), .listed_i(listed_groups),
        .columns_at_o(columns_at), .columns_i(columns), .address_o(addresses), .beats_o(region_beats), .valid_o(region_valid),
        .ready_i(regions_taken)
    );
    wire [128*PORTS-1:0] beats;
    wire beats_there = &beat_valid;
    wire take_beats;
    genvar p;
    generate
        for (p = 0; p < PORTS; p = p + 1) begin : g_fetch
            stream_fetch #(
                .ADDRESS_WIDTH(ADDRESS_WIDTH), .FIFO_BEATS(FIFO_BEATS), .ULTRA(ULTRA), .MAX_BURST(MAX_BURST), .QUEUE(QUEUE)
            ) u_fetch (
                .clk_i(clk_i), .rst_i(rst_i), .clear_i(stopped || clear || settling), .draining_o(draining[p]), .reading_o(reading[p]),
                .region_address_i(addresses[ADDRESS_WIDTH*p+:ADDRESS_WIDTH]), .region_beats_i(region_beats),
                .region_valid_i(region_valid && regions_taken), .region_ready_o(region_ready[p]),
                .m_axi_araddr(m_axi_araddr[ADDRESS_WIDTH*p+:ADDRESS_WIDTH]), .m_axi_arlen(m_axi_arlen[8*p+:8]),
                .m_axi_arsize(m_axi_arsize[3*p+:3]), .m_axi_arburst(m_axi_arburst[2*p+:2]),
                .m_axi_arvalid(m_axi_arvalid[p]), .m_axi_arready(m_axi_arready[p]), .m_axi_rdata(m_axi_rdata[128*p+:128]),
                .m_axi_rresp(m_axi_rresp[2*p+:2]), .m_axi_rlast(m_axi_rlast[p]), .m_axi_rvalid(m_axi_rvalid[p]),
                .m_axi_rready(m_axi_rready[p]), .beat_o(beats[128*p+:128]), .valid_o(beat_valid[p]),
                .ready_i(beats_there && take_beats), .error_o(bus_error[p]), .response_o(responses[2*p+:2])
            );
        end
    endgenerate

    // -- products ----------------------------------------------------------------------------------------------------
    wire [WB:0] read_at;
    wire [3:0] pick;
    wire add, begin_sums, drain, listed, room;
    wire [7:0] tokens;
    wire [SB:0] sums_at;
    wire waits_weights, waits_codes, waits_results;
    column_issue #(.PORTS(PORTS), .MAX_WORDS(MAX_WORDS), .STRIPE(STRIPE)) u_issue (
        .clk_i(clk_i), .rst_i(core_rst), .geometry_i(g_issue), .geometry_valid_i(v_issue), .geometry_ready_o(r_issue),
        .loaded_i(loaded), .groups0_i(groups0), .groups1_i(groups1), .done_o(done), .beats_there_i(beats_there), .take_o(take_beats),
        .room_i(room), .read_at_o(read_at), .pick_o(pick), .add_o(add), .begin_o(begin_sums), .drain_o(drain), .tokens_o(tokens),
        .sums_at_o(sums_at), .listed_o(listed), .list_at_o(list_at), .waits_weights_o(waits_weights), .waits_codes_o(waits_codes),
        .waits_results_o(waits_results)
    );
    reg [128*PORTS-1:0] beats_q;  // with the step that takes them
    reg [1:0] listed_q;
    always @(posedge clk_i) begin
        beats_q <= beats;
        listed_q <= {listed_q[0], listed};
    end
    wire summed;
    wire [511:0] sums;
    column_lanes #(.PORTS(PORTS), .TOKENS(TOKENS), .WORDS(2 * MAX_WORDS), .DEPTH(2 * STRIPE)) u_lanes (
        .clk_i(clk_i), .rst_i(core_rst), .write_i(write), .write_token_i(write_token), .write_at_i(write_at), .write_data_i(write_data),
        .weights_i(beats_q), .read_at_i(read_at), .pick_i(pick), .add_i(add), .begin_i(begin_sums), .drain_i(drain),
        .tokens_i(tokens), .sums_at_i(sums_at), .listed_i(listed_q[1]), .list_i(list), .valid_o(summed), .sums_o(sums)
    );
    column_results #(.TOKENS(TOKENS), .DEPTH(SPACE)) u_results (
        .clk_i(clk_i), .rst_i(core_rst), .geometry_i(g_results), .geometry_valid_i(v_results), .geometry_ready_o(r_results),
        .valid_i(summed && !core_rst), .sums_i(sums), .room_o(room), .m_axis_tdata(result), .m_axis_tvalid(result_valid),
        .m_axis_tlast(result_last), .m_axis_tready(m_axis_result_tready && !stopped)
    );

    gemv_registers #(
        .ID(32'h534C4F43), .SHAPE(PORTS | TOKENS << 16), .SIZE(TOKENS | MAX_WORDS / 8 << 16), .DESIGN_ID(DESIGN_ID), .PORTS(PORTS)
    ) u_registers (
        .clk_i(clk_i), .rst_i(rst_i), .s_axil_awaddr(s_axil_awaddr), .s_axil_awvalid(s_axil_awvalid),
        .s_axil_awready(s_axil_awready), .s_axil_wdata(s_axil_wdata), .s_axil_wstrb(s_axil_wstrb),
        .s_axil_wvalid(s_axil_wvalid), .s_axil_wready(s_axil_wready), .s_axil_bresp(s_axil_bresp),
        .s_axil_bvalid(s_axil_bvalid), .s_axil_bready(s_axil_bready), .s_axil_araddr(s_axil_araddr),
        .s_axil_arvalid(s_axil_arvalid), .s_axil_arready(s_axil_arready), .s_axil_rdata(s_axil_rdata),
        .s_axil_rresp(s_axil_rresp), .s_axil_rvalid(s_axil_rvalid), .s_axil_rready(s_axil_rready), .clear_o(clear),
        .watchdog_o(watchdog), .busy_i(v_results), .stopped_i(stopped), .draining_i(draining != 0 || settling), .error_i(error),
        .command_i(spread), .waits_weights_i(waits_weights), .waits_activations_i(waits_codes), .waits_results_i(waits_results),
        .waits_multipliers_i(beats_there && !take_beats), .beats_i(m_axi_rvalid & m_axi_rready)
    );
endmodule

`default_nettype wire
