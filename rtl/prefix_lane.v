// SPDX-License-Identifier: Apache-2.0
// One lane of the prefix decoder: its own bits, and the place of its next weight among the code's weights.
// Looks no weight up and knows no other lane; docs/packing.md has the format.
`default_nettype none

module prefix_lane #(
    parameter CODE_BITS = 14  // of the longest code, at most 14
) (
    input wire clk_i,
    input wire clear_i,  // forget all bits: a new tile begins
    input wire step_i,   // one weight is taken
    output wire need_o,  // this step takes a halfword: fewer bits are held than the longest code has
    input wire [15:0] fresh_i,
    input wire [(CODE_BITS-1)*(CODE_BITS+1)-1:0] bounds_i,  // for l bits, at (l - 1): the first window of a longer code
    input wire [CODE_BITS*8-1:0] offsets_i,                  // for l bits, at (l - 1): from the code to the place
    output wire [7:0] place_o
);
    // The bits are those of two halfwords from bit `at` on, the highest first; the second may not be here yet.
    reg [15:0] first_q, second_q;
    reg more_q;       // the second is here
    reg [4:0] at_q;   // 16: not even the first is

    assign need_o = !more_q && at_q > 16 - CODE_BITS;
    wire [15:0] second = more_q ? second_q : fresh_i;
    wire [31:0] pair = {first_q, second};
    wire [CODE_BITS-1:0] window;  // the next CODE_BITS bits
    genvar b, l, c;
    generate
        for (b = 0; b < CODE_BITS; b = b + 1) begin : g_window
            wire [15:0] choice = pair[32-CODE_BITS+b-:16];
            assign window[b] = at_q[4] ? second[16-CODE_BITS+b] : choice[4'd15-at_q[3:0]];
        end
    endgenerate

    // A thermometer: mark n is up when the code is longer than n + 1 bits.  Only the top n + 1 bits of a bound can be set,
    // and one above them.
    wire [13:0] mark;
    generate
        for (l = 1; l <= 14; l = l + 1) begin : g_mark
            if (l < CODE_BITS) begin : g_bound
                wire [CODE_BITS:0] bound = bounds_i[(l-1)*(CODE_BITS+1)+:CODE_BITS+1];
                assign mark[l-1] = {1'b0, window[CODE_BITS-1-:l]} >= bound[CODE_BITS-:l+1];
            end else begin : g_none
                assign mark[l-1] = 1'b0;
            end
        end
    endgenerate
    wire [3:0] count;  // of marks: the length less one
    assign count[3] = mark[7];
    assign count[2] = mark[11] || (mark[3] && !mark[7]);
    assign count[1] = mark[13] || (mark[9] && !mark[11]) || (mark[5] && !mark[7]) || (mark[1] && !mark[3]);
    assign count[0] = (mark[12] && !mark[13]) || (mark[10] && !mark[11]) || (mark[8] && !mark[9]) || (mark[6] && !mark[7])
        || (mark[4] && !mark[5]) || (mark[2] && !mark[3]) || (mark[0] && !mark[1]);

    // The place: the code itself, moved by what its length says.  Multiplexers of 16, which is what the fabric has.
    wire [127:0] offsets = {{(128 - 8 * CODE_BITS) {1'b0}}, offsets_i};
    wire [7:0] code;
    generate
        for (b = 0; b < 8; b = b + 1) begin : g_code
            wire [15:0] choice;
            for (c = 0; c < 16; c = c + 1) begin : g_choice
                if (b <= c && c < CODE_BITS) begin : g_bit
                    assign choice[c] = window[CODE_BITS-1-c+b];
                end
                else begin : g_zero
                    assign choice[c] = 1'b0;
                end
            end
            assign code[b] = choice[count];
        end
    endgenerate
    assign place_o = code + offsets[8*count+:8];

    wire [5:0] next = {1'b0, at_q} + {2'd0, count} + 6'd1;
    always @(posedge clk_i) begin
        if (clear_i) begin
            more_q <= 1'b0;
            at_q <= 5'd16;
        end else if (step_i) begin
            if (next >= 6'd16) begin
                first_q <= second;
                more_q <= 1'b0;
                at_q <= more_q || need_o ? {1'b0, next[3:0]} : 5'd16;  // the last held bit is gone
            end else begin
                more_q <= more_q || need_o;
                at_q <= next[4:0];
            end
            second_q <= second;
        end
    end
endmodule

`default_nettype wire
