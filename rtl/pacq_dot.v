// SPDX-License-Identifier: Apache-2.0
// The dot-product unit: eight activations against eight columns of LANES weights per cycle, summed over the columns of a
// quantization group.  Exact; stationary are the sums.  Scales nothing: pacq_scale does.
//
// Eight pacq_mac stand in a cascade, each a cycle behind the one before it, so that the adders of their DSP slices are the
// adder tree of every lane.
`default_nettype none

module pacq_dot #(
    parameter LANES = 4
) (
    input wire clk_i,
    input wire rst_i,
    input wire valid_i,
    input wire first_i,                    // of the group
    input wire last_i,
    input wire [127:0] halves_i,           // activation k in bits 16k+15 .. 16k
    input wire [8*4*LANES-1:0] codes_i,    // column k in bits 4*LANES*k ..; its lanes' codes lowest first
    output wire next_o,                    // sums come with the next cycle
    output reg valid_o,                    // a group is summed; the sums stay until the next one is
    output reg [56*LANES-1:0] sums_o       // in units of 2^-24
);
    localparam COLUMNS = 8;
    localparam LATENCY = 5 + COLUMNS - 1;  // of the cascade
    wire [48*LANES-1:0] sums[0:COLUMNS];
    assign sums[0] = {48 * LANES{1'b0}};

    genvar k, l;
    generate
        for (k = 0; k < COLUMNS; k = k + 1) begin : g_column
            // Column k is a cycle later than column k - 1.
            reg [(16+4*LANES)*(k+1)-1:0] late_q;  // the newest in the lowest bits; column 0 is not late
            wire [16+4*LANES-1:0] now = {halves_i[16*k+:16], codes_i[4*LANES*k+:4*LANES]};
            wire [16+4*LANES-1:0] then_;
            if (k == 0) begin : g_now
                assign then_ = now;
                always @(posedge clk_i) late_q <= now;
            end else begin : g_late
                always @(posedge clk_i) late_q <= {late_q[(16+4*LANES)*k-1:0], now};
                assign then_ = late_q[(16+4*LANES)*k-1-:16+4*LANES];
            end
            pacq_mac #(.LANES(LANES), .FIRST(k == 0), .LAST(k == COLUMNS - 1)) u_mac (
                .clk_i(clk_i), .half_i(then_[4*LANES+:16]), .codes_i(then_[4*LANES-1:0]), .sums_i(sums[k]), .sums_o(sums[k+1])
            );
        end
    endgenerate

    reg [LATENCY-1:0] valid_q, first_q, last_q;
    always @(posedge clk_i) begin
        valid_q <= rst_i ? {LATENCY{1'b0}} : {valid_q[LATENCY-2:0], valid_i};
        first_q <= {first_q[LATENCY-2:0], first_i};
        last_q <= {last_q[LATENCY-2:0], last_i};
        valid_o <= !rst_i && next_o;
    end
    assign next_o = valid_q[LATENCY-1] && last_q[LATENCY-1];

    generate
        for (l = 0; l < LANES; l = l + 1) begin : g_sum
            reg signed [55:0] sum_q;
            wire signed [47:0] part = sums[COLUMNS][48*l+:48];
            wire signed [55:0] next = (first_q[LATENCY-1] ? 56'sd0 : sum_q) + {{8{part[47]}}, part};
            always @(posedge clk_i) begin
                if (valid_q[LATENCY-1]) sum_q <= next;
                if (next_o) sums_o[56*l+:56] <= next;
            end
        end
    endgenerate
endmodule

`default_nettype wire
