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
using address_t = uint64_t;  // bytes

constexpr int kFloatsInBeat = kBeatBytes / 4;
constexpr int kMaxWords = kMaxCols / kLaneCols;

// kLaneCols weights, or as many activations, of one row.
struct lanes_t {
    int8_t value[kLaneCols];
};

// The registers and the chunk table of one run.
struct Run {
    uint32_t position;
    uint32_t tokens;
    uint32_t first_logit;
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
