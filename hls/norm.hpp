// SPDX-License-Identifier: Apache-2.0
// NORM and QUANTIZE: rows of FP32 from DRAM, normed or as they are, to rows of INT8 with a scale each or of FP32.  Loading, norming,
// quantizing and storing of different rows overlap.
#pragma once

#include "arithmetic.hpp"
#include "memory.hpp"

using scale_stream = hls::stream<float, 4>;
using square_sum_t = ap_int<2 * kNormBits + bits_for(kMaxCols) + 2>;
using mean_sum_t = ap_int<kNormBits + bits_for(kMaxCols) + 2>;

// The power of two on which a row's elements are integers of kNormBits bits, from its peak.
inline int norm_exponent(uint32_t peak) {
#pragma HLS INLINE
    return clamp(exponent_of(peak), kNormLowest, kNormHighest);
}

// One element as such an integer.
inline int norm_integer(float x, int exponent) {
#pragma HLS INLINE
    const uint32_t limit = as_bits(static_cast<float>(1 << kNormBits));
    const uint32_t bits = as_bits(times_power(x, kNormBits - exponent));
    return round_even(as_float((bits & ~kSignBit) > limit ? (bits & kSignBit) | limit : bits));
}

inline int64_t sum_of_squares(const vector_t& x, int exponent) {
#pragma HLS INLINE
    int64_t sum = 0;
    for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
        const int m = norm_integer(x.value[k], exponent);
        sum += static_cast<int64_t>(m) * m;
    }
    return sum;
}

// 1 / sqrt(mean square + eps) of a row.
inline float inverse_root(int64_t squares, int exponent, float eps, float inverse_count) {
#pragma HLS INLINE
    const float mean = static_cast<float>(squares) * inverse_count;
    const float square = flush(mean * power_of_two(2 * (exponent - kNormBits)));
    return 1.0f / hls::sqrt(square + eps);
}

inline vector_t scaled(const vector_t& x, float inverse, const vector_t& gain) {
#pragma HLS INLINE
    vector_t y;
    for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
        y.value[k] = flush((x.value[k] * inverse) * gain.value[k]);
    }
    return y;
}

inline vector_t added(const vector_t& a, const vector_t& b) {
#pragma HLS INLINE
    vector_t y;
    for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
        y.value[k] = flush(a.value[k] + b.value[k]);
    }
    return y;
}

// What a row is to become: fields of the instruction, as scalars for the stages.
struct RowStep {
    int tokens;
    int count;      // elements of a row
    bool normed;    // QUANTIZE norms nothing
    bool centred;   // of x - mean(x)
    bool biased;
    bool added;     // to the rows of the target
    bool floats;    // FP32 rows, no codes
    float eps, inverse;
    uint32_t threshold;  // bits: what is not above it becomes 0; 0 for none
};

// What is above the threshold, by its bits.
inline vector_t live(const vector_t& x, uint32_t threshold) {
#pragma HLS INLINE
    vector_t y;
    for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
        y.value[k] = threshold == 0 || magnitude_of(x.value[k]) > threshold ? x.value[k] : 0.0f;
    }
    return y;
}

// Rows of the source and, where they are added to, of the target.
inline void load_rows(const beat_t* constants, address_t source, address_t target, RowStep step, vectors_stream& rows, vectors_stream& others) {
    const int stride = pieces(step.count, kFloatsInBeat);
LoadRows:
    for (int t = 0; t < step.tokens; ++t) {
        load_row<kConstantsPort>(Role::kActivations, constants, source + static_cast<address_t>(t * stride), step.count, rows);
        if (step.added) load_row<kConstantsPort>(Role::kActivations, constants, target + static_cast<address_t>(t * stride), step.count, others);
    }
}

// x - mean(x) of a row, in place; the mean is of integers on the row's power of two.  Returns the new peak.
inline uint32_t centre_row(vector_t x[kMaxVectors], RowStep step, uint32_t peak) {
    const int exponent = norm_exponent(peak);
    const int vectors = pieces(step.count, kFloatLanes);
    mean_sum_t total = 0;
Mean:
    for (int j = 0; j < vectors; ++j) {
#pragma HLS PIPELINE II=1
        const vector_t v = x[j];
        int sum = 0;
        for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
            sum += norm_integer(v.value[k], exponent);
        }
        total = total.to_int64() + sum;
    }
    const float mean = flush((static_cast<float>(total.to_int64()) * step.inverse) * power_of_two(exponent - kNormBits));
    uint32_t after = 0;
