// SPDX-License-Identifier: Apache-2.0
// The engine's side of pacq_gemv: commands ahead of their steps, activations, results.  What it computes is rtl/pacq_gemv.v's
// business, and in the C simulation sim/pacq.hpp's; the streams between them are AXI4-Stream.
#pragma once

#include "arithmetic.hpp"
#include "memory.hpp"

constexpr int kHalvesInBeat = kBeatBytes / 2;
constexpr int kAhead = kPacq ? 16 : 1;  // instructions fetched before the one that runs; pacq_gemv queues as many commands

// A result of each port: rows n, n + 1, ... of one token.
using results_t = ap_uint<32 * kPacqPorts>;
using commands_stream = hls::stream<beat_t, 64>;
using activations_stream = hls::stream<beat_t, 64>;
using results_stream = hls::stream<results_t, 64>;

// The ports to pacq_gemv.
#define PACQ_PORTS commands_stream &pacq_command, activations_stream &pacq_activation, results_stream &pacq_result
#define PASS_PACQ_PORTS pacq_command, pacq_activation, pacq_result

#ifndef __SYNTHESIS__
#ifdef MEADOW_COSIM
#include "sim/cosim.hpp"
#else
#include "sim/pacq.hpp"
#endif
#endif

inline bool is_grouped(uint32_t format) {
#pragma HLS INLINE
    return kPacq && (format & kGroupedFlag) != 0;
}

inline int group_of(uint32_t format) {
#pragma HLS INLINE
    return 1 << grouped_log2_group(format);
}

// Rows that leave pacq_gemv together: a beat's of every port.
inline int rows_together(uint32_t format) {
#pragma HLS INLINE
    const uint32_t bits = grouped_bits(format);
    return kPacqPorts * (bits == 8 ? 2 : bits == 4 ? 4 : 8);
}

// Rounds to FP16, to nearest even, subnormals kept, saturated at the largest finite value.
inline uint16_t to_half(float x) {
#pragma HLS INLINE
    const uint32_t bits = as_bits(x);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    const int exponent = static_cast<int>(magnitude >> 23);
    if (magnitude > 0x477FE000u) return static_cast<uint16_t>(sign | 0x7BFFu);
    if (exponent < 102) return static_cast<uint16_t>(sign);  // below half of the least subnormal
    const uint32_t mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
    const int shift = exponent >= 113 ? 13 : 126 - exponent;
    const uint32_t rest = mantissa & ((1u << shift) - 1u);
    const uint32_t half = 1u << (shift - 1);
    uint32_t rounded = mantissa >> shift;
    if (rest > half || (rest == half && (rounded & 1u) != 0)) ++rounded;
    // The hidden bit of a normal number adds one to the exponent field.
    const uint32_t field = exponent >= 113 ? static_cast<uint32_t>(exponent - 113) << 10 : 0u;
    return static_cast<uint16_t>(sign | (field + rounded));
}

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

// The command of an instruction that streams grouped weights (rtl/pacq_commands.v), if it has one.  The weight fields of LINEAR
// and TPHS lie at the same words.
inline void send_command(const Run& run, const Instruction& i, commands_stream& pacq_command) {
    static_assert(static_cast<int>(isa::linear::weights0) == static_cast<int>(isa::tphs::weights0) &&
                      static_cast<int>(isa::linear::hold) == static_cast<int>(isa::tphs::hold),
                  "LINEAR and TPHS name their weights alike");
    if (i.word[0] != isa::kLinear && i.word[0] != isa::kTphs) return;
    const uint32_t format = i.word[isa::linear::format];
    const int tokens = static_cast<int>(run.tokens) - first_of(run, i);
    if (!is_grouped(format) || tokens <= 0) return;
    const int group = group_of(format);
    const int rows = rows_of(i);
    beat_t word = 0;
    word.range(31, 0) = format;
    word.range(47, 32) = static_cast<uint64_t>((rows + kBandRows * kPacqPorts - 1) / (kBandRows * kPacqPorts));
    word.range(63, 48) = static_cast<uint64_t>((columns_of(i) + group - 1) / group);
    word.range(79, 64) = static_cast<uint64_t>(tokens);
    word.range(80, 80) = i.word[isa::linear::reuse];
    word.range(81, 81) = i.word[isa::linear::hold];
    pacq_command.write(word);
Addresses:
    for (int p = 0; p < kPacqPorts; p += 2) {
#pragma HLS PIPELINE II=1
        beat_t pair = 0;
        pair.range(63, 0) = address_of(run, i.word[isa::linear::weights0 + p]);
        if (p + 1 < kPacqPorts) pair.range(127, 64) = address_of(run, i.word[isa::linear::weights0 + p + 1]);
        pacq_command.write(pair);
    }
}

