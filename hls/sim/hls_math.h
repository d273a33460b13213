// SPDX-License-Identifier: Apache-2.0
// The four functions of hls_math.h that the kernels use; all are exactly rounded in both.
#pragma once

#include <cmath>

namespace hls {

inline float fabs(float x) { return __builtin_fabsf(x); }
inline float rint(float x) { return __builtin_rintf(x); }
inline float sqrt(float x) { return __builtin_sqrtf(x); }

}  // namespace hls
