// SPDX-License-Identifier: Apache-2.0
// pacq_gemv: FP16 activations times INT4, INT2 or INT8 weights in groups, read over AXI4 ports of its own, one reading for all
// tokens.  A command names a matrix, activations follow as a stream, FP32 results leave as a stream; weights of the next
// commands are read ahead as far as the FIFOs reach.  machine/arithmetic/fp16.py is its arithmetic, machine/storage/groups.py its memory.
//
// An error stops it until CONTROL is written: until then it takes every command and activation and answers with zeros, so that
// whoever waits for results goes on, and finds the error in the registers.
`default_nettype none

module pacq_gemv #(
    parameter PORTS = 4,                 // 1, 2 or 4
    parameter LANES = 4,                 // codes of a port's column: 4, or 8 to take INT2 at the rate of the bus
    parameter TOKEN_LANES = 1,           // tokens that meet a beat in a cycle: 1, 2 or 4
    parameter MAX_TOKENS = 64,
    parameter ACTIVATION_WORDS = 1024,   // words of eight activations per token lane: a power of two
    parameter FIFO_BEATS = 512,          // of each port: a power of two
    parameter ULTRA = 0,                 // 1: beats and activations lie in UltraRAM, 0: in block RAM
    parameter MAX_BURST = 64,
    parameter ADDRESS_WIDTH = 40,
    parameter [63:0] DESIGN_ID = 0
) (
    input wire clk_i,
    input wire rst_i,
    input wire [127:0] s_axis_command_tdata,      // pacq_commands.v
    input wire s_axis_command_tvalid,
    output wire s_axis_command_tready,
    input wire [127:0] s_axis_activation_tdata,   // eight FP16 of a token; rows padded to whole groups
    input wire s_axis_activation_tvalid,
    output wire s_axis_activation_tready,
    output wire [32*PORTS-1:0] m_axis_result_tdata,
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
    localparam SCALES = LANES / 4;
    localparam BATCHES = MAX_TOKENS / TOKEN_LANES;
    localparam BATCH_BITS = $clog2(BATCHES);
    localparam PARTIALS = BATCHES > 1 ? BATCHES : 2;  // an index has a bit at least
    localparam WORD_BITS = $clog2(ACTIVATION_WORDS);
    localparam QUEUE = 16;   // commands under way
    initial begin
        if (PORTS != 1 && PORTS != 2 && PORTS != 4) $fatal(1, "pacq_gemv: PORTS is %0d; 1, 2 or 4 are possible", PORTS);
        if (LANES != 4 && LANES != 8) $fatal(1, "pacq_gemv: LANES is %0d; 4 or 8 are possible", LANES);
        if (TOKEN_LANES != 1 && TOKEN_LANES != 2 && TOKEN_LANES != 4)
            $fatal(1, "pacq_gemv: TOKEN_LANES is %0d; 1, 2 or 4 are possible", TOKEN_LANES);
        if (BATCHES > 64 || BATCHES * TOKEN_LANES != MAX_TOKENS || BATCHES != 1 << BATCH_BITS)
            $fatal(1, "pacq_gemv: MAX_TOKENS is %0d; a power of two up to 64 for each token lane is possible", MAX_TOKENS);
    end

    // -- errors ------------------------------------------------------------------------------------------------------
    wire clear, bad_command;
    wire [31:0] watchdog;
    wire [PORTS-1:0] bus_error, reading, draining;
    wire [2*PORTS-1:0] responses;
    wire stopped, core_rst;
    wire [31:0] error;
    gemv_faults #(.PORTS(PORTS)) u_faults (
        .clk_i(clk_i), .rst_i(rst_i), .clear_i(clear), .bad_command_i(bad_command), .bus_error_i(bus_error), .responses_i(responses),
        .quiet_i(reading != 0 && (m_axi_rvalid & m_axi_rready) == 0 && (m_axi_arvalid & m_axi_arready) == 0),
        .watchdog_i(watchdog), .stopped_o(stopped), .core_rst_o(core_rst), .error_o(error)
    );

    // -- commands ----------------------------------------------------------------------------------------------------
    wire command_ready, geometry_valid, activation_ready, result_valid, result_last;
    wire [32*PORTS-1:0] result;
    wire [95:0] geometry;
    wire [ADDRESS_WIDTH*PORTS-1:0] addresses;
    wire [31:0] region_beats;
    wire [PORTS-1:0] region_ready;
    wire split_ready, issue_ready, load_ready, order_ready;
    wire all_ready = (&region_ready) && split_ready && issue_ready && load_ready && order_ready;
    wire spread = geometry_valid && all_ready;
    assign s_axis_command_tready = stopped || (command_ready && !core_rst);
    assign s_axis_activation_tready = stopped || activation_ready;
    assign m_axis_result_tvalid = stopped || result_valid;
    assign m_axis_result_tdata = stopped ? {32 * PORTS{1'b0}} : result;
    assign m_axis_result_tlast = stopped || result_last;
    pacq_commands #(
        .PORTS(PORTS), .LANES(LANES), .TOKEN_LANES(TOKEN_LANES), .MAX_TOKENS(MAX_TOKENS), .ACTIVATION_WORDS(ACTIVATION_WORDS),
        .ADDRESS_WIDTH(ADDRESS_WIDTH)
    ) u_commands (
        .clk_i(clk_i), .rst_i(core_rst), .command_i(s_axis_command_tdata), .valid_i(s_axis_command_tvalid && s_axis_command_tready && !stopped),
        .ready_o(command_ready), .addresses_o(addresses), .beats_o(region_beats), .geometry_o(geometry),
        .valid_o(geometry_valid), .ready_i(all_ready), .error_o(bad_command)
    );
    // Everybody's own copy of the geometries under way.
    wire [95:0] g_split, g_issue, g_load, g_order;
    wire v_split, v_issue, v_load, v_order, r_split, r_issue, r_load, r_order;
    stream_fifo #(.WIDTH(96), .DEPTH(QUEUE)) u_for_split (
        .clk_i(clk_i), .rst_i(core_rst), .data_i(geometry), .valid_i(spread), .ready_o(split_ready), .data_o(g_split),
        .valid_o(v_split), .ready_i(r_split), .count_o()
    );
    stream_fifo #(.WIDTH(96), .DEPTH(QUEUE)) u_for_issue (
        .clk_i(clk_i), .rst_i(core_rst), .data_i(geometry), .valid_i(spread), .ready_o(issue_ready), .data_o(g_issue),
        .valid_o(v_issue), .ready_i(r_issue), .count_o()
    );
    stream_fifo #(.WIDTH(96), .DEPTH(QUEUE)) u_for_load (
        .clk_i(clk_i), .rst_i(core_rst), .data_i(geometry), .valid_i(spread), .ready_o(load_ready), .data_o(g_load),
        .valid_o(v_load), .ready_i(r_load), .count_o()
    );
    stream_fifo #(.WIDTH(96), .DEPTH(QUEUE)) u_for_order (
        .clk_i(clk_i), .rst_i(core_rst), .data_i(geometry), .valid_i(spread), .ready_o(order_ready), .data_o(g_order),
        .valid_o(v_order), .ready_i(r_order), .count_o()
    );

    // -- weights -----------------------------------------------------------------------------------------------------
    wire [128*PORTS-1:0] beats;
    wire [PORTS-1:0] beat_valid;
    wire beats_there = &beat_valid;
    wire take_beats, parameter_write, set_done;
    wire [2:0] write_set, write_beat;
    wire [6:0] filled, released;
    wire [5:0] weight_at;
    wire [128*PORTS-1:0] weights;
    genvar p, k, l, t, s;
    generate
        for (p = 0; p < PORTS; p = p + 1) begin : g_fetch
            stream_fetch #(
                .ADDRESS_WIDTH(ADDRESS_WIDTH), .FIFO_BEATS(FIFO_BEATS), .ULTRA(ULTRA), .MAX_BURST(MAX_BURST), .QUEUE(QUEUE)
            ) u_fetch (
                .clk_i(clk_i), .rst_i(rst_i), .clear_i(stopped || clear || core_rst), .draining_o(draining[p]), .reading_o(reading[p]),
                .region_address_i(addresses[ADDRESS_WIDTH*p+:ADDRESS_WIDTH]), .region_beats_i(region_beats),
                .region_valid_i(spread), .region_ready_o(region_ready[p]),
                .m_axi_araddr(m_axi_araddr[ADDRESS_WIDTH*p+:ADDRESS_WIDTH]), .m_axi_arlen(m_axi_arlen[8*p+:8]),
                .m_axi_arsize(m_axi_arsize[3*p+:3]), .m_axi_arburst(m_axi_arburst[2*p+:2]),
                .m_axi_arvalid(m_axi_arvalid[p]), .m_axi_arready(m_axi_arready[p]), .m_axi_rdata(m_axi_rdata[128*p+:128]),
                .m_axi_rresp(m_axi_rresp[2*p+:2]), .m_axi_rlast(m_axi_rlast[p]), .m_axi_rvalid(m_axi_rvalid[p]),
                .m_axi_rready(m_axi_rready[p]), .beat_o(beats[128*p+:128]), .valid_o(beat_valid[p]),
                .ready_i(beats_there && take_beats), .error_o(bus_error[p]), .response_o(responses[2*p+:2])
            );
        end
    endgenerate
    pacq_split #(.PORTS(PORTS)) u_split (
        .clk_i(clk_i), .rst_i(core_rst), .geometry_i(g_split), .geometry_valid_i(v_split), .geometry_ready_o(r_split),
        .beats_i(beats), .valid_i(beats_there), .ready_o(take_beats), .parameter_valid_o(parameter_write), .set_o(write_set),
        .parameter_beat_o(write_beat), .set_done_i(set_done), .filled_o(filled), .released_i(released), .read_i(weight_at),
        .weights_o(weights)
    );
    // A beat's eight columns, each the codes of a port's lanes: four bits as they are, two bits with an 8 before them.
    wire [4*LANES*PORTS*8-1:0] codes;
    reg [4*LANES*PORTS*8-1:0] codes_q;
    wire two_now;
    generate
        for (k = 0; k < 8; k = k + 1) begin : g_column
            for (p = 0; p < PORTS; p = p + 1) begin : g_port
                wire [15:0] column = weights[128*p+16*k+:16];
                for (l = 0; l < LANES; l = l + 1) begin : g_code
                    if (LANES == 4) begin : g_four
                        assign codes[4*((k*PORTS+p)*LANES+l)+:4] = column[4*l+:4];
                    end else if (l < 4) begin : g_both
                        assign codes[4*((k*PORTS+p)*LANES+l)+:4] = two_now ? {2'b10, column[2*l+:2]} : column[4*l+:4];
                    end else begin : g_two
                        assign codes[4*((k*PORTS+p)*LANES+l)+:4] = {2'b10, column[2*l+:2]};
                    end
                end
            end
        end
    endgenerate

    // -- activations and windows -------------------------------------------------------------------------------------
    wire loaded, give_back, run, run_first, run_last, room;
    wire [WORD_BITS:0] give_words;
    wire [WORD_BITS-1:0] activation_at;
    wire [17:0] window;
    wire [128*TOKEN_LANES-1:0] halves;
    wire [90*TOKEN_LANES-1:0] shared;
    wire waits_weights, waits_activations, waits_results;
    pacq_activations #(.TOKEN_LANES(TOKEN_LANES), .WORDS(ACTIVATION_WORDS), .ULTRA(ULTRA)) u_activations (
        .clk_i(clk_i), .rst_i(core_rst), .geometry_i(g_load), .geometry_valid_i(v_load), .geometry_ready_o(r_load),
        .s_axis_tdata(s_axis_activation_tdata), .s_axis_tvalid(s_axis_activation_tvalid && !stopped),
        .s_axis_tready(activation_ready), .loaded_o(loaded), .free_i(give_back), .free_words_i(give_words),
        .read_i(activation_at), .halves_o(halves), .sums_o(shared)
    );
    pacq_issue #(.ADDRESS_BITS(WORD_BITS)) u_issue (
        .clk_i(clk_i), .rst_i(core_rst), .geometry_i(g_issue), .geometry_valid_i(v_issue), .geometry_ready_o(r_issue),
        .filled_i(filled), .loaded_i(loaded), .room_i(room), .released_o(released), .set_done_o(set_done),
        .free_o(give_back), .free_words_o(give_words), .valid_o(run), .first_o(run_first), .last_o(run_last),
        .weight_o(weight_at), .activation_o(activation_at), .window_o(window), .waits_weights_o(waits_weights),
        .waits_activations_o(waits_activations), .waits_results_o(waits_results)
    );

    // -- multiplication ----------------------------------------------------------------------------------------------
    // Operands meet two cycles after their addresses, sums come thirteen later.
    localparam DOT = 15;
    reg run_q, first_q, last_q, run2_q, first2_q, last2_q;
    reg [18*(DOT-1)-1:0] window_q;
    assign two_now = window_q[17];
    always @(posedge clk_i) begin
        run_q <= run && !core_rst;
        run2_q <= run_q && !core_rst;
        {first2_q, first_q} <= {first_q, run_first};
        {last2_q, last_q} <= {last_q, run_last};
        window_q <= {window_q[18*(DOT-2)-1:0], window};
        codes_q <= codes;
    end

    // The window that is scaled: its lanes one per cycle, the first with the sums themselves.
    wire [TOKEN_LANES-1:0] summed, summed_next;
    wire [17:0] window_summed = window_q[18*(DOT-2)+:18];
    reg [17:0] window_kept_q;
    reg [1:0] lane_q;
    wire begin_window = |summed_next;  // its sums come with the next cycle, of all token lanes at once
    wire scaling = begin_window || lane_q != 0;
    wire [17:0] w = begin_window ? window_summed : window_kept_q;
    always @(posedge clk_i) begin
        if (begin_window) window_kept_q <= window_summed;
        lane_q <= core_rst || !scaling ? 2'd0 : lane_q + 2'd1;
    end
    wire [1:0] lane = begin_window ? 2'd0 : lane_q;
    wire two = w[17], eight = w[16], wide = w[15], minimum = w[14], first_group = w[13], last_group = w[12];
    wire [2:0] set = w[11:9], tile = w[8:6];
    wire [$clog2(PARTIALS)-1:0] batch = w[$clog2(PARTIALS)-1:0];
    wire [SCALES*TOKEN_LANES-1:0] result_ready;
    wire [32*PORTS*SCALES*TOKEN_LANES-1:0] results;
    generate
        for (s = 0; s < SCALES; s = s + 1) begin : g_scale
            wire [3:0] row = eight ? {tile, lane[1]} : two ? {tile[0], s != 0, lane} : {tile[1:0], lane};
            wire [32*PORTS-1:0] scale, least;
            pacq_parameters #(.PORTS(PORTS)) u_parameters (
                .clk_i(clk_i), .write_i(parameter_write), .write_set_i(write_set), .write_beat_i(write_beat), .beats_i(beats),
                .set_i(set), .row_i(row), .wide_i(wide), .minimum_i(minimum), .scale_o(scale), .minimum_o(least)
            );
        end
        for (t = 0; t < TOKEN_LANES; t = t + 1) begin : g_token
            wire [56*LANES*PORTS-1:0] sums;
            pacq_dot #(.LANES(LANES * PORTS)) u_dot (
                .clk_i(clk_i), .rst_i(core_rst), .valid_i(run2_q), .first_i(first2_q), .last_i(last2_q),
                .halves_i(halves[128*t+:128]), .codes_i(codes_q), .next_o(summed_next[t]),
                .valid_o(summed[t]), .sums_o(sums)
            );
            // The shared sum of the window's group, read with its last word.
            reg [90*12-1:0] shared_q;
            reg [89:0] shared_kept_q;
            wire [89:0] shared_now = summed[t] ? shared_q[90*11+:90] : shared_kept_q;
            always @(posedge clk_i) begin
                shared_q <= {shared_q[90*11-1:0], shared[90*t+:90]};
                if (summed[t]) shared_kept_q <= shared_now;
            end
            for (s = 0; s < SCALES; s = s + 1) begin : g_lanes
                wire [56*4*PORTS-1:0] four;
                for (p = 0; p < PORTS; p = p + 1) begin : g_four
                    assign four[56*4*p+:56*4] = sums[56*(LANES*p+4*s)+:56*4];
                end
                pacq_scale #(.PORTS(PORTS), .BATCHES(PARTIALS)) u_scale (
                    .clk_i(clk_i), .rst_i(core_rst), .valid_i(scaling && (s == 0 || two)), .lane_i(lane), .eight_i(eight),
                    .first_i(first_group), .last_i(last_group), .row_i(g_scale[s].row), .batch_i(batch), .sums_i(four),
                    .offset_i(shared_now[89:32]), .shared_i(shared_now[31:0]), .scale_i(g_scale[s].scale),
                    .minimum_i(g_scale[s].least), .valid_o(result_ready[SCALES*t+s]),
                    .result_o(results[32*PORTS*(SCALES*t+s)+:32*PORTS])
                );
            end
        end
    endgenerate
    pacq_results #(.PORTS(PORTS), .SCALES(SCALES), .TOKEN_LANES(TOKEN_LANES)) u_results (
        .clk_i(clk_i), .rst_i(core_rst), .geometry_i(g_order), .geometry_valid_i(v_order), .geometry_ready_o(r_order),
        .valid_i(result_ready), .results_i(results), .room_o(room), .m_axis_tdata(result), .m_axis_tvalid(result_valid),
        .m_axis_tlast(result_last), .m_axis_tready(m_axis_result_tready && !stopped)
    );

    gemv_registers #(
        .SHAPE(PORTS | LANES << 8 | TOKEN_LANES << 16), .SIZE(MAX_TOKENS | ACTIVATION_WORDS / 128 << 16), .DESIGN_ID(DESIGN_ID),
        .PORTS(PORTS)
    ) u_registers (
        .clk_i(clk_i), .rst_i(rst_i), .s_axil_awaddr(s_axil_awaddr), .s_axil_awvalid(s_axil_awvalid),
        .s_axil_awready(s_axil_awready), .s_axil_wdata(s_axil_wdata), .s_axil_wstrb(s_axil_wstrb),
        .s_axil_wvalid(s_axil_wvalid), .s_axil_wready(s_axil_wready), .s_axil_bresp(s_axil_bresp),
        .s_axil_bvalid(s_axil_bvalid), .s_axil_bready(s_axil_bready), .s_axil_araddr(s_axil_araddr),
        .s_axil_arvalid(s_axil_arvalid), .s_axil_arready(s_axil_arready), .s_axil_rdata(s_axil_rdata),
        .s_axil_rresp(s_axil_rresp), .s_axil_rvalid(s_axil_rvalid), .s_axil_rready(s_axil_rready), .clear_o(clear),
        .watchdog_o(watchdog), .busy_i(v_order), .stopped_i(stopped), .draining_i(draining != 0), .error_i(error),
        .command_i(spread), .waits_weights_i(waits_weights), .waits_activations_i(waits_activations),
        .waits_results_i(waits_results), .waits_multipliers_i(beats_there && !take_beats),
        .beats_i(m_axi_rvalid & m_axi_rready)
    );
endmodule

`default_nettype wire
