// SPDX-License-Identifier: Apache-2.0
// The words that travel between kernels, and the state of one program run.  No arithmetic.
#pragma once

#include <ap_int.h>
#include <hls_stream.h>

#include <cstdint>

#include "config.hpp"
#include "isa.hpp"

using beat_t = ap_uint<8 * kBeatBytes>;
using address_t = uint64_t;  // bytes

constexpr int kFloatsInBeat = kBeatBytes / 4;
constexpr int kMaxWords = kMaxCols / kLaneCols;
constexpr int kPages = 256;  // memory chunks that a slot can name

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

// Numbers of the ports, by which traffic is counted.
constexpr int kConstantsPort = 4;
constexpr int kMemoryPort = 5;
constexpr int kPacqPort = 6;  // and the three behind it
constexpr int kPorts = 10;

// What the bytes of an access are, by which traffic is counted: weights with all their tables and scales, activations
// between layers, the KV cache, intermediates of attention (Q, S, P), and the program.
enum class Role : int { kWeights, kActivations, kKv, kIntermediates, kProgram };

// The pipelined loops whose iterations are counted.
enum class Loop : int { kFetch, kUnpack, kMultiply, kRescale, kEpilogue, kNorm, kScores, kSoftmax, kContext, kPacq, kFeed, kResults };

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
