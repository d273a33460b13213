// SPDX-License-Identifier: Apache-2.0
// What the engine and the engine in Verilog beside it, pacq_gemv or column_gemm, say to each other: commands ahead of their steps,
// activations, results.  The streams between them are AXI4-Stream; what is computed is rtl/'s business, and in the C simulation
// sim/gemv.hpp's.
#pragma once

#include "arithmetic.hpp"
#include "memory.hpp"

constexpr bool kGemv = kPacq || kColumns;
constexpr int kAhead = kGemv ? 16 : 1;  // instructions fetched before the one that runs; the engine beside queues as many commands

// Results that come together: of pacq_gemv FP32, of each port; of column_gemm INT32, of kColumnSums rows.
constexpr int kTogether = kColumns ? kColumnSums : kPacqPorts;
using result_word_t = ap_uint<32 * kTogether>;
using commands_stream = beats_stream;
using activations_stream = beats_stream;
using results_stream = hls::stream<result_word_t, 64>;

// FP32 results of a tile: element n of token t lies in bank n mod kResultBanks, which are a pair of features for every float lane.
constexpr int kResultBanks = 2 * kFloatLanes;
constexpr int kResultDepth = pieces(kMaxTileRows, kResultBanks);
static_assert(kResultBanks % kTogether == 0 && kResultBanks % kWeightPorts == 0, "rows of all ports are written at once");
struct results_t {
    float bank[kResultBanks][kBlock * kResultDepth];
};

// The ports to the engine beside.
#define GEMV_PORTS commands_stream &gemv_command, activations_stream &gemv_activation, results_stream &gemv_result
#define PASS_GEMV_PORTS gemv_command, gemv_activation, gemv_result

#ifndef __SYNTHESIS__
#ifdef MEADOW_COSIM
#include "sim/cosim.hpp"
#else
#include "sim/gemv.hpp"
#endif
#endif

// Rows of the weights that an instruction streams, from its own fields.
inline int rows_of(const Instruction& i) {
#pragma HLS INLINE
    if (i.word[0] == isa::kTphs) return static_cast<int>(i.word[isa::tphs::heads] * i.word[isa::tphs::head_dim]);
    return static_cast<int>(i.word[isa::linear::rows]);
}

inline int columns_of(const Instruction& i) {
#pragma HLS INLINE
    return static_cast<int>(i.word[0] == isa::kTphs ? i.word[isa::tphs::cols] : i.word[isa::linear::cols]);
}

// The first token that an instruction serves.
inline int first_of(const Run& run, const Instruction& i) {
#pragma HLS INLINE
    const bool logits = i.word[0] == isa::kLinear && i.word[isa::linear::epilogue] == isa::kEpilogueLogits;
    return logits ? static_cast<int>(run.first_logit) : 0;
}

// In the C simulation the engine beside computes where its activations are complete.
inline void serve_gemv(GEMV_PORTS) {
#pragma HLS INLINE
#ifndef __SYNTHESIS__
    gemv_model::serve(PASS_GEMV_PORTS);
#endif
}
