// SPDX-License-Identifier: Apache-2.0
// TPHS: Q projection, QK^T, softmax and softmax x V as one pipeline, parallel over tokens and sequential over heads.
// Nothing between Q and the results reaches DRAM; K and V are read once for all heads that share them.
#pragma once

#include "attention.hpp"

// The TPHS pipeline of one head and one group: nothing between the stages but streams and one row buffer.
inline void attend_group(const Cache& cache, Heads& chip, const Group& g, int head_dim, float kappa, float cap, address_t target, int stride,
                         int column, beat_t* memory) {
#pragma HLS DATAFLOW
    scores_stream scores;
    weights_stream weights;
    divisors_stream divisors;
    mixes_stream mixes;
    score_group(chip.query, chip.query_scale, cache.key, cache.key_scale, g, head_dim, kappa, cap, scores);
    softmax_group(scores, cache.value_scale, g, chip.row, weights, divisors);
    mix_group(weights, divisors, cache.value, g, head_dim, mixes);
    store_group(mixes, g, head_dim, target, stride, column, memory);
}

// Q of one head for all tokens: the array's next tile, rotated and quantized, to the rows from `first` on.
inline void project_queries(Heads& heads, Array& array, TileWalk& walk, const Matrix& m, const Run& run, const Instruction& i,
                            int first, READ_PORTS, results_stream& pacq_result) {
    using namespace isa::tphs;
    const int tokens = static_cast<int>(run.tokens);
    const int head_dim = static_cast<int>(i.word[isa::tphs::head_dim]);
    const address_t rope = address_of(run, i.word[isa::tphs::rope]);
    const int tile = walk.tile;
    some_rows(walk, array, m, i.word[format], 0, tokens, PASS_READ_PORTS, pacq_result);
    add_bias(array, run, constants, i.word[options], i.word[bias], tile, head_dim, head_dim, 0, tokens);
    norm_heads(array, run, constants, i.word[options], i.word[gain], as_float(i.word[eps]), head_dim);
    int16_t factor[kMaxHeadDim];
QueryTokens:
    for (int t = 0; t < tokens; ++t) {
        load_rope(constants, rope, static_cast<int>(run.position) + t, head_dim, factor);
        rope_head(array.result[t], factor, head_dim / 2);
        heads.query_scale[first + t] = quantize_row(array.result[t], head_dim, heads.query[first + t]);
        count_cycles(Loop::kEpilogue, (head_dim / 2 + kFloatLanes - 1) / kFloatLanes + 2 * ((head_dim + kFloatLanes - 1) / kFloatLanes));
    }
}

// Rows and scales of K or V, for as many tokens as are in the cache.
template <int kPort>
inline void load_head(const beat_t* port, address_t rows, address_t scales, int seen, int head_dim, int8_t codes[kContext][kMaxHeadDim],
                      float scale[kContext]) {
    load_rows<kPort>(Role::kKv, port, rows, seen, head_dim, codes);
    load_floats<kPort>(Role::kKv, port, scales, seen, scale);
}

// K over the reading port and V over the other, at once.  Nothing beyond the last head.
inline void load_cache(Cache& cache, const Run& run, const Instruction& i, int kv, const beat_t* constants, const beat_t* memory) {
#pragma HLS DATAFLOW
    using namespace isa::tphs;
    const int seen = kv < static_cast<int>(i.word[kv_heads]) ? static_cast<int>(run.position) + static_cast<int>(run.tokens) : 0;
    const int dim = static_cast<int>(i.word[head_dim]);
    const int room = static_cast<int>(i.word[capacity]);
    load_head<kConstantsPort>(constants, head_address(address_of(run, i.word[keys]), kv, room, dim),
                              scale_address(address_of(run, i.word[key_scale]), kv, room), seen, dim, cache.key, cache.key_scale);
    load_head<kMemoryPort>(memory, head_address(address_of(run, i.word[values]), kv, room, dim),
                           scale_address(address_of(run, i.word[value_scale]), kv, room), seen, dim, cache.value, cache.value_scale);
}

