// SPDX-License-Identifier: Apache-2.0
// The written arithmetic in C++: the twin of machine/arithmetic/int8.py, function by function.  docs/arithmetic.md has the
// words.  Compiled with -ffp-contract=off: no fused multiply-add anywhere.  Comparisons are made on bits, where a loop carries
// them: magnitudes of floats are ordered as their bits are.
#pragma once

#include <hls_math.h>

#include "types.hpp"

constexpr uint32_t kSignBit = 0x80000000u;
constexpr uint32_t kExponentBits = 0x7F800000u;
constexpr uint32_t kLargestBits = 0x7F7FFFFFu;

// Infinities become the largest finite number of their sign, and a NaN the largest: what is kept is a number.
inline float saturate(float x) {
#pragma HLS INLINE
    const uint32_t bits = as_bits(x);
    const bool nan = (bits & ~kSignBit) > kExponentBits;
    const uint32_t largest = (nan ? 0u : bits & kSignBit) | kLargestBits;
    return as_float((bits & kExponentBits) == kExponentBits ? largest : bits);
}

// The same, and subnormals become zero of their sign.
inline float flush(float x) {
#pragma HLS INLINE
    const uint32_t bits = as_bits(saturate(x));
    return as_float((bits & kExponentBits) == 0 ? bits & kSignBit : bits);
}

inline uint32_t magnitude_of(float x) {
#pragma HLS INLINE
    return as_bits(x) & ~kSignBit;
}

// An integer that is ordered as the floats are, -0 below +0.
inline int32_t order_of(float x) {
#pragma HLS INLINE
    const auto bits = static_cast<int32_t>(as_bits(x));
    return bits < 0 ? static_cast<int32_t>(static_cast<uint32_t>(bits) ^ ~kSignBit) : bits;
}

inline float of_order(int32_t order) {
#pragma HLS INLINE
    return as_float(order < 0 ? static_cast<uint32_t>(order) ^ ~kSignBit : static_cast<uint32_t>(order));
}

// 2^e for -126 <= e <= 127.
inline float power_of_two(int e) {
#pragma HLS INLINE
    return as_float(static_cast<uint32_t>(e + 127) << 23);
}

// x * 2^e by its exponent, without a multiplier: what would be below the normal numbers is zero, what would be above is infinite.
inline float times_power(float x, int e) {
#pragma HLS INLINE
    const uint32_t bits = as_bits(x);
    const int exponent = static_cast<int>(bits >> 23) & 0xFF;
    const int moved = exponent + e;
    const uint32_t sign = bits & kSignBit;
    if (exponent == 0xFF) return x;
    if (exponent == 0 || moved <= 0) return as_float(sign);
    if (moved >= 0xFF) return as_float(sign | kExponentBits);
    return as_float((bits & ~kExponentBits) | static_cast<uint32_t>(moved) << 23);
}

// e with 2^(e-1) <= x < 2^e, for normal x > 0 of these bits; 0 for 0 (as frexp).
inline int exponent_of(uint32_t bits) {
#pragma HLS INLINE
    const int field = static_cast<int>(bits >> 23) & 0xFF;
    return field == 0 ? 0 : field - 126;
}

inline int clamp(int value, int low, int high) {
#pragma HLS INLINE
    return value < low ? low : value > high ? high : value;
}

// Rounds to nearest even, by the bits: a library's rounding of ties is not relied upon.  |x| < 2^23.
inline int round_even(float x) {
#pragma HLS INLINE
    const uint32_t bits = as_bits(x);
    const int exponent = static_cast<int>(bits >> 23) & 0xFF;
    const int shift = exponent < 126 ? 25 : 150 - exponent;  // below a half nothing is left
    const uint32_t mantissa = (bits & 0x7FFFFFu) | 0x800000u;
    const uint32_t whole = mantissa >> (shift & 31);
    const uint32_t doubled = mantissa << 1 >> (shift & 31);  // whole, and the bit below it
    const bool more = (mantissa & ((1u << ((shift - 1) & 31)) - 1u)) != 0;
    const bool up = (doubled & 1u) != 0 && (more || (whole & 1u) != 0);
    const auto rounded = static_cast<int>(whole + (up && exponent >= 126 ? 1u : 0u));
    return (bits & kSignBit) != 0 ? -rounded : rounded;
}

