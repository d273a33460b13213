// SPDX-License-Identifier: Apache-2.0
// Attention, twice over the same arithmetic: TPHS, where nothing between Q and the context reaches DRAM, and GEMM,
// where queries, scores and probabilities each make the trip.  K and V are read once for all heads that share them.
#pragma once

#include "linear.hpp"

// On-chip rows of one KV head, and of kTokenLanes tokens on their way through the softmax.
struct Heads {
    int8_t key[kContext][kMaxHeadDim];
    int8_t value[kContext][kMaxHeadDim];
    float key_scale[kContext];
    float value_scale[kContext];
    int8_t query[kBlock][kMaxHeadDim];
    float query_scale[kBlock];
    float score[kTokenLanes][kContext];
    uint16_t weight[kTokenLanes][kContext];
};

// What is divided by at the end: the sum of probabilities, and the power of two of V's scales.
struct Divisor {
    float total;
    int exponent;
};

// `count` INT8 rows of one head from DRAM.
inline void load_rows(const beat_t* memory, address_t address, int count, int head_dim, int8_t rows[][kMaxHeadDim]) {
    const int width = padded(head_dim, kBeatBytes);
LoadRows:
    for (int j = 0; j < count; ++j) {
        for (int i = 0; i < width; i += kBeatBytes) {
#pragma HLS PIPELINE II=1
            const beat_t beat = load<kMemoryPort>(memory, address + static_cast<address_t>(j) * width + i);
            for (int k = 0; k < kBeatBytes; ++k) {
#pragma HLS UNROLL
                rows[j][i + k] = byte_of(beat, k);
            }
        }
    }
}

inline address_t head_address(address_t base, int head, int capacity, int head_dim) {
#pragma HLS INLINE
    return base + static_cast<address_t>(head) * capacity * padded(head_dim, kBeatBytes);
}

inline address_t scale_address(address_t base, int head, int capacity) {
#pragma HLS INLINE
    return base + static_cast<address_t>(head) * padded(capacity, kFloatsInBeat) * 4;
}

// QK^T of one token: a key a cycle.  Scores are exponents of two.
inline void score_row(const Heads& heads, int token, int visible, int head_dim, float kappa, float* score) {
    const float q = flush(heads.query_scale[token] * kappa);
Keys:
    for (int j = 0; j < visible; ++j) {
#pragma HLS PIPELINE II=1
        int32_t sum = 0;
        for (int k = 0; k < head_dim; ++k) {
#pragma HLS UNROLL factor=kMaxHeadDim
            sum += static_cast<int32_t>(heads.query[token][k]) * static_cast<int32_t>(heads.key[j][k]);
        }
        score[j] = static_cast<float>(sum) * flush(q * heads.key_scale[j]);
    }
}

// MAX, then EXP, with V's scales folded into the probabilities.
inline Divisor softmax_row(const float* score, const float* value_scale, int visible, uint16_t* weight) {
    float peak = score[0];
    float largest = 0.0f;
Max:
    for (int j = 0; j < visible; ++j) {
#pragma HLS PIPELINE II=1
        peak = score[j] > peak ? score[j] : peak;
        largest = value_scale[j] > largest ? value_scale[j] : largest;
    }
    Divisor divisor;
    divisor.exponent = exponent_of(largest);
    const float unit = power_of_two(-divisor.exponent);
    uint32_t total = 0;
Exp:
    for (int j = 0; j < visible; ++j) {
#pragma HLS PIPELINE II=1
        const uint16_t p = exp2_negative(exp_argument(peak - score[j]));
        total += p;
        weight[j] = static_cast<uint16_t>(round_even(static_cast<float>(p) * flush(value_scale[j] * unit)));
    }
    divisor.total = static_cast<float>(total);
    return divisor;
}

// Softmax x V of one token, then DIV: a value row a cycle, one accumulator an element.
inline void context_row(const Heads& heads, const uint16_t* weight, int visible, int head_dim, const Divisor& divisor, float* out) {
    int64_t sum[kMaxHeadDim];
#pragma HLS ARRAY_PARTITION variable=sum complete
    for (int k = 0; k < kMaxHeadDim; ++k) {
#pragma HLS UNROLL
        sum[k] = 0;
    }
Values:
    for (int j = 0; j < visible; ++j) {
#pragma HLS PIPELINE II=1
        for (int k = 0; k < head_dim; ++k) {
#pragma HLS UNROLL factor=kMaxHeadDim
            sum[k] += static_cast<int32_t>(weight[j]) * static_cast<int32_t>(heads.value[j][k]);
        }
    }
    const float unit = power_of_two(divisor.exponent);
Div:
    for (int k = 0; k < head_dim; ++k) {
#pragma HLS PIPELINE II=1
        out[k] = flush((static_cast<float>(sum[k]) / divisor.total) * unit);
    }
}