// FP32 rows first .. tokens of [tokens, cols padded to a beat] as FP16, padded with zeros to whole groups.
inline void feed_activations(const beat_t* memory, address_t rows, int first, int tokens, int cols, int group,
                             activations_stream& pacq_activation) {
    const int stride = padded(cols, kFloatsInBeat);
FeedTokens:
    for (int t = first; t < tokens; ++t) {
        for (int k = 0; k < padded(cols, group); k += kHalvesInBeat) {
#pragma HLS PIPELINE II=2
            beat_t word = 0;
            for (int part = 0; part < 2; ++part) {
                const int at = k + part * kFloatsInBeat;
                if (at < cols) {
                    const address_t address = rows + (static_cast<address_t>(t) * stride + at) * 4;
                    const beat_t beat = load<kMemoryPort>(Role::kActivations, memory, address);
                    for (int e = 0; e < kFloatsInBeat; ++e) {
#pragma HLS UNROLL
                        const int place = 16 * (part * kFloatsInBeat + e);
                        if (at + e < cols) word.range(place + 15, place) = to_half(as_float(word_of(beat, e)));
                    }
                }
            }
            pacq_activation.write(word);
        }
    }
    count_cycles(Loop::kFeed, static_cast<int64_t>(tokens - first) * ((cols + kFloatsInBeat - 1) / kFloatsInBeat));
}

// Begins an instruction of grouped weights: its activations go, unless pacq_gemv has them.
inline void begin_grouped(const Run& run, const Instruction& i, const beat_t* memory, PACQ_PORTS) {
    const int first = first_of(run, i);
    const uint32_t format = i.word[isa::linear::format];
    if (i.word[isa::linear::reuse] == 0) {
        feed_activations(memory, address_of(run, i.word[isa::linear::codes]), first, static_cast<int>(run.tokens), columns_of(i),
                         group_of(format), pacq_activation);
    }
#ifndef __SYNTHESIS__
    pacq_model::serve(PASS_PACQ_PORTS);
#endif
}

// The next `rows` results, or as many more as come together, of tokens from `first` on.
inline void receive_rows(results_stream& pacq_result, uint32_t format, int rows, int first, int tokens,
                         float result[kBlock][kMaxTileRows]) {
    const int together = rows_together(format);
Chunks:
    for (int row = 0; row < rows; row += together) {
        for (int t = first; t < tokens; ++t) {
            for (int lane = 0; lane < together; lane += kPacqPorts) {
#pragma HLS LOOP_FLATTEN
#pragma HLS PIPELINE II=1
                const results_t some = pacq_result.read();
                for (int p = 0; p < kPacqPorts; ++p) {
#pragma HLS UNROLL
                    const auto bits = static_cast<uint32_t>(some.range(32 * p + 31, 32 * p).to_uint64());
                    result[t][row + lane + p] = as_float(bits);
                }
            }
        }
    }
    count_cycles(Loop::kResults, static_cast<int64_t>(padded(rows, together)) / kPacqPorts * (tokens - first));
}

// What comes behind the last row: the rest of its band.
inline void drop_rows(results_stream& pacq_result, uint32_t format, int rows, int tokens) {
    const int left = padded(rows, kBandRows * kPacqPorts) - padded(rows, rows_together(format));
Drop:
    for (int n = 0; n < left / kPacqPorts * tokens; ++n) {
#pragma HLS PIPELINE II=1
        pacq_result.read();
    }
    count_cycles(Loop::kResults, static_cast<int64_t>(left) / kPacqPorts * tokens);
}