// The query heads of one KV head, as many at once as the rows of queries hold.
inline void attend_heads(const Cache& cache, Heads& chip, Array& array, TileWalk& walk, const Matrix& m, const Run& run,
                         const Instruction& i, int kv, READ_PORTS, results_stream& pacq_result, beat_t* memory) {
    using namespace isa::tphs;
    const int tokens = static_cast<int>(run.tokens);
    const int dim = static_cast<int>(i.word[head_dim]);
    const int group = static_cast<int>(i.word[heads]) / static_cast<int>(i.word[kv_heads]);
    const int together = kBlock / tokens < group ? kBlock / tokens : group;
    const int window = static_cast<int>(i.word[options] >> isa::kWindowShift);
QueryHeads:
    for (int head = 0; head < group; head += together) {
        const int some = group - head < together ? group - head : together;
        for (int h = 0; h < some; ++h) {
            project_queries(chip, array, walk, m, run, i, h * tokens, PASS_READ_PORTS, pacq_result);
        }
    QueryGroups:
        for (int first = 0; first < some * tokens; first += kTokenLanes) {
            attend_group(cache, chip, group_at(run, first, some, window), dim, as_float(i.word[kappa]), as_float(i.word[softcap]), address_of(run, i.word[target]),
                         static_cast<int>(i.word[stride]), (kv * group + head) * dim, memory);
        }
    }
}

// One KV head attends while the next one is read.  The two reads of `constants` (keys, and rotary rows of the queries) share a port.
inline void load_and_attend(Cache& next, const Cache& now, Heads& chip, Array& array, TileWalk& walk, const Matrix& m,
                            const Run& run, const Instruction& i, int kv, READ_PORTS, results_stream& pacq_result, beat_t* memory) {
#pragma HLS DATAFLOW
    load_cache(next, run, i, kv + 1, constants, memory);
    attend_heads(now, chip, array, walk, m, run, i, kv, PASS_READ_PORTS, pacq_result, memory);
}

// TPHS: parallel over tokens, sequential over heads; where a run has few tokens, over the tokens of several heads that share
// a key and a value, as many as the rows of queries hold.
inline void tphs(Heads& chip, Array& array, const Run& run, const Instruction& i, READ_PORTS, PACQ_PORTS, beat_t* memory) {
    using namespace isa::tphs;
    const int tokens = static_cast<int>(run.tokens);
    const int dim = static_cast<int>(i.word[head_dim]);
    const int kv_count = static_cast<int>(i.word[kv_heads]);
    const Matrix m = matrix_of(run, i, isa::tphs::weights0, static_cast<int>(i.word[heads]) * dim, static_cast<int>(i.word[cols]), dim);
    const bool grouped = is_grouped(i.word[format]);
    if (grouped) {
        begin_grouped(run, i, memory, PASS_PACQ_PORTS);
    } else {
        load_activations(array, memory, address_of(run, i.word[codes]), address_of(run, i.word[scale]), 0, tokens, m.words);
        load_tables(array, run, constants, i, isa::tphs::weights0);
    }
    TileWalk walk = begin_tiles(m);
    if (kCaches > 1) load_cache(chip.cache[0], run, i, 0, constants, memory);
KvHeads:
    for (int kv = 0; kv < kv_count; ++kv) {
        if (kCaches == 1) {
            load_cache(chip.cache[0], run, i, kv, constants, memory);
            attend_heads(chip.cache[0], chip, array, walk, m, run, i, kv, PASS_READ_PORTS, pacq_result, memory);
        } else if (kv % 2 == 0) {
            load_and_attend(chip.cache[kCaches - 1], chip.cache[0], chip, array, walk, m, run, i, kv, PASS_READ_PORTS, pacq_result, memory);
        } else {
            load_and_attend(chip.cache[0], chip.cache[kCaches - 1], chip, array, walk, m, run, i, kv, PASS_READ_PORTS, pacq_result, memory);
        }
    }
    if (grouped) drop_rows(pacq_result, i.word[format], m.rows, tokens);
}
