// SPDX-License-Identifier: Apache-2.0
// Rows of FP32 to INT8: the RMS norm with its quantization, and quantization alone.
#pragma once

#include "arithmetic.hpp"
#include "memory.hpp"

// The power of two on which a row's elements are integers of kNormBits bits.
inline int norm_exponent(const float* x, int count) { return clamp(exponent_of(peak_of(x, count)), kNormLowest, kNormHighest); }

// One element as such an integer; `unit` is 2^(kNormBits - exponent).
inline int norm_integer(float x, float unit) {
#pragma HLS INLINE
    const float limit = static_cast<float>(1 << kNormBits);
    const float scaled = x * unit;
    return round_even(scaled > limit ? limit : scaled < -limit ? -limit : scaled);
}

// RMS norm of a row: squares are summed as integers on the row's power of two.
inline void norm_row(const float* x, const float* gain, int count, float eps, float inverse_count, float* out) {
    const int exponent = norm_exponent(x, count);
    const float unit = power_of_two(kNormBits - exponent);
    int64_t total = 0;
Squares:
    for (int i = 0; i < count; ++i) {
#pragma HLS PIPELINE II=1
#pragma HLS UNROLL factor=kFloatLanes
        const int m = norm_integer(x[i], unit);
        total += static_cast<int64_t>(m) * m;
    }
    const float mean = static_cast<float>(total) * inverse_count;
    const float square = flush(mean * power_of_two(2 * (exponent - kNormBits)));
    const float inverse = 1.0f / hls::sqrt(square + eps);
Scale:
    for (int i = 0; i < count; ++i) {
#pragma HLS PIPELINE II=1
#pragma HLS UNROLL factor=kFloatLanes
        out[i] = flush((x[i] * inverse) * gain[i]);
    }
}

// x - mean(x) of a row, in place; the mean is of integers on the row's power of two.
inline void centre_row(float* x, int count, float inverse_count) {
    const int exponent = norm_exponent(x, count);
    const float unit = power_of_two(kNormBits - exponent);
    int64_t total = 0;
Mean:
    for (int i = 0; i < count; ++i) {
#pragma HLS PIPELINE II=1
#pragma HLS UNROLL factor=kFloatLanes
        total += norm_integer(x[i], unit);
    }
    const float mean = flush((static_cast<float>(total) * inverse_count) * power_of_two(exponent - kNormBits));
Centre:
    for (int i = 0; i < count; ++i) {
#pragma HLS PIPELINE II=1
#pragma HLS UNROLL factor=kFloatLanes
        x[i] = flush(x[i] - mean);
    }
}

// y plus another row.
inline void add_row(float* y, const float* other, int count) {
AddRow:
    for (int i = 0; i < count; ++i) {
#pragma HLS PIPELINE II=1
#pragma HLS UNROLL factor=kFloatLanes
        y[i] = flush(other[i] + y[i]);
    }
}

inline void norm(const Run& run, const Instruction& i, const beat_t* constants, beat_t* memory) {
    using namespace isa::norm;
    const int n = static_cast<int>(i.word[cols]);
    const uint32_t how = i.word[kind];
    const int each = (n + kFloatLanes - 1) / kFloatLanes;
    static float x[kMaxCols], weight[kMaxCols], shift[kMaxCols], y[kMaxCols];
    static int8_t row[kMaxCols];
    float scales[kBlock];
#pragma HLS ARRAY_PARTITION variable=x cyclic factor=kFloatLanes
#pragma HLS ARRAY_PARTITION variable=weight cyclic factor=kFloatLanes
#pragma HLS ARRAY_PARTITION variable=shift cyclic factor=kFloatLanes
#pragma HLS ARRAY_PARTITION variable=y cyclic factor=kFloatLanes
#pragma HLS ARRAY_PARTITION variable=row cyclic factor=kBeatBytes
    load_floats<kConstantsPort>(Role::kWeights, constants, address_of(run, i.word[gain]), n, weight);
    if (how & isa::kNormBiased) load_floats<kConstantsPort>(Role::kWeights, constants, address_of(run, i.word[bias]), n, shift);
NormTokens:
    for (int t = 0; t < static_cast<int>(run.tokens); ++t) {
        const address_t at = address_of(run, i.word[source]) + static_cast<address_t>(t) * padded(n, kFloatsInBeat) * 4;
        load_floats<kMemoryPort>(Role::kActivations, memory, at, n, x);
        if (how & isa::kNormCentred) {
            centre_row(x, n, as_float(i.word[inverse]));
            count_cycles(Loop::kNorm, 3 * each);  // peak, mean, centred
        }
        norm_row(x, weight, n, as_float(i.word[eps]), as_float(i.word[inverse]), y);
        if (how & isa::kNormBiased) {
            add_row(y, shift, n);
            count_cycles(Loop::kNorm, each);
        }
        if (i.word[floats] != 0) {
            const address_t whole = address_of(run, i.word[codes]) + static_cast<address_t>(t) * padded(n, kFloatsInBeat) * 4;
            if (how & isa::kNormAdded) {
                load_floats<kMemoryPort>(Role::kActivations, memory, whole, n, x);
                add_row(y, x, n);
                count_cycles(Loop::kNorm, each);
            }
            store_floats<kMemoryPort>(Role::kActivations, memory, whole, 0, n, y);
            count_cycles(Loop::kNorm, 3 * each);  // peak, squares, scaled
            continue;
        }
        scales[t] = quantize_row(y, n, row);
        count_cycles(Loop::kNorm, 5 * each);  // peak, squares, scaled, peak, codes
        for (int k = n; k < padded(n, kLaneCols); ++k) row[k] = 0;
        const address_t to = address_of(run, i.word[codes]) + static_cast<address_t>(t) * padded(n, kLaneCols);
        store_codes<kMemoryPort>(Role::kActivations, memory, to, padded(n, kLaneCols), row);
    }
    if (i.word[floats] != 0) return;
    store_floats<kMemoryPort>(Role::kActivations, memory, address_of(run, i.word[scale]), 0, static_cast<int>(run.tokens), scales);
}

inline void quantize(const Run& run, const Instruction& i, beat_t* memory) {
    using namespace isa::quantize;
    const int n = static_cast<int>(i.word[cols]);
    static float x[kMaxCols];
    static int8_t row[kMaxCols];
    float scales[kBlock];
#pragma HLS ARRAY_PARTITION variable=x cyclic factor=kFloatLanes
#pragma HLS ARRAY_PARTITION variable=row cyclic factor=kBeatBytes
QuantizeTokens:
    for (int t = 0; t < static_cast<int>(run.tokens); ++t) {
        const address_t at = address_of(run, i.word[source]) + static_cast<address_t>(t) * padded(n, kFloatsInBeat) * 4;
        load_floats<kMemoryPort>(Role::kActivations, memory, at, n, x);
        scales[t] = quantize_row(x, n, row);
        count_cycles(Loop::kNorm, 2 * ((n + kFloatLanes - 1) / kFloatLanes));  // peak, codes
        for (int k = n; k < padded(n, kLaneCols); ++k) row[k] = 0;
        const address_t to = address_of(run, i.word[codes]) + static_cast<address_t>(t) * padded(n, kLaneCols);
        store_codes<kMemoryPort>(Role::kActivations, memory, to, padded(n, kLaneCols), row);
    }
    store_floats<kMemoryPort>(Role::kActivations, memory, address_of(run, i.word[scale]), 0, static_cast<int>(run.tokens), scales);
}