// Q of one head for all tokens: the array's next tile, rotated and quantized, kept on chip.
inline void project_queries(Heads& heads, Array& array, TileWalk& walk, const Matrix& m, const Run& run, const Ports& ports,
                            address_t rope, int head_dim) {
    const int tokens = static_cast<int>(run.tokens);
    next_tile(walk, array, m, ports, 0, tokens);
    int16_t factor[kMaxHeadDim];
QueryTokens:
    for (int t = 0; t < tokens; ++t) {
        load_rope(ports.constants, rope, static_cast<int>(run.position) + t, head_dim, factor);
        rope_head(array.result[t], factor, head_dim / 2);
        heads.query_scale[t] = quantize_row(array.result[t], head_dim, heads.query[t]);
    }
}

// TPHS: parallel over tokens, sequential over heads.
inline void tphs(Heads& chip, Array& array, const Run& run, const Instruction& i, const Ports& ports) {
    using namespace isa::tphs;
    const int tokens = static_cast<int>(run.tokens);
    const int seen = static_cast<int>(run.position) + tokens;
    const int dim = static_cast<int>(i.word[head_dim]);
    const int count = static_cast<int>(i.word[heads]);
    const int group = count / static_cast<int>(i.word[kv_heads]);
    const int room = static_cast<int>(i.word[capacity]);
    const Matrix m = matrix_of(run, i, weights0, count * dim, static_cast<int>(i.word[cols]), dim);
    load_activations(array, ports.memory, address_of(run, i.word[codes]), address_of(run, i.word[scale]), tokens, m.words);
    load_tables(array, run, ports.constants, i, weights0);
    TileWalk walk = begin_tiles(m);
QueryHeads:
    for (int head = 0; head < count; ++head) {
        const int kv = head / group;
        if (head % group == 0) {
            load_rows(ports.memory, head_address(address_of(run, i.word[keys]), kv, room, dim), seen, dim, chip.key);
            load_rows(ports.memory, head_address(address_of(run, i.word[values]), kv, room, dim), seen, dim, chip.value);
            load_floats<kMemoryPort>(ports.memory, scale_address(address_of(run, i.word[key_scale]), kv, room), seen, chip.key_scale);
            load_floats<kMemoryPort>(ports.memory, scale_address(address_of(run, i.word[value_scale]), kv, room), seen, chip.value_scale);
        }
        project_queries(chip, array, walk, m, run, ports, address_of(run, i.word[rope]), dim);
    TokenGroups:
        for (int first = 0; first < tokens; first += kTokenLanes) {
        Lanes:
            for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
                const int t = first + lane;
                if (t < tokens) {
                    const int visible = static_cast<int>(run.position) + t + 1;
                    float out[kMaxHeadDim];
                    score_row(chip, t, visible, dim, as_float(i.word[kappa]), chip.score[lane]);
                    const Divisor divisor = softmax_row(chip.score[lane], chip.value_scale, visible, chip.weight[lane]);
                    context_row(chip, chip.weight[lane], visible, dim, divisor, out);
                    const address_t at = address_of(run, i.word[target]) + static_cast<address_t>(t) * i.word[stride] * 4;
                    store_floats<kMemoryPort>(ports.memory, at, head * dim, dim, out);
                }
            }
        }
    }
}

// GEMM dataflow, step one: queries from DRAM, scores to DRAM.
inline void scores(Heads& chip, const Run& run, const Instruction& i, beat_t* memory) {
    using namespace isa::scores;
    const int tokens = static_cast<int>(run.tokens);
    const int seen = static_cast<int>(run.position) + tokens;
    const int dim = static_cast<int>(i.word[head_dim]);
    const int group = static_cast<int>(i.word[heads]) / static_cast<int>(i.word[kv_heads]);
    const int room = static_cast<int>(i.word[capacity]);
    const int rows = static_cast<int>(i.word[block]);
ScoreHeads:
    for (int head = 0; head < static_cast<int>(i.word[heads]); ++head) {
        const int kv = head / group;
        if (head % group == 0) {
            load_rows(memory, head_address(address_of(run, i.word[keys]), kv, room, dim), seen, dim, chip.key);
            load_floats<kMemoryPort>(memory, scale_address(address_of(run, i.word[key_scale]), kv, room), seen, chip.key_scale);
        }
        load_rows(memory, head_address(address_of(run, i.word[queries]), head, rows, dim), tokens, dim, chip.query);
        load_floats<kMemoryPort>(memory, scale_address(address_of(run, i.word[query_scale]), head, rows), tokens, chip.query_scale);
    ScoreTokens:
        for (int t = 0; t < tokens; ++t) {
            const int visible = static_cast<int>(run.position) + t + 1;
            score_row(chip, t, visible, dim, as_float(i.word[kappa]), chip.score[0]);
            const address_t at = address_of(run, i.word[target]) + (static_cast<address_t>(head) * rows + t) * i.word[row] * 4;
            store_floats<kMemoryPort>(memory, at, 0, visible, chip.score[0]);
        }
    }
}

