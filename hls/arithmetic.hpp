// SPDX-License-Identifier: Apache-2.0
// The written arithmetic in C++: the twin of machine/arithmetic/int8.py, function by function.  docs/arithmetic.md has the
// words.  Compiled with -ffp-contract=off: no fused multiply-add anywhere.
#pragma once

#include <hls_math.h>

#include "types.hpp"

// Infinities become the largest finite number of their sign, and a NaN the largest: what is kept is a number.
inline float saturate(float x) {
#pragma HLS INLINE
    return hls::fabs(x) <= kLargest ? x : x < 0.0f ? -kLargest : kLargest;
}

inline float flush(float x) {
#pragma HLS INLINE
    return hls::fabs(x) < kSmallestNormal ? x * 0.0f : saturate(x);
}

// 2^e for -126 <= e <= 127.
inline float power_of_two(int e) {
#pragma HLS INLINE
    return as_float(static_cast<uint32_t>(e + 127) << 23);
}

// e with 2^(e-1) <= x < 2^e, for normal x > 0; 0 for 0 (as frexp).
inline int exponent_of(float x) {
#pragma HLS INLINE
    const int field = static_cast<int>(as_bits(x) >> 23) & 0xFF;
    return field == 0 ? 0 : field - 126;
}

inline int clamp(int value, int low, int high) {
#pragma HLS INLINE
    return value < low ? low : value > high ? high : value;
}

// Rounds to nearest even.  |x| must fit an int.
inline int round_even(float x) {
#pragma HLS INLINE
    return static_cast<int>(hls::rint(x));
}

// The largest magnitude of `count` numbers.
inline float peak_of(const float* x, int count) {
    float peak = 0.0f;
Peak:
    for (int i = 0; i < count; ++i) {
#pragma HLS PIPELINE II=1
#pragma HLS UNROLL factor=kFloatLanes
        const float magnitude = hls::fabs(x[i]);
        peak = magnitude > peak ? magnitude : peak;
    }
    return peak;
}

// INT8 codes of a row; returns its scale.
inline float quantize_row(const float* x, int count, int8_t* codes) {
    const float peak = peak_of(x, count);
    const bool quiet = peak < kQuiet;
    const float inverse = quiet ? 0.0f : kLevels / peak;
Quantize:
    for (int i = 0; i < count; ++i) {
#pragma HLS PIPELINE II=1
#pragma HLS UNROLL factor=kFloatLanes
        codes[i] = static_cast<int8_t>(clamp(round_even(x[i] * inverse), -127, 127));
    }
    return quiet ? 0.0f : peak / kLevels;
}

inline float rescale(int32_t sum, float a_scale, float w_scale) {
#pragma HLS INLINE
    return flush(static_cast<float>(sum) * flush(a_scale * w_scale));
}

// Rotates the halves of one head in place.  `factor`: cos, then sin, int16 with 14 fraction bits.
inline void rope_head(float* x, const int16_t* factor, int half) {
Rope:
    for (int i = 0; i < half; ++i) {
#pragma HLS PIPELINE II=1
#pragma HLS UNROLL factor=kFloatLanes
        const float cosine = static_cast<float>(factor[i]) * kRopeUnit;
        const float sine = static_cast<float>(factor[half + i]) * kRopeUnit;
        const float low = x[i];
        const float high = x[half + i];
        x[i] = flush(low * cosine - high * sine);
        x[half + i] = flush(high * cosine + low * sine);
    }
}

// 65535 * 2^(-u / 1024), u in 0 .. kExpLimit: the ROM, then a rounding shift.
inline uint16_t exp2_negative(int u) {
#pragma HLS INLINE
    const int shift = u >> kExpBits;
    const uint32_t entry = kExp[u & ((1 << kExpBits) - 1)];
    return static_cast<uint16_t>((entry + ((1u << shift) >> 1)) >> shift);
}

// The argument of exp2_negative for a distance below the peak, in powers of two.
inline int exp_argument(float distance) {
#pragma HLS INLINE
    const float u = hls::rint(distance * static_cast<float>(1 << kExpBits));
    return u < static_cast<float>(kExpLimit) ? static_cast<int>(u) : kExpLimit;
}

// cap * tanh(y / cap), of scores in powers of two.
inline float capped(float y, float cap, float inverse, float twice) {
#pragma HLS INLINE
    const float magnitude = hls::fabs(y);
    const float z = magnitude * inverse;
    const float s = z * z;
    const float small = z * (1.0f + s * (kCapCubic + s * kCapQuintic));
    const float p = static_cast<float>(exp2_negative(exp_argument(magnitude * twice)));
    const float one = static_cast<float>(kOneProbability);
    const float t = z < kCapSmall ? small : (one - p) / (one + p);
    return flush((y < 0.0f ? -t : t) * cap);
}

inline float silu_times(float gate, float up) {
#pragma HLS INLINE
    const uint16_t p = exp2_negative(exp_argument(hls::fabs(gate) * kLog2e));
    const float below = static_cast<float>(p) + static_cast<float>(kOneProbability);
    const float above = gate >= 0.0f ? static_cast<float>(kOneProbability) : static_cast<float>(p);
    return flush((gate * (above / below)) * up);
}
