// SPDX-License-Identifier: Apache-2.0
// The engine's side of column_gemm: INT8 weights column by column.
#pragma once

#include "gemv.hpp"

constexpr int kRowScales = kColumns ? pieces(padded(kMaxTileRows, kBeatBytes), kColumnSums) : 1;

inline bool is_columns(uint32_t format) {
#pragma HLS INLINE
    return kColumns && (format & ~kColumnsListed) == kColumnsFlag;
}

// The command of an instruction (rtl/column_commands.v).
inline void send_columns(const Run& run, const Instruction& i, commands_stream& gemv_command) {
    const int tokens = static_cast<int>(run.tokens) - first_of(run, i);
    if (tokens <= 0) return;
    const bool listed = (i.word[isa::linear::format] & kColumnsListed) != 0 && tokens == 1;
    beat_t word = 0;
    word.range(15, 0) = static_cast<uint64_t>(pieces(rows_of(i), kBeatBytes));
    word.range(31, 16) = static_cast<uint64_t>(columns_of(i) / kBeatBytes);
    word.range(47, 32) = static_cast<uint64_t>(tokens);
    word.range(48, 48) = listed ? 1 : 0;
    gemv_command.write(word);
    beat_t address = 0;
    address.range(63, 0) = static_cast<uint64_t>(address_of(run, i.word[isa::linear::weights0])) * kBeatBytes;
    gemv_command.write(address);
}

// Begins an instruction: codes of the tokens that are served go, all scales stay here.
inline void begin_columns(const Run& run, const Instruction& i, const beat_t* memory, float a_scale[kBlock + kFloatsInBeat], GEMV_PORTS) {
    const int first = first_of(run, i), tokens = static_cast<int>(run.tokens), row = columns_of(i) / kBeatBytes;
    const address_t from = address_of(run, i.word[isa::linear::codes]) + static_cast<address_t>(first * row);
    load_stream<kMemoryPort>(Role::kActivations, memory, from, (tokens - first) * row, Loop::kLoad, gemv_activation);
    load_scales<kMemoryPort>(Role::kActivations, memory, address_of(run, i.word[isa::linear::scale]), tokens, a_scale);
    serve_gemv(PASS_GEMV_PORTS);
}

// The scales of rows whose sums come together.
struct scales_t {
    float value[kColumnSums];
};

// The scales of `rows` rows, whole beats of them.
inline void load_row_scales(const beat_t* constants, address_t first, int rows, scales_t out[kRowScales]) {
    const int beats = padded(rows, kBeatBytes) / kFloatsInBeat;
    scales_t word;
LoadRowScales:
    for (int n = 0; n < beats; ++n) {
#pragma HLS PIPELINE II=1
        const beat_t beat = load<kConstantsPort>(Role::kWeights, constants, first, n);
        for (int k = 0; k < kColumnSums; ++k) {
#pragma HLS UNROLL
            if (k / kFloatsInBeat == n % 2) word.value[k] = as_float(word_of(beat, k % kFloatsInBeat));
        }
        if (n % 2 == 1) out[n / 2] = word;
    }
    count_loop(Loop::kLoad, beats);
}

// The sums of `rows` rows, or as many more as a beat of rows has, become FP32, for tokens from `first` on.
inline void receive_sums(results_stream& gemv_result, const float a_scale[kBlock + kFloatsInBeat], const scales_t w_scale[kRowScales], int rows,
                         int first, int tokens, results_t& result) {
    const int count = padded(rows, kBeatBytes) / kColumnSums * (tokens - first);
    int row = 0, t = first;
    bool upper = false;
ReceiveSums:
    for (int n = 0; n < count; ++n) {
#pragma HLS PIPELINE II=1
        const result_word_t sums = gemv_result.read();
        const scales_t scale = w_scale[row / kColumnSums + (upper ? 1 : 0)];
        float y[kTogether];
#pragma HLS ARRAY_PARTITION variable=y complete
        for (int k = 0; k < kTogether; ++k) {
#pragma HLS UNROLL
            const auto sum = static_cast<int32_t>(static_cast<uint32_t>(sums.range(32 * k + 31, 32 * k).to_uint64()));
            y[k] = rescale(sum, a_scale[t], scale.value[k % kColumnSums]);
        }
        put<kTogether>(result.bank, t * kResultDepth, row + (upper ? kTogether : 0), y);
        const bool last = upper && t == tokens - 1;
        row = last ? row + kBeatBytes : row;
        t = last ? first : upper ? t + 1 : t;
        upper = !upper;
    }
    count_loop(Loop::kSums, count);
}