Centre:
    for (int j = 0; j < vectors; ++j) {
#pragma HLS PIPELINE II=1
        vector_t v = x[j];
        for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
            v.value[k] = j * kFloatLanes + k < step.count ? flush(v.value[k] - mean) : 0.0f;
        }
        x[j] = v;
        const uint32_t most = peak_of(v);
        after = most > after ? most : after;
    }
    count_loop(Loop::kNorm, vectors);
    count_loop(Loop::kNorm, vectors);
    return after;
}

// RMS norm, or layer norm, of each row: squares are summed as integers on the row's power of two.
inline void norm_rows(vectors_stream& rows, vectors_stream& others, const vector_t gain[kMaxVectors], const vector_t shift[kMaxVectors],
                      RowStep step, vectors_stream& out) {
    const int vectors = pieces(step.count, kFloatLanes);
    vector_t x[kMaxVectors];
#pragma HLS AGGREGATE variable=x
NormTokens:
    for (int t = 0; t < step.tokens; ++t) {
        uint32_t peak = 0;
    Peak:
        for (int j = 0; j < vectors; ++j) {
#pragma HLS PIPELINE II=1
            const vector_t v = rows.read();
            x[j] = v;
            if (!step.normed) out.write(v);
            const uint32_t most = peak_of(v);
            peak = most > peak ? most : peak;
        }
        count_loop(Loop::kNorm, vectors);
        if (!step.normed) continue;
        if (step.centred) peak = centre_row(x, step, peak);
        const int exponent = norm_exponent(peak);
        square_sum_t total = 0;
    Squares:
        for (int j = 0; j < vectors; ++j) {
#pragma HLS PIPELINE II=1
            total = total.to_int64() + sum_of_squares(x[j], exponent);
        }
        const float inverse = inverse_root(total.to_int64(), exponent, step.eps, step.inverse);
    Scale:
        for (int j = 0; j < vectors; ++j) {
#pragma HLS PIPELINE II=1
            vector_t y = scaled(x[j], inverse, gain[j]);
            if (step.biased) y = added(y, shift[j]);
            if (step.added) y = added(others.read(), y);
            out.write(y);
        }
        count_loop(Loop::kNorm, vectors);
        count_loop(Loop::kNorm, vectors);
    }
}

// INT8 codes of each row, as beats, with its scale; or the rows as they are.
inline void quantize_rows(vectors_stream& in, RowStep step, vectors_stream& rows, beats_stream& codes, scale_stream& scales) {
    const int vectors = pieces(step.count, kFloatLanes);
    const int padded_vectors = padded(step.count, kLaneCols) / kFloatLanes;
    vector_t x[kMaxVectors];
#pragma HLS AGGREGATE variable=x
QuantizeTokens:
    for (int t = 0; t < step.tokens; ++t) {
        uint32_t peak = 0;
    Take:
        for (int j = 0; j < vectors; ++j) {
#pragma HLS PIPELINE II=1
            const vector_t v = live(in.read(), step.threshold);
            x[j] = v;
            if (step.floats) rows.write(v);
            const uint32_t most = peak_of(v);
            peak = most > peak ? most : peak;
        }
        count_loop(Loop::kQuantize, vectors);
        if (step.floats) continue;
        const Levels levels = levels_of(peak);
        beat_t beat = 0;
    Quantize:
        for (int j = 0; j < padded_vectors; ++j) {
#pragma HLS PIPELINE II=1
            int8_t code[kFloatLanes];
#pragma HLS ARRAY_PARTITION variable=code complete
            for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
                code[k] = j < vectors ? code_of(x[j].value[k], levels.inverse) : static_cast<int8_t>(0);
            }
            for (int k = 0; k < kBeatBytes; ++k) {
#pragma HLS UNROLL
                if (k / kFloatLanes == j % kVectorsInBeat) set_byte(beat, k, code[k % kFloatLanes]);
            }
            if (j % kVectorsInBeat == kVectorsInBeat - 1) codes.write(beat);
        }
        count_loop(Loop::kQuantize, padded_vectors);
        scales.write(levels.scale);
    }
}