// The bits of the largest magnitude of a vector: a tree of integer comparisons.
inline uint32_t peak_of(const vector_t& x) {
#pragma HLS INLINE
    uint32_t most[kFloatLanes];
#pragma HLS ARRAY_PARTITION variable=most complete
    for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
        most[k] = magnitude_of(x.value[k]);
    }
    for (int step = 1; step < kFloatLanes; step *= 2) {
#pragma HLS UNROLL
        for (int k = 0; k + step < kFloatLanes; k += 2 * step) {
#pragma HLS UNROLL
            most[k] = most[k + step] > most[k] ? most[k + step] : most[k];
        }
    }
    return most[0];
}

// What a row is multiplied with before it is rounded to INT8, and the scale of its codes, from its peak.
struct Levels {
    float inverse, scale;
};

inline Levels levels_of(uint32_t peak_bits) {
#pragma HLS INLINE
    const float peak = as_float(peak_bits);
    const bool quiet = peak < kQuiet;
    Levels levels;
    levels.inverse = quiet ? 0.0f : kLevels / peak;
    levels.scale = quiet ? 0.0f : peak / kLevels;
    return levels;
}

inline int8_t code_of(float x, float inverse) {
#pragma HLS INLINE
    return static_cast<int8_t>(clamp(round_even(x * inverse), -127, 127));
}

inline float rescale(int32_t sum, float a_scale, float w_scale) {
#pragma HLS INLINE
    return flush(static_cast<float>(sum) * flush(a_scale * w_scale));
}

// A pair of a head's halves, turned in place.  `cosine`, `sine`: int16 with 14 fraction bits.
inline void turn(float& low, float& high, int16_t cosine, int16_t sine) {
#pragma HLS INLINE
    const float c = times_power(static_cast<float>(cosine), -kRopeBits);
    const float s = times_power(static_cast<float>(sine), -kRopeBits);
    const float first = flush(low * c - high * s);
    high = flush(high * c + low * s);
    low = first;
}

// 65535 * 2^(-u / 1024), u in 0 .. kExpLimit: the ROM, then a rounding shift.
inline uint16_t exp2_negative(int u) {
#pragma HLS INLINE
    const int shift = u >> kExpBits;
    const uint32_t entry = kExp[u & ((1 << kExpBits) - 1)];
    return static_cast<uint16_t>((entry + ((1u << shift) >> 1)) >> shift);
}

// The argument of exp2_negative for a distance below the peak, in powers of two; of one above it, the limit.
inline int exp_argument(float distance) {
#pragma HLS INLINE
    const float u = times_power(distance, kExpBits);
    return as_bits(u) < as_bits(static_cast<float>(kExpLimit)) ? round_even(u) : kExpLimit;
}

// cap * tanh(y / cap), of scores in powers of two.
inline float capped(float y, float cap, float inverse, float twice) {
#pragma HLS INLINE
    const float magnitude = as_float(magnitude_of(y));
    const float z = magnitude * inverse;
    const float s = z * z;
    const float small = z * (1.0f + s * (kCapCubic + s * kCapQuintic));
    const float p = static_cast<float>(exp2_negative(exp_argument(magnitude * twice)));
    const float one = static_cast<float>(kOneProbability);
    const float t = z < kCapSmall ? small : (one - p) / (one + p);
    return flush((y < 0.0f ? -t : t) * cap);
}

// The integer sums of a pair of tokens with the same weights.  Two products share one DSP48E2: high * 2^18 + low, and eight of them in a
// cascade stay apart, since 8 x 127 x 128 is below 2^17.
template <int kCount>
inline void dot_pair(const int8_t (&a)[kCount], const int8_t (&b)[kCount], const int8_t (&w)[kCount], int32_t& low, int32_t& high) {
#pragma HLS INLINE
    static_assert(kCount % 8 == 0, "a cascade has eight slices");
    low = high = 0;
    for (int c = 0; c < kCount; c += 8) {
#pragma HLS UNROLL
        int64_t sum = 0;  // 48 bits
        for (int k = c; k < c + 8; ++k) {
#pragma HLS UNROLL
            sum += static_cast<int64_t>(static_cast<int32_t>(b[k]) * (1 << 18) + a[k]) * w[k];
        }
        const int32_t below = static_cast<int32_t>((sum + (1 << 17)) & ((1 << 18) - 1)) - (1 << 17);
        low += below;
        high += static_cast<int32_t>((sum - below) >> 18);
    }
}
