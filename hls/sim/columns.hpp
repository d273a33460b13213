// SPDX-License-Identifier: Apache-2.0
// column_gemm in C++: what rtl/column_gemm.v computes, command by command, for the C simulation.  Not synthesized.
// machine/storage/columns.py says where everything lies.
#pragma once

namespace column_model {

// One command, from its codes to its sums.
inline void serve(GEMV_PORTS, const uint8_t* dram) {
    const beat_t word = gemv_command.read();
    const auto beats = static_cast<int>(word.range(15, 0).to_uint64());
    const auto words = static_cast<int>(word.range(31, 16).to_uint64());
    const auto tokens = static_cast<int>(word.range(47, 32).to_uint64());
    const bool listed = word.range(48, 48).to_uint64() != 0;
    const uint64_t address = gemv_command.read().range(63, 0).to_uint64();
    if (beats == 0 || words == 0 || words * kBeatBytes > kMaxCols || tokens == 0 || tokens > kColumnTokens || (listed && tokens != 1)) {
        throw std::runtime_error("column_gemm: a command that this design cannot run");
    }
    const int cols = words * kBeatBytes;
    std::vector<int8_t> codes(static_cast<std::size_t>(tokens * cols));
    for (int n = 0; n < tokens * words; ++n) {
        const beat_t some = gemv_activation.read();
        for (int k = 0; k < kBeatBytes; ++k) codes[static_cast<std::size_t>(n * kBeatBytes + k)] = byte_of(some, k);
    }
    std::vector<int> columns;
    for (int k = 0; k < cols; ++k) {
        if (!listed || codes[static_cast<std::size_t>(k)] != 0) columns.push_back(k);
    }
    // The last group of a list is filled up with column 0, whose code there is 0.
    const int live = static_cast<int>(columns.size());
    const int groups = live == 0 ? 1 : pieces(live, kColumnPorts);
    for (int n = live; n < groups * kColumnPorts; ++n) columns.push_back(0);
    count_loop(Loop::kColumns, static_cast<int64_t>(groups) * beats);
    std::vector<int32_t> sums;
    uint64_t at = address;
    for (int done = 0; done < beats; done += kStripe) {
        const int some = beats - done < kStripe ? beats - done : kStripe;
        const int rows = some * kBeatBytes;
        sums.assign(static_cast<std::size_t>(tokens * rows), 0);
        for (int n = 0; n < groups * kColumnPorts; ++n) {
            const int column = columns[static_cast<std::size_t>(n)];
            const uint64_t from = at + static_cast<uint64_t>(column) * static_cast<uint64_t>(rows);
            traffic::access(kColumnsPort + n % kColumnPorts, 0, static_cast<int>(Role::kWeights), from, static_cast<uint64_t>(some));
            const auto* weight = reinterpret_cast<const int8_t*>(dram + from);
            for (int t = 0; t < tokens; ++t) {
                const int32_t code = n < live ? codes[static_cast<std::size_t>(t * cols + column)] : 0;
                int32_t* sum = sums.data() + static_cast<std::size_t>(t * rows);
                for (int r = 0; r < rows; ++r) sum[r] += code * weight[r];
            }
        }
        for (int s = 0; s < some; ++s) {
            for (int t = 0; t < tokens; ++t) {
                for (int first = 0; first < kBeatBytes; first += kColumnSums) {
                    result_word_t out = 0;
                    for (int k = 0; k < kTogether; ++k) {
                        out.range(32 * k + 31, 32 * k) = static_cast<uint32_t>(sums[static_cast<std::size_t>(t * rows + s * kBeatBytes + first + k)]);
                    }
                    gemv_result.write(out);
                }
            }
        }
        at += static_cast<uint64_t>(cols) * static_cast<uint64_t>(rows);
    }
}

}  // namespace column_model
