// SPDX-License-Identifier: Apache-2.0
// The C++ arithmetic and the shims as plain functions, for ctypes.
#include <cstring>

#include "activation.hpp"
#include "arithmetic.hpp"
#include "memory.hpp"
#include "norm.hpp"
#include "weights.hpp"

extern "C" {

void exp2_all(uint16_t* out) {
    for (int u = 0; u <= kExpLimit; ++u) out[u] = exp2_negative(u);
}

// A row of `cols` floats as the vectors that the stages take.
static void write_row(const float* x, int cols, vectors_stream& out) {
    for (int j = 0; j < pieces(cols, kFloatLanes); ++j) {
        vector_t v;
        for (int k = 0; k < kFloatLanes; ++k) v.value[k] = j * kFloatLanes + k < cols ? x[j * kFloatLanes + k] : 0.0f;
        out.write(v);
    }
}

static RowStep step_of(int rows, int cols) {
    RowStep step = {};
    step.tokens = rows;
    step.count = cols;
    return step;
}

void quantize(const float* x, int rows, int cols, int8_t* codes, float* scale) {
    vectors_stream in, kept;
    beats_stream beats;
    scale_stream scales;
    for (int r = 0; r < rows; ++r) write_row(x + r * cols, cols, in);
    quantize_rows(in, step_of(rows, cols), kept, beats, scales);
    for (int r = 0; r < rows; ++r) {
        scale[r] = scales.read();
        for (int b = 0; b < padded(cols, kLaneCols) / kBeatBytes; ++b) {
            const beat_t beat = beats.read();
            for (int k = 0; k < kBeatBytes; ++k) {
                if (b * kBeatBytes + k < cols) codes[r * cols + b * kBeatBytes + k] = byte_of(beat, k);
            }
        }
    }
}

void norm(const float* x, const float* gain, int rows, int cols, float eps, float inverse, float* out) {
    static vector_t gains[kMaxVectors], shift[kMaxVectors];
    RowStep step = step_of(rows, cols);
    step.normed = true;
    step.eps = eps;
    step.inverse = inverse;
    vectors_stream in, others, made, line;
    write_row(gain, cols, line);
    for (int j = 0; j < pieces(cols, kFloatLanes); ++j) gains[j] = line.read();
    for (int r = 0; r < rows; ++r) write_row(x + r * cols, cols, in);
    norm_rows(in, others, gains, shift, step, made);
    for (int i = 0; i < rows * pieces(cols, kFloatLanes); ++i) {
        const vector_t v = made.read();
        const int r = i / pieces(cols, kFloatLanes), j = i % pieces(cols, kFloatLanes);
        for (int k = 0; k < kFloatLanes; ++k) {
            if (j * kFloatLanes + k < cols) out[r * cols + j * kFloatLanes + k] = v.value[k];
        }
    }
}

void silu(const float* gate, const float* up, int count, float* out) {
    for (int i = 0; i < count; ++i) out[i] = activated(isa::kFunctionSilu, gate[i], true, up[i]);
}

void round_all(const float* x, int count, int32_t* out) {
    for (int i = 0; i < count; ++i) out[i] = round_even(x[i]);
}

// Sums of `groups` groups of kLaneCols products, of two tokens at once.
void dot_pairs(const int8_t* a, const int8_t* b, const int8_t* w, int groups, int32_t* low, int32_t* high) {
    for (int g = 0; g < groups; ++g) {
        lanes_t x, y, z;
        std::memcpy(x.value, a + g * kLaneCols, kLaneCols);
        std::memcpy(y.value, b + g * kLaneCols, kLaneCols);
        std::memcpy(z.value, w + g * kLaneCols, kLaneCols);
        dot_pair(x.value, y.value, z.value, low[g], high[g]);
    }
}

// What store_floats makes of `before` when `count` floats go to element `first` on.
void store_row(const float* x, int first, int count, const float* before, float* after) {
    traffic::windows[0] = {0, ~0ull >> 1};
    beat_t memory[64];
    std::memcpy(static_cast<void*>(memory), before, sizeof memory);
    const beat_t kept = memory[first / kFloatsInBeat];
    vectors_stream in;
    write_row(x, count, in);
    store_floats<kMemoryPort>(Role::kActivations, memory, 0, first, count, kept, in);
    std::memcpy(after, static_cast<const void*>(memory), sizeof memory);
}

void rescale_all(const int32_t* sum, const float* a, const float* w, int count, float* out) {
    for (int i = 0; i < count; ++i) out[i] = rescale(sum[i], a[i], w[i]);
}

void rope(float* x, const int16_t* table, int rows, int head_dim) {
    const int half = head_dim / 2;
    for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < half; ++i) {
            turn(x[r * head_dim + i], x[r * head_dim + half + i], table[r * head_dim + i], table[r * head_dim + half + i]);
        }
    }
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
int64_t unpack_prefix_words(const uint8_t* stream, int count, int words, int row_words, const uint8_t* table_bytes, int8_t* out) {
    traffic::windows[0] = {0, ~0ull >> 1};
    static Table table, others[3];
    load_codes(reinterpret_cast<const beat_t*>(table_bytes), 0, table, others[0], others[1], others[2]);
    const uint64_t before = traffic::cycles[static_cast<int>(Loop::kUnpack)];
    try {
        beats_stream beats;
        words_t made;
        load_stream<0>(Role::kWeights, reinterpret_cast<const beat_t*>(stream), 0, count, Loop::kFetch, beats);
        static Streams streams;
        unpack_prefix(beats, count, words, row_words, true, table, streams, made);
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
