// SPDX-License-Identifier: Apache-2.0
// Activations of MLPs: the twin of machine/arithmetic/activation.py.
#pragma once

#include "arithmetic.hpp"
#include "isa.hpp"

// What the sigmoid is taken of.
inline float steepness(int function, float g) {
#pragma HLS INLINE
    if (function == isa::kFunctionQuickGelu) return g * kQuick;
    if (function == isa::kFunctionGeluTanh) return g * (kCubic0 + kCubic1 * (g * g));
    if (function == isa::kFunctionGelu) {
        const float square = g * g;
        const float s = square < kGeluMost ? square : kGeluMost;
        return g * (kGelu0 + s * (kGelu1 + s * (kGelu2 + s * kGelu3)));
    }
    return g;
}

// function(gate), or that times `up`.
inline float activated(int function, float gate, bool gated, float up) {
#pragma HLS INLINE
    float y = gate > 0.0f ? gate : 0.0f;
    if (function == isa::kFunctionRelu2) {
        y = y * y;
    } else if (function != isa::kFunctionRelu) {
        const uint16_t p = exp2_negative(exp_argument(as_float(magnitude_of(steepness(function, gate))) * kLog2e));
        const float below = static_cast<float>(p) + static_cast<float>(kOneProbability);
        const float above = gate >= 0.0f ? static_cast<float>(kOneProbability) : static_cast<float>(p);
        y = gate * (above / below);
    }
    return flush(gated ? y * up : y);
}

inline int function_of(uint32_t options) {
#pragma HLS INLINE
    return static_cast<int>(options >> isa::kFunctionShift) & 15;
}
