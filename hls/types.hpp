// SPDX-License-Identifier: Apache-2.0
// The words that travel between kernels, and the state of one program run.  No arithmetic.
#pragma once

#include <ap_int.h>
#include <hls_stream.h>

#include <cstdint>

#include "config.hpp"
#include "facts.hpp"
#include "isa.hpp"

using beat_t = ap_uint<8 * kBeatBytes>;
using address_t = uint32_t;  // beats: 64 GB

constexpr int kFloatsInBeat = kBeatBytes / 4;
constexpr int kMaxWords = kMaxCols / kLaneCols;
constexpr int kMaxVectors = kMaxCols / kFloatLanes;
constexpr int kBeatsInVector = kFloatLanes / kFloatsInBeat;
constexpr int kVectorsInBeat = kBeatBytes / kFloatLanes;  // of codes

// Each of these is one word of a memory or a stream: it is read and written whole.

// kLaneCols weights, or as many activations, of one row.
struct lanes_t {
    int8_t value[kLaneCols];
};
// As many elements of a row as the float lanes take in a cycle; zeros where the row has ended.
struct vector_t {
    float value[kFloatLanes];
};
// One row of a head in INT8; zeros beyond the head.
struct head_t {
    int8_t value[kMaxHeadDim];
};

using vectors_stream = hls::stream<vector_t, 64>;
using beats_stream = hls::stream<beat_t, 64>;

// The registers and the chunk table of one run.
struct Run {
    uint32_t position;
    uint32_t tokens;
    uint32_t first_logit;
    uint32_t ahead;  // tokens that the engine chooses and goes on to by itself
    uint32_t made;   // of them, so far
    address_t base[kPages];
};

// One instruction, decoded no further than into words.
struct Instruction {
    uint32_t word[isa::kWords];
};

inline float as_float(uint32_t bits) {
#pragma HLS INLINE
    union {
        uint32_t u;
        float f;
    } both;
    both.u = bits;
    return both.f;
}

inline uint32_t as_bits(float value) {
#pragma HLS INLINE
    union {
        uint32_t u;
        float f;
    } both;
    both.f = value;
    return both.u;
}

constexpr int padded(int n, int unit) { return (n + unit - 1) / unit * unit; }
constexpr int pieces(int n, int unit) { return (n + unit - 1) / unit; }
// Bits that hold the numbers 0 .. n.
constexpr int bits_for(int64_t n) { return n == 0 ? 0 : 1 + bits_for(n / 2); }
