// SPDX-License-Identifier: Apache-2.0
// For the SAT solver, by induction: a lane of prefix_unpack keeps the rules at its end, whatever its codes are, whenever beats come, whatever the other lanes and the reader do.  The registers between the lane's flags and what
// moves it are those of prefix_unpack.
`default_nettype none

module formal_lane (
    input wire clk_i,
    input wire beat_i,    // a beat is offered
    input wire others_i,  // the other lanes of the eight, and the other eights
    input wire go_i,      // the reader wants a word or a halfword
    input wire prime_i,
    input wire [15:0] halfword_i,
    input wire table_i,   // tables may hold anything at any time
    input wire [5:0] table_place_i,
    input wire [7:0] lengths_i
);
    reg [6:0] place_q = 0;
    reg [1:0] turn_q = 0;
    reg write_q = 0, enough_four_q = 0, room_four_q = 0, enough_q = 0, room_q = 0, step_q = 0, prime_q = 0, step_c = 0, prime_c = 0;
    wire enough, room;
    wire beat = beat_i && room_q;
    wire go = go_i && enough_q;
    always @(posedge clk_i) begin
        if (beat) turn_q <= turn_q + 1'b1;
        write_q <= beat && turn_q == 0;
        if (write_q) place_q <= place_q + 1'b1;
        enough_four_q <= enough && others_i;
        room_four_q <= room && others_i;
        enough_q <= enough_four_q;
        room_q <= room_four_q;
        step_q <= go && !prime_i;
        prime_q <= go && prime_i;
        step_c <= step_q;
        prime_c <= prime_q;
    end
    prefix_lane u_lane (
        .clk_i(clk_i), .begin_i(1'b0), .base_i(7'd0), .step_i(step_c), .prime_i(prime_c), .ended_i(1'b0), .write_i(write_q),
        .place_i(place_q), .halfword_i(halfword_i), .enough_o(enough), .room_o(room), .behind_o(), .table_write_i(table_i),
        .offset_write_i(1'b0), .table_place_i(table_place_i), .lengths_i(lengths_i), .offset_i(8'd0), .weights_i(32'd0), .weight_o()
    );
endmodule

`default_nettype wire
