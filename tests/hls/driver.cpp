// SPDX-License-Identifier: Apache-2.0
// The C++ arithmetic and the shims as plain functions, for ctypes.
#include "arithmetic.hpp"
#include "memory.hpp"
#include "norm.hpp"
#include "weights.hpp"

extern "C" {

void exp2_all(uint16_t* out) {
    for (int u = 0; u <= kExpLimit; ++u) out[u] = exp2_negative(u);
}

void quantize(const float* x, int rows, int cols, int8_t* codes, float* scale) {
    for (int r = 0; r < rows; ++r) scale[r] = quantize_row(x + r * cols, cols, codes + r * cols);
}

void norm(const float* x, const float* gain, int rows, int cols, float eps, float inverse, float* out) {
    for (int r = 0; r < rows; ++r) norm_row(x + r * cols, gain, cols, eps, inverse, out + r * cols);
}

void silu(const float* gate, const float* up, int count, float* out) {
    for (int i = 0; i < count; ++i) out[i] = silu_times(gate[i], up[i]);
}

void rescale_all(const int32_t* sum, const float* a, const float* w, int count, float* out) {
    for (int i = 0; i < count; ++i) out[i] = rescale(sum[i], a[i], w[i]);
}

void rope(float* x, const int16_t* table, int rows, int head_dim) {
    for (int r = 0; r < rows; ++r) rope_head(x + r * head_dim, table + r * head_dim, head_dim / 2);
}

void flush_all(const float* x, int count, float* out) {
    for (int i = 0; i < count; ++i) out[i] = flush(x[i]);
}

// Bits hi .. lo of a 128-bit number given as two words; then the same bits set to `bits`.
uint64_t range_of(uint64_t low, uint64_t high, int hi, int lo, uint64_t bits, uint64_t* out) {
    ap_uint<128> beat = 0;
    beat.range(63, 0) = low;
    beat.range(127, 64) = high;
    const ap_uint<128> before = beat;
    const uint64_t found = before.range(hi, lo).to_uint64();
    beat.range(hi, lo) = bits;
    out[0] = beat.range(63, 0).to_uint64();
    out[1] = beat.range(127, 64).to_uint64();
    return found;
}

// The prefix decoder on `count` beats; returns the cycles it took, or -1 when an error was caught.
int64_t unpack_prefix_words(const uint8_t* stream, int count, int words, const uint8_t* table_bytes, int entries, int8_t* out) {
    traffic::windows[0] = {0, ~0ull >> 1};
    static Table table;
    load_codes(reinterpret_cast<const beat_t*>(table_bytes), 0, entries, table);
    const uint64_t before = traffic::cycles[static_cast<int>(Loop::kUnpack)];
    try {
        beats_t beats;
        words_t made;
        load_stream<0>(Role::kWeights, reinterpret_cast<const beat_t*>(stream), 0, count, beats);
        unpack_prefix(beats, count, words, table, made);
        for (int w = 0; w < words; ++w) {
            const lanes_t word = made.read();
            for (int k = 0; k < kLaneCols; ++k) out[w * kLaneCols + k] = word.value[k];
        }
    } catch (const std::runtime_error&) {
        return -1;
    }
    return static_cast<int64_t>(traffic::cycles[static_cast<int>(Loop::kUnpack)] - before);
}

// Whether an access of `beats` beats at `address` in a memory of 4 KiB is refused.
int refuses(uint64_t address, uint64_t beats) {
    traffic::windows[0] = {0, 4096};
    try {
        traffic::access(5, 0, 0, address, beats);
    } catch (const traffic::OutsideMemory&) {
        return 1;
    }
    return 0;
}

// 0: in order; 1: a read from an empty stream was caught; 2: data left behind was caught.
int stream_errors() {
    int caught = 0;
    try {
        hls::stream<int, 4> s;
        s.write(7);
        s.write(8);
        if (s.read() != 7 || s.read() != 8 || !s.empty()) return 0;
        s.read();
    } catch (const std::runtime_error&) {
        caught |= 1;
    }
    try {
        hls::stream<int, 4> s;
        s.write(1);
    } catch (const std::runtime_error&) {
        caught |= 2;
    }
    return caught;
}

}  // extern "C"