// Step two: scores from DRAM, folded probabilities and divisors to DRAM.
inline void softmax(Heads& chip, const Run& run, const Instruction& i, beat_t* memory) {
    using namespace isa::softmax;
    const int tokens = static_cast<int>(run.tokens);
    const int seen = static_cast<int>(run.position) + tokens;
    const int group = static_cast<int>(i.word[heads]) / static_cast<int>(i.word[kv_heads]);
    const int room = static_cast<int>(i.word[capacity]);
SoftmaxHeads:
    for (int head = 0; head < static_cast<int>(i.word[heads]); ++head) {
        if (head % group == 0) {
            const address_t scale = scale_address(address_of(run, i.word[value_scale]), head / group, room);
            load_floats<kMemoryPort>(memory, scale, seen, chip.value_scale);
        }
    SoftmaxTokens:
        for (int t = 0; t < tokens; ++t) {
            const int visible = static_cast<int>(run.position) + t + 1;
            const address_t place = static_cast<address_t>(head) * i.word[block] + t;
            load_floats<kMemoryPort>(memory, address_of(run, i.word[isa::softmax::scores]) + place * i.word[row] * 4, visible, chip.score[0]);
            const Divisor d = softmax_row(chip.score[0], chip.value_scale, visible, chip.weight[0]);
        StoreWeights:
            for (int j = 0; j < visible; j += kBeatBytes / 2) {
#pragma HLS PIPELINE II=1
                beat_t beat = 0;
                for (int k = 0; k < kBeatBytes / 2; ++k) {
#pragma HLS UNROLL
                    if (j + k < visible) beat.range(16 * k + 15, 16 * k) = chip.weight[0][j + k];
                }
                store<kMemoryPort>(memory, address_of(run, i.word[target]) + place * i.word[row] * 2 + j * 2, beat);
            }
            beat_t beat = 0;
            set_word(beat, 0, as_bits(d.total));
            set_word(beat, 1, static_cast<uint32_t>(d.exponent));
            store<kMemoryPort>(memory, address_of(run, i.word[divisor]) + place * kBeatBytes, beat);
        }
    }
}

// Step three: probabilities and V from DRAM, the context to DRAM.
inline void context(Heads& chip, const Run& run, const Instruction& i, beat_t* memory) {
    using namespace isa::context;
    const int tokens = static_cast<int>(run.tokens);
    const int seen = static_cast<int>(run.position) + tokens;
    const int dim = static_cast<int>(i.word[head_dim]);
    const int group = static_cast<int>(i.word[heads]) / static_cast<int>(i.word[kv_heads]);
    const int room = static_cast<int>(i.word[capacity]);
ContextHeads:
    for (int head = 0; head < static_cast<int>(i.word[heads]); ++head) {
        if (head % group == 0) {
            load_rows(memory, head_address(address_of(run, i.word[values]), head / group, room, dim), seen, dim, chip.value);
        }
    ContextTokens:
        for (int t = 0; t < tokens; ++t) {
            const int visible = static_cast<int>(run.position) + t + 1;
            const address_t place = static_cast<address_t>(head) * i.word[block] + t;
            const address_t source = address_of(run, i.word[weights]) + place * i.word[row] * 2;
        LoadWeights:
            for (int j = 0; j < visible; j += kBeatBytes / 2) {
#pragma HLS PIPELINE II=1
                const beat_t beat = load<kMemoryPort>(memory, source + static_cast<address_t>(j) * 2);
                for (int k = 0; k < kBeatBytes / 2; ++k) {
#pragma HLS UNROLL
                    if (j + k < visible) chip.weight[0][j + k] = static_cast<uint16_t>(beat.range(16 * k + 15, 16 * k).to_uint64());
                }
            }
            const beat_t beat = load<kMemoryPort>(memory, address_of(run, i.word[divisor]) + place * kBeatBytes);
            Divisor d;
            d.total = as_float(word_of(beat, 0));
            d.exponent = static_cast<int>(word_of(beat, 1));
            float out[kMaxHeadDim];
            context_row(chip, chip.weight[0], visible, dim, d, out);
            const address_t at = address_of(run, i.word[target]) + static_cast<address_t>(t) * i.word[stride] * 4;
            store_floats<kMemoryPort>(memory, at, head * dim, dim, out);
        }
    }
}
