// SPDX-License-Identifier: Apache-2.0
// Activations of MLPs: the twin of machine/arithmetic/activation.py.
#pragma once

#include "arithmetic.hpp"
#include "isa.hpp"

// What the sigmoid is taken of: the gate times a polynomial of its square, one for all functions.
inline float steepness(int function, float g, float square) {
#pragma HLS INLINE
    float c0 = 1.0f, c1 = 0.0f, c2 = 0.0f, c3 = 0.0f;
    uint32_t most = kLargestBits;
    if (function == isa::kFunctionQuickGelu) c0 = kQuick;
    if (function == isa::kFunctionGeluTanh) {
        c0 = kCubic0;
        c1 = kCubic1;
    }
    if (function == isa::kFunctionGelu) {
        c0 = kGelu0;
        c1 = kGelu1;
        c2 = kGelu2;
        c3 = kGelu3;
        most = as_bits(kGeluMost);
    }
    const uint32_t bits = as_bits(square);
    const float s = as_float(bits < most ? bits : most);
    return g * (c0 + s * (c1 + s * (c2 + s * c3)));
}

// function(gate), or that times `up`.
inline float activated(int function, float gate, bool gated, float up) {
#pragma HLS INLINE
    const bool negative = (as_bits(gate) & kSignBit) != 0;
    float y = negative ? 0.0f : gate;
    float inner = gate;  // what the sigmoid is taken of
    if constexpr (kAllActivations) {
        const float square = gate * gate;
        inner = steepness(function, gate, square);
        if (function == isa::kFunctionRelu2) y = negative ? 0.0f : square;
    }
    if (function != isa::kFunctionRelu && function != isa::kFunctionRelu2) {
        const uint16_t p = exp2_negative(exp_argument(as_float(magnitude_of(inner)) * kLog2e));
        const float part = static_cast<float>(p), one = static_cast<float>(kOneProbability);
        y = gate * ((negative ? part : one) / (part + one));
    }
    return flush(gated ? y * up : y);
}

inline int function_of(uint32_t options) {
#pragma HLS INLINE
    return static_cast<int>(options >> isa::kFunctionShift) & 15;
}