inline void store_rows(vectors_stream& rows, beats_stream& codes, scale_stream& scales, RowStep step, address_t target, address_t scale,
                       beat_t* memory) {
    const int stride = step.floats ? pieces(step.count, kFloatsInBeat) : padded(step.count, kLaneCols) / kBeatBytes;
    float scale_of[kBlock];
#pragma HLS ARRAY_PARTITION variable=scale_of cyclic factor=kFloatsInBeat
    const beat_t none = 0;
StoreRows:
    for (int t = 0; t < step.tokens; ++t) {
        const address_t at = target + static_cast<address_t>(t * stride);
        if (step.floats) {
            store_floats<kMemoryPort>(Role::kActivations, memory, at, 0, step.count, none, rows);
            continue;
        }
    StoreCodes:
        for (int n = 0; n < stride; ++n) {
#pragma HLS PIPELINE II=1
            store<kMemoryPort>(Role::kActivations, memory, at, n, codes.read());
        }
        count_loop(Loop::kStore, stride);
        scale_of[t] = scales.read();
    }
    if (!step.floats) store_floats<kMemoryPort>(Role::kActivations, memory, scale, 0, step.tokens, none, scale_of);
}

// Rows are read over the port of the constants, since `memory` is being written.
inline void row_region(const beat_t* constants, address_t source, address_t target, address_t scale, const vector_t gain[kMaxVectors],
                       const vector_t shift[kMaxVectors], RowStep step, beat_t* memory) {
#pragma HLS DATAFLOW
    vectors_stream rows;
    vectors_stream others;
    vectors_stream made;
    vectors_stream kept;
    beats_stream codes;
    scale_stream scales;
    load_rows(constants, source, target, step, rows, others);
    norm_rows(rows, others, gain, shift, step, made);
    quantize_rows(made, step, kept, codes, scales);
    store_rows(kept, codes, scales, step, target, scale, memory);
}

// NORM and QUANTIZE.
inline void run_rows(const Run& run, const Instruction& i, const beat_t* constants, beat_t* memory) {
    static vector_t gain[kMaxVectors], shift[kMaxVectors];
#pragma HLS AGGREGATE variable=gain
#pragma HLS AGGREGATE variable=shift
    RowStep step;
    step.tokens = static_cast<int>(run.tokens);
    step.normed = i.word[0] == isa::kNorm;
    step.count = static_cast<int>(step.normed ? i.word[isa::norm::cols] : i.word[isa::quantize::cols]);
    const uint32_t how = step.normed ? i.word[isa::norm::kind] : 0;
    step.centred = (how & isa::kNormCentred) != 0;
    step.biased = (how & isa::kNormBiased) != 0;
    step.floats = (step.normed ? i.word[isa::norm::floats] : i.word[isa::quantize::floats]) != 0;
    step.threshold = (step.normed ? i.word[isa::norm::threshold] : i.word[isa::quantize::threshold]) & ~kSignBit;
    step.added = step.normed && step.floats && (how & isa::kNormAdded) != 0;
    step.eps = as_float(i.word[isa::norm::eps]);
    step.inverse = as_float(i.word[isa::norm::inverse]);
    const address_t source = address_of(run, step.normed ? i.word[isa::norm::source] : i.word[isa::quantize::source]);
    const address_t target = address_of(run, step.normed ? i.word[isa::norm::codes] : i.word[isa::quantize::codes]);
    const address_t scale = address_of(run, step.normed ? i.word[isa::norm::scale] : i.word[isa::quantize::scale]);
    if (step.normed) load_floats<kConstantsPort>(Role::kWeights, constants, address_of(run, i.word[isa::norm::gain]), step.count, gain);
    if (step.biased) load_floats<kConstantsPort>(Role::kWeights, constants, address_of(run, i.word[isa::norm::bias]), step.count, shift);
    row_region(constants, source, target, scale, gain, shift, step, memory);
}
