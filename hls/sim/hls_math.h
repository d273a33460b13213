// SPDX-License-Identifier: Apache-2.0
// The function of hls_math.h that the kernels use; it is exactly rounded in both.
#pragma once

#include <cmath>

namespace hls {

inline float sqrt(float x) { return __builtin_sqrtf(x); }

}  // namespace hls
