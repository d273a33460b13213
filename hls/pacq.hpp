// SPDX-License-Identifier: Apache-2.0
// The engine's side of pacq_gemv: grouped weights.
#pragma once

#include "gemv.hpp"

constexpr int kHalvesInBeat = kBeatBytes / 2;

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

// The command of an instruction that streams grouped weights (rtl/pacq_commands.v).
inline void send_grouped(const Run& run, const Instruction& i, commands_stream& gemv_command) {
    const uint32_t format = i.word[isa::linear::format];
    const int tokens = static_cast<int>(run.tokens) - first_of(run, i);
    if (tokens <= 0) return;
    const int group = group_of(format);
    const int rows = rows_of(i);
    beat_t word = 0;
    word.range(31, 0) = format;
    word.range(47, 32) = static_cast<uint64_t>((rows + kBandRows * kPacqPorts - 1) / (kBandRows * kPacqPorts));
    word.range(63, 48) = static_cast<uint64_t>((columns_of(i) + group - 1) / group);
    word.range(79, 64) = static_cast<uint64_t>(tokens);
    word.range(80, 80) = i.word[isa::linear::reuse];
    word.range(81, 81) = i.word[isa::linear::hold];
    gemv_command.write(word);
Addresses:
    for (int p = 0; p < kPacqPorts; p += 2) {
#pragma HLS PIPELINE II=1
        beat_t pair = 0;
        pair.range(63, 0) = static_cast<uint64_t>(address_of(run, i.word[isa::linear::weights0 + p])) * kBeatBytes;
        if (p + 1 < kPacqPorts) pair.range(127, 64) = static_cast<uint64_t>(address_of(run, i.word[isa::linear::weights0 + p + 1])) * kBeatBytes;
        gemv_command.write(pair);
    }
}

// Beats of FP32 rows as FP16, each row padded with zeros to whole groups.
inline void halve_rows(beats_stream& in, int tokens, int cols, int group, activations_stream& gemv_activation) {
    const int row = pieces(cols, kFloatsInBeat);
    const int each = padded(cols, group) / kFloatsInBeat;  // iterations of a row, two for a word
    beat_t word = 0;
    int at = 0;
HalveRows:
    for (int n = 0; n < tokens * each; ++n) {
#pragma HLS PIPELINE II=1
        const beat_t beat = at < row ? in.read() : beat_t(0);
        for (int k = 0; k < kHalvesInBeat; ++k) {
#pragma HLS UNROLL
            if (k / kFloatsInBeat == at % 2) {
                const bool real = at * kFloatsInBeat + k % kFloatsInBeat < cols;
                word.range(16 * k + 15, 16 * k) = real ? to_half(as_float(word_of(beat, k % kFloatsInBeat))) : 0;
            }
        }
        if (at % 2 == 1) gemv_activation.write(word);
        at = at == each - 1 ? 0 : at + 1;
    }
    count_loop(Loop::kFeed, static_cast<int64_t>(tokens) * each);
}

// Rows from `first` on, in one burst.
inline void feed_activations(const beat_t* memory, address_t first, int beats, int tokens, int cols, int group,
                             activations_stream& gemv_activation) {
#pragma HLS DATAFLOW
    beats_stream rows;
    load_stream<kMemoryPort>(Role::kActivations, memory, first, beats, Loop::kLoad, rows);
    halve_rows(rows, tokens, cols, group, gemv_activation);
}

// Begins an instruction of grouped weights: its activations go, unless pacq_gemv has them.
inline void begin_grouped(const Run& run, const Instruction& i, const beat_t* memory, GEMV_PORTS) {
    const int first = first_of(run, i);
    const uint32_t format = i.word[isa::linear::format];
    if (i.word[isa::linear::reuse] == 0) {
        const int cols = columns_of(i), tokens = static_cast<int>(run.tokens) - first, row = pieces(cols, kFloatsInBeat);
        feed_activations(memory, address_of(run, i.word[isa::linear::codes]) + static_cast<address_t>(first * row), tokens * row, tokens, cols,
                         group_of(format), gemv_activation);
    }
    serve_gemv(PASS_GEMV_PORTS);
}

// The next `rows` results, or as many more as come together, of tokens from `first` on.
inline void receive_rows(results_stream& gemv_result, uint32_t format, int rows, int first, int tokens, results_t& result) {
    const int together = rows_together(format);
    const int count = padded(rows, together) / kPacqPorts * (tokens - first);
    int row = 0, lane = 0, t = first;
Receive:
    for (int n = 0; n < count; ++n) {
#pragma HLS PIPELINE II=1
        const result_word_t some = gemv_result.read();
        float y[kPacqPorts];
#pragma HLS ARRAY_PARTITION variable=y complete
        for (int p = 0; p < kPacqPorts; ++p) {
#pragma HLS UNROLL
            y[p] = as_float(static_cast<uint32_t>(some.range(32 * p + 31, 32 * p).to_uint64()));
        }
        put<kPacqPorts>(result.bank, t * kResultDepth, row + lane, y);
        const bool last_lane = lane == together - kPacqPorts;
        const bool last_token = last_lane && t == tokens - 1;
        lane = last_lane ? 0 : lane + kPacqPorts;
        row = last_token ? row + together : row;
        t = last_token ? first : last_lane ? t + 1 : t;
    }
    count_loop(Loop::kResults, count);
}

// What comes behind the last row: the rest of its band.
inline void drop_rows(results_stream& gemv_result, uint32_t format, int rows, int tokens) {
    const int left = padded(rows, kBandRows * kPacqPorts) - padded(rows, rows_together(format));
    const int count = left / kPacqPorts * tokens;
Drop:
    for (int n = 0; n < count; ++n) {
#pragma HLS PIPELINE II=1
        gemv_result.read();
    }
    count_loop(Loop::kResults, count);
}
