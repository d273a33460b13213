// SPDX-License-Identifier: Apache-2.0
// pacq_gemv in C++: what rtl/pacq_gemv.v computes, command by command, for the C simulation.  Not synthesized.
// machine/arithmetic/fp16.py is the same in numpy, machine/storage/groups.py says where everything lies.
#pragma once

namespace pacq_model {

inline std::vector<int64_t> activations;      // [tokens][columns], in units of 2^-24
inline std::vector<float> shared;             // [tokens][groups], their sums

// FP16 in units of 2^-24; infinities and NaN count as the largest finite value.
inline int64_t fixed_of_half(uint16_t half) {
    const int field = (half >> 10) & 31;
    const int64_t mantissa = ((half & 0x3FF) | (field == 31 ? 0x3FF : 0)) | (field != 0 ? 0x400 : 0);
    const int64_t magnitude = mantissa << (field == 0 ? 0 : field == 31 ? 29 : field - 1);
    return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

inline float float_of_half(uint16_t half) { return static_cast<float>(fixed_of_half(half)) * 0x1p-24f; }

struct Command {
    int bits, group, bands, groups, tokens;
    bool minimum, wide, reuse;
    uint64_t address[kPacqPorts];
};

inline Command next_command(commands_stream& in) {
    Command c;
    const beat_t word = in.read();
    const auto format = static_cast<uint32_t>(word.range(31, 0).to_uint64());
    c.bits = static_cast<int>(grouped_bits(format));
    c.group = 1 << grouped_log2_group(format);
    c.minimum = grouped_minimum(format) != 0;
    c.wide = grouped_wide(format) != 0;
    c.bands = static_cast<int>(word.range(47, 32).to_uint64());
    c.groups = static_cast<int>(word.range(63, 48).to_uint64());
    c.tokens = static_cast<int>(word.range(79, 64).to_uint64());
    c.reuse = word.range(80, 80).to_uint64() != 0;
    for (int p = 0; p < kPacqPorts; p += 2) {
        const beat_t pair = in.read();
        c.address[p] = pair.range(63, 0).to_uint64();
        if (p + 1 < kPacqPorts) c.address[p + 1] = pair.range(127, 64).to_uint64();
    }
    const bool width = c.bits == 4 || c.bits == 8 || (c.bits == 2 && kPacqLanes == 8);
    if (!width || c.group < 16 || c.group > 256 || c.bands == 0 || c.groups == 0 || c.groups > 1023 || c.tokens == 0) {
        throw std::runtime_error("pacq_gemv: a command that this design cannot run");
    }
    return c;
}

inline void take_activations(const Command& c, activations_stream& in) {
    const int columns = c.groups * c.group;
    activations.resize(static_cast<std::size_t>(c.tokens) * static_cast<std::size_t>(columns));
    for (std::size_t k = 0; k < activations.size(); k += kBeatBytes / 2) {
        const beat_t word = in.read();
        for (int e = 0; e < kBeatBytes / 2; ++e) activations[k + static_cast<std::size_t>(e)] = fixed_of_half(halfword_of(word, e));
    }
    shared.resize(static_cast<std::size_t>(c.tokens * c.groups));
    for (std::size_t g = 0; g < shared.size(); ++g) {
        int64_t sum = 0;
        for (int k = 0; k < c.group; ++k) sum += activations[g * static_cast<std::size_t>(c.group) + static_cast<std::size_t>(k)];
        shared[g] = static_cast<float>(sum) * 0x1p-24f;
    }
}

// A group's scale and minimum of row `row` of a band.
inline void parameters_of(const Command& c, const uint8_t* at, int row, float& scale, float& minimum) {
    const int each = c.minimum ? 2 : 1;
    float pair[2] = {0.0f, 0.0f};
    for (int n = 0; n < each; ++n) {
        if (c.wide) {
            std::memcpy(&pair[n], at + 4 * (row * each + n), 4);
        } else {
            uint16_t half;
            std::memcpy(&half, at + 2 * (row * each + n), 2);
            pair[n] = float_of_half(half);
        }
    }
    scale = pair[0];
    minimum = pair[1];
}

// One command, from its activations to its results.
inline void serve(GEMV_PORTS, const uint8_t* dram) {
    const Command c = next_command(gemv_command);
    if (!c.reuse) take_activations(c, gemv_activation);
    const int lanes = 16 / c.bits;
    const int tiles = kBandRows / lanes;
    const int zero = c.minimum ? 0 : 1 << (c.bits - 1);
    const int head = (c.wide ? 4 : 2) * (c.minimum ? 2 : 1) * kBeatBytes;  // bytes of parameters before a group's weights
    const int tile_bytes = 2 * c.group;
    const std::size_t group_bytes = static_cast<std::size_t>(head + tiles * tile_bytes);
    const std::size_t port_bytes = group_bytes * static_cast<std::size_t>(c.bands) * static_cast<std::size_t>(c.groups);
    for (int p = 0; p < kPacqPorts; ++p) {
        traffic::access(kPacqPort + p, 0, static_cast<int>(Role::kWeights), c.address[p], port_bytes / kBeatBytes);
    }
    const int cycles = c.group / kGroupColumns > kShortestWindow ? c.group / kGroupColumns : kShortestWindow;
    const int batches = (c.tokens + kPacqTokens - 1) / kPacqTokens;
    count_loop(Loop::kPacq, static_cast<int64_t>(c.bands) * c.groups * tiles * batches * cycles);

    std::vector<float> y(static_cast<std::size_t>(c.tokens) * kBandRows * kPacqPorts);
    int16_t code[256];
    for (int band = 0; band < c.bands; ++band) {
        std::fill(y.begin(), y.end(), 0.0f);
        for (int g = 0; g < c.groups; ++g) {
            for (int p = 0; p < kPacqPorts; ++p) {
                const uint8_t* at = dram + c.address[p] + group_bytes * static_cast<std::size_t>(band * c.groups + g);
                for (int row = 0; row < kBandRows; ++row) {
                    const int tile = row / lanes, lane = row % lanes;
                    uint16_t column[256];
                    std::memcpy(column, at + head + tile * tile_bytes, static_cast<std::size_t>(tile_bytes));
                    for (int k = 0; k < c.group; ++k) {
                        code[k] = static_cast<int16_t>(((column[k] >> (c.bits * lane)) & ((1 << c.bits) - 1)) - zero);
                    }
                    float scale, minimum;
                    parameters_of(c, at, row, scale, minimum);
                    for (int t = 0; t < c.tokens; ++t) {
                        const int64_t* a = activations.data() + (static_cast<std::size_t>(t) * static_cast<std::size_t>(c.groups) + static_cast<std::size_t>(g)) * static_cast<std::size_t>(c.group);
                        int64_t sum = 0;
                        for (int k = 0; k < c.group; ++k) sum += a[k] * static_cast<int64_t>(code[k]);
                        float& out = y[(static_cast<std::size_t>(t) * kBandRows + static_cast<std::size_t>(row)) * kPacqPorts + static_cast<std::size_t>(p)];
                        const float scaled = (static_cast<float>(sum) * 0x1p-24f) * scale;
                        out = out + (scaled + shared[static_cast<std::size_t>(t * c.groups + g)] * minimum);
                    }
                }
            }
        }
        for (int row = 0; row < kBandRows; row += lanes) {
            for (int t = 0; t < c.tokens; ++t) {
                for (int lane = 0; lane < lanes; ++lane) {
                    result_word_t out = 0;
                    for (int p = 0; p < kPacqPorts; ++p) {
                        const float value = y[(static_cast<std::size_t>(t) * kBandRows + static_cast<std::size_t>(row + lane)) * kPacqPorts + static_cast<std::size_t>(p)];
                        out.range(32 * p + 31, 32 * p) = as_bits(value);
                    }
                    gemv_result.write(out);
                }
            }
        }
    }
}

}  // namespace pacq_model
