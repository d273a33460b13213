// SPDX-License-Identifier: Apache-2.0
// The engine beside, in C++, for the C simulation: pacq_gemv or column_gemm.  Not synthesized.
#pragma once

#include <cstring>
#include <stdexcept>
#include <vector>

#include "columns.hpp"
#include "pacq.hpp"

namespace gemv_model {

inline const uint8_t* dram;  // of the run; addresses are offsets into it

// One command, from its activations to its results.
inline void serve(GEMV_PORTS) {
    if constexpr (kColumns) {
        column_model::serve(PASS_GEMV_PORTS, dram);
    } else {
        pacq_model::serve(PASS_GEMV_PORTS, dram);
    }
}

}  // namespace gemv_model
