// SPDX-License-Identifier: Apache-2.0
// TPHS: Q projection, QK^T, softmax and softmax x V as one pipeline, parallel over tokens and sequential over heads.
// Nothing between Q and the context reaches DRAM; K and V are read once for all heads that share them.
#pragma once

#include "attention.hpp"

// The TPHS pipeline of one head and one group: nothing between the stages but streams and one row buffer.
inline void attend_group(Heads& chip, const Group& g, int head_dim, float kappa, address_t target, int stride, int column,
                         beat_t* memory) {
#pragma HLS DATAFLOW
    scores_stream scores;
    weights_stream weights;
    divisors_stream divisors;
    contexts_stream contexts;
    score_group(chip.query, chip.query_scale, chip.key, chip.key_scale, g, head_dim, kappa, scores);
    softmax_group(scores, chip.value_scale, g, chip.row, weights, divisors);
    context_group(weights, divisors, chip.value, g, head_dim, contexts);
    store_group(contexts, g, head_dim, target, stride, column, memory);
}

// Q of one head for all tokens: the array's next tile, rotated and quantized, kept on chip.
inline void project_queries(Heads& heads, Array& array, TileWalk& walk, const Matrix& m, const Run& run, address_t rope,
                            int head_dim, READ_PORTS) {
    const int tokens = static_cast<int>(run.tokens);
    next_tile(walk, array, m, 0, tokens, PASS_READ_PORTS);
    int16_t factor[kMaxHeadDim];
QueryTokens:
    for (int t = 0; t < tokens; ++t) {
        load_rope(constants, rope, static_cast<int>(run.position) + t, head_dim, factor);
        rope_head(array.result[t], factor, head_dim / 2);
        heads.query_scale[t] = quantize_row(array.result[t], head_dim, heads.query[t]);
        count_cycles(Loop::kEpilogue, (head_dim / 2 + kFloatLanes - 1) / kFloatLanes + 2 * ((head_dim + kFloatLanes - 1) / kFloatLanes));
    }
}

// TPHS: parallel over tokens, sequential over heads.
inline void tphs(Heads& chip, Array& array, const Run& run, const Instruction& i, READ_PORTS, beat_t* memory) {
    using namespace isa::tphs;
    const int tokens = static_cast<int>(run.tokens);
    const int seen = static_cast<int>(run.position) + tokens;
    const int dim = static_cast<int>(i.word[head_dim]);
    const int count = static_cast<int>(i.word[heads]);
    const int group = count / static_cast<int>(i.word[kv_heads]);
    const int room = static_cast<int>(i.word[capacity]);
    const Matrix m = matrix_of(run, i, isa::tphs::weights0, count * dim, static_cast<int>(i.word[cols]), dim);
    load_activations(array, memory, address_of(run, i.word[codes]), address_of(run, i.word[scale]), 0, tokens, m.words);
    load_tables(array, run, constants, i, isa::tphs::weights0);
    TileWalk walk = begin_tiles(m);
QueryHeads:
    for (int head = 0; head < count; ++head) {
        const int kv = head / group;
        if (head % group == 0) {
            load_rows(Role::kKv, memory, head_address(address_of(run, i.word[keys]), kv, room, dim), seen, dim, chip.key);
            load_rows(Role::kKv, memory, head_address(address_of(run, i.word[values]), kv, room, dim), seen, dim, chip.value);
            load_floats<kMemoryPort>(Role::kKv, memory, scale_address(address_of(run, i.word[key_scale]), kv, room), seen, chip.key_scale);
            load_floats<kMemoryPort>(Role::kKv, memory, scale_address(address_of(run, i.word[value_scale]), kv, room), seen, chip.value_scale);
        }
        project_queries(chip, array, walk, m, run, address_of(run, i.word[rope]), dim, PASS_READ_PORTS);
    TokenGroups:
        for (int first = 0; first < tokens; first += kTokenLanes) {
            attend_group(chip, group_at(run, first), dim, as_float(i.word[kappa]), address_of(run, i.word[target]),
                         static_cast<int>(i.word[stride]), head * dim, memory);
        }
    }
}
