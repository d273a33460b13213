// SPDX-License-Identifier: Apache-2.0
// LINEAR, TPHS and attention by GEMM as turns of one loop: tiles of a matrix through the array, then groups of tokens that attend.
// Each large unit has one place where it is called, so that it is built once.
//
// TPHS is parallel over tokens and sequential over heads; where a run has few tokens, over the tokens of several heads that share a
// key and a value, as many as the rows of queries hold.  Nothing between Q and the results reaches DRAM; K and V are read once for
// all heads that share them.
#pragma once

#include "gemm_attention.hpp"

// What a step does in each of its turns.
struct Turns {
    int count;
    int tiles;     // of the matrix, in all; 0 where there is none
    int together;  // tiles of a turn, and query heads that attend in it
    int group;     // query heads of a KV head
    int kv_turns;  // turns of a KV head
    Stages stages;
    bool attends, streams;
};

inline Turns turns_of(const Run& run, const Instruction& i) {
    Turns t;
    t.streams = i.word[0] == isa::kLinear || i.word[0] == isa::kTphs;
    t.attends = i.word[0] != isa::kLinear;
    t.stages = i.word[0] == isa::kScores ? Stages::kScores : i.word[0] == isa::kSoftmax ? Stages::kSoftmax : i.word[0] == isa::kMix ? Stages::kMix : Stages::kAll;
    if (!t.attends) {
        t.tiles = pieces(static_cast<int>(i.word[isa::linear::rows]), static_cast<int>(i.word[isa::linear::tile_rows]));
        t.count = 1;
        t.together = t.group = t.tiles;
        t.kv_turns = 1;
        return t;
    }
    const uint32_t heads = t.streams ? i.word[isa::tphs::heads] : t.stages == Stages::kScores ? i.word[isa::scores::heads]
                           : t.stages == Stages::kSoftmax ? i.word[isa::softmax::heads] : i.word[isa::mix::heads];
    const uint32_t kv_heads = t.streams ? i.word[isa::tphs::kv_heads] : t.stages == Stages::kScores ? i.word[isa::scores::kv_heads]
                              : t.stages == Stages::kSoftmax ? i.word[isa::softmax::kv_heads] : i.word[isa::mix::kv_heads];
    const int tokens = static_cast<int>(run.tokens);
    t.group = static_cast<int>(heads / kv_heads);
    t.together = !t.streams ? 1 : kBlock / tokens < t.group ? kBlock / tokens : t.group;
    t.kv_turns = pieces(t.group, t.together);
    t.count = t.kv_turns * static_cast<int>(kv_heads);
    t.tiles = t.streams ? static_cast<int>(heads) : 0;
    return t;
}

inline address_t head_address(address_t base, int head, int capacity, int head_dim) {
#pragma HLS INLINE
    return base + static_cast<address_t>(head * capacity * pieces(head_dim, kBeatBytes));
}

inline address_t scale_address(address_t base, int head, int capacity) {
#pragma HLS INLINE
    return base + static_cast<address_t>(head * pieces(capacity, kFloatsInBeat));
}

// A matrix of INT8 or grouped weights, what it meets, and the factors of rotary positions: everything that a step reads once.
inline Matrix begin_matrix(Array& array, HeadRows& heads, const Run& run, const Instruction& i, bool rope, const beat_t* constants,
                           const beat_t* memory, GEMV_PORTS) {
    const bool tphs = i.word[0] == isa::kTphs;
    const int tokens = static_cast<int>(run.tokens), first = first_of(run, i);
    const int dim = static_cast<int>(tphs ? i.word[isa::tphs::head_dim] : i.word[isa::linear::head_dim]);
    const Matrix m = matrix_of(run, i, isa::linear::weights0, rows_of(i), columns_of(i),
                               tphs ? dim : static_cast<int>(i.word[isa::linear::tile_rows]));
    if (is_grouped(m.format)) {
        begin_grouped(run, i, memory, PASS_GEMV_PORTS);
    } else if (is_columns(m.format)) {
        begin_columns(run, i, memory, array.scale, PASS_GEMV_PORTS);
    } else {
        load_activations(array, memory, address_of(run, i.word[isa::linear::codes]), address_of(run, i.word[isa::linear::scale]), first, tokens, m.words);
        load_tables(array, run, constants, i, isa::linear::weights0);
    }
    if (rope) {
        const address_t table = address_of(run, tphs ? i.word[isa::tphs::rope] : i.word[isa::linear::rope]);
        load_rope(heads, constants, table, static_cast<int>(run.position), tokens, dim);
    }
    return m;
}

// The next tile and what is done with it: its head to the queries from row `query` on, or its heads or rows to DRAM.
inline void run_next_tile(Array& array, HeadRows& heads, TileWalk& walk, const Matrix& m, const Run& run, const Instruction& i, int query,
                          READ_PORTS, results_stream& gemv_result, beat_t* memory) {
    const bool tphs = i.word[0] == isa::kTphs;
    const uint32_t options = tphs ? i.word[isa::tphs::options] : i.word[isa::linear::options];
    const uint32_t bias = tphs ? i.word[isa::tphs::bias] : i.word[isa::linear::bias];
    const uint32_t gain = tphs ? i.word[isa::tphs::gain] : i.word[isa::linear::gain];
    const uint32_t eps = tphs ? i.word[isa::tphs::eps] : i.word[isa::linear::eps];
    const int dim = static_cast<int>(tphs ? i.word[isa::tphs::head_dim] : i.word[isa::linear::head_dim]);
    const auto epilogue = static_cast<int>(tphs ? isa::kEpilogueRopeHeads : i.word[isa::linear::epilogue]);
    const int tokens = static_cast<int>(run.tokens), first = first_of(run, i);
    const int tile = (tphs ? 0 : static_cast<int>(i.word[isa::linear::first_row]) / m.tile_rows) + walk.tile;
    const int real = some_rows(walk, array, m, first, tokens, PASS_READ_PORTS, gemv_result);
    if ((options & isa::kBiasOption) != 0) {
        const address_t at = address_of(run, bias) + static_cast<address_t>(tile * pieces(m.tile_rows, kFloatsInBeat));
        add_bias(array.result, constants, at, real, first, tokens);
    }
    if (epilogue == isa::kEpilogueHeads || epilogue == isa::kEpilogueRopeHeads) {
        if ((options & isa::kNormOption) != 0) norm_heads(array.result, heads, constants, address_of(run, gain), as_float(eps), dim, tokens);
        finish_heads(array.result, heads, query, tokens, dim, epilogue == isa::kEpilogueRopeHeads);
        if (tphs) return;
        const int capacity = static_cast<int>(i.word[isa::linear::capacity]);
        const bool append = i.word[isa::linear::append] != 0;
        const int start = append ? static_cast<int>(run.position) : 0;
        const address_t codes = head_address(address_of(run, i.word[isa::linear::target]), tile, capacity, dim);
        store_heads(heads, append ? Role::kKv : Role::kIntermediates, constants, memory,
                    codes + static_cast<address_t>(start * pieces(dim, kBeatBytes)),
                    scale_address(address_of(run, i.word[isa::linear::target_scale]), tile, capacity), start, tokens, dim);
        return;
    }
    const int half = epilogue == isa::kEpilogueGlu ? 2 : 1;
    const int row = static_cast<int>(i.word[isa::linear::first_row]) + (walk.tile - 1) * m.tile_rows;
    RowsStep step;
    step.epilogue = epilogue;
    step.function = function_of(options);
    step.first = first;
    step.tokens = tokens;
    step.column = half == 2 ? row / 2 : row;
    step.columns = half == 2 ? real / 2 : real;
    step.stride = static_cast<int>(i.word[isa::linear::stride]) / kFloatsInBeat;
    rows_region(array.result, constants, address_of(run, i.word[isa::linear::target]), step, memory);
}

// What attends in a turn, from whichever instruction it is.
struct Attention {
    address_t keys, key_scales, values, value_scales;
    address_t queries, query_scales;
    address_t scores, weights, divisors;
    address_t target;
    int head_dim, capacity, block;
    int score_stride, weight_stride, stride;  // beats of a row
    int window;
    float kappa, cap, inverse, twice;
};

inline Attention attention_of(const Run& run, const Instruction& i) {
    Attention a = {};
    float cap = 0.0f;
    switch (i.word[0]) {
        case isa::kTphs: {
            using namespace isa::tphs;
            a.keys = address_of(run, i.word[keys]);
            a.key_scales = address_of(run, i.word[key_scale]);
            a.values = address_of(run, i.word[values]);
            a.value_scales = address_of(run, i.word[value_scale]);
            a.target = address_of(run, i.word[target]);
            a.head_dim = static_cast<int>(i.word[head_dim]);
            a.capacity = static_cast<int>(i.word[capacity]);
            a.stride = static_cast<int>(i.word[stride]) / kFloatsInBeat;
            a.window = static_cast<int>(i.word[options] >> isa::kWindowShift);
            a.kappa = as_float(i.word[kappa]);
            cap = as_float(i.word[softcap]);
            break;
        }
        case isa::kScores: {
            using namespace isa::scores;
            a.keys = address_of(run, i.word[keys]);
            a.key_scales = address_of(run, i.word[key_scale]);
            a.queries = address_of(run, i.word[queries]);
            a.query_scales = address_of(run, i.word[query_scale]);
            a.scores = address_of(run, i.word[target]);
            a.head_dim = static_cast<int>(i.word[head_dim]);
            a.capacity = static_cast<int>(i.word[capacity]);
            a.block = static_cast<int>(i.word[block]);
            a.score_stride = static_cast<int>(i.word[row]) / kFloatsInBeat;
            a.kappa = as_float(i.word[kappa]);
            cap = as_float(i.word[softcap]);
            break;
        }
        case isa::kSoftmax: {
            using namespace isa::softmax;
            a.value_scales = address_of(run, i.word[value_scale]);
            a.scores = address_of(run, i.word[isa::softmax::scores]);
            a.weights = address_of(run, i.word[target]);
            a.divisors = address_of(run, i.word[divisor]);
            a.capacity = static_cast<int>(i.word[capacity]);
            a.block = static_cast<int>(i.word[block]);
            a.score_stride = static_cast<int>(i.word[row]) / kFloatsInBeat;
            a.weight_stride = static_cast<int>(i.word[row]) / kWeightsInBeat;
            a.window = static_cast<int>(i.word[window]);
            break;
        }
        default: {
            using namespace isa::mix;
            a.values = address_of(run, i.word[values]);
            a.weights = address_of(run, i.word[probabilities]);
            a.divisors = address_of(run, i.word[divisor]);
            a.target = address_of(run, i.word[target]);
            a.head_dim = static_cast<int>(i.word[head_dim]);
            a.capacity = static_cast<int>(i.word[capacity]);
            a.block = static_cast<int>(i.word[block]);
            a.weight_stride = static_cast<int>(i.word[row]) / kWeightsInBeat;
            a.stride = static_cast<int>(i.word[stride]) / kFloatsInBeat;
            break;
        }
    }
    a.cap = cap;
    if constexpr (kScoreCap) {
        a.inverse = cap > 0.0f ? 1.0f / cap : 0.0f;
        a.twice = cap > 0.0f ? (2.0f * kLog2e) / cap : 0.0f;
    }
    return a;
}

// The groups of `some` heads from query head `head` on, after what they need of the cache.
inline void attend(Cache& chip, HeadRows& heads, const Run& run, const Attention& a, Stages stages, int kv, int head, int some, bool new_kv,
                   const beat_t* constants, beat_t* memory) {
    const int tokens = static_cast<int>(run.tokens);
    const int seen = static_cast<int>(run.position) + tokens;
    const bool all = stages == Stages::kAll;
    if (new_kv) {
        load_cache(constants, memory, head_address(a.keys, kv, a.capacity, a.head_dim), scale_address(a.key_scales, kv, a.capacity),
                   head_address(a.values, kv, a.capacity, a.head_dim), scale_address(a.value_scales, kv, a.capacity),
                   all || stages == Stages::kScores ? seen : 0, all || stages == Stages::kScores ? seen : 0,
                   all || stages == Stages::kMix ? seen : 0, all || stages == Stages::kSoftmax ? seen : 0, a.head_dim, chip.key,
                   chip.key_scale, chip.value, chip.value_scale);
    }
    if (stages == Stages::kScores) {
        load_rows<kMemoryPort>(Role::kIntermediates, memory, head_address(a.queries, head, a.block, a.head_dim), tokens, a.head_dim, heads.code);
        load_scales<kMemoryPort>(Role::kIntermediates, memory, scale_address(a.query_scales, head, a.block), tokens, heads.scale);
    }
    const auto rows = static_cast<address_t>(head * a.block);  // before this head's, by GEMM
    Group g;
    g.token = 0;
    g.tokens = tokens;
    g.position = static_cast<int>(run.position);
    g.window = a.window;
    int column = head * a.head_dim;
AttendGroups:
    for (int first = 0; first < some * tokens; first += kTokenLanes) {
        g.first = first;
        g.lanes = some * tokens - first < kTokenLanes ? some * tokens - first : kTokenLanes;
        const address_t scores = a.scores + rows * static_cast<address_t>(a.score_stride);
        const address_t weights = a.weights + rows * static_cast<address_t>(a.weight_stride);
        if (stages == Stages::kSoftmax) load_scores(chip, g, constants, scores, a.score_stride);
        if (stages == Stages::kMix) load_weights(chip, g, constants, weights, a.weight_stride, a.divisors + rows);
        attend_group(stages, heads.code, heads.scale, chip.key, chip.key_scale, chip.value, chip.value_scale, chip.score, chip.weight,
                     chip.divisor, chip.result, g, a.head_dim, a.kappa, a.cap, a.inverse, a.twice);
        if (stages == Stages::kScores) store_scores(chip, g, scores, a.score_stride, memory);
        if (stages == Stages::kSoftmax) store_weights(chip, g, weights, a.weight_stride, a.divisors + rows, memory);
        if (all || stages == Stages::kMix) store_group(chip, g, constants, a.target, a.stride, column, a.head_dim, memory);
    NextToken:
        for (int lane = 0; lane < kTokenLanes; ++lane) {  // the token and the head of the next group's first row
#pragma HLS PIPELINE II=1
            const bool next = g.token == tokens - 1;
            g.token = next ? 0 : g.token + 1;
            column = next ? column + a.head_dim : column;
        }
    }
}

// LINEAR, TPHS, SCORES, SOFTMAX and MIX.
inline void run_step(Array& array, HeadRows& heads, Cache& chip, const Run& run, const Instruction& i, READ_PORTS, GEMV_PORTS, beat_t* memory) {
    const Turns turns = turns_of(run, i);
    const int tokens = static_cast<int>(run.tokens);
    if (turns.streams && first_of(run, i) >= tokens) return;
    const bool rope = i.word[0] == isa::kTphs || (turns.streams && i.word[isa::linear::epilogue] == isa::kEpilogueRopeHeads);
    Matrix m = {};
    Attention a = {};
    if (turns.streams) m = begin_matrix(array, heads, run, i, rope, constants, memory, PASS_GEMV_PORTS);
    if (turns.attends) a = attention_of(run, i);
    TileWalk walk = begin_tiles(m);
    int kv = 0, part = 0, head = 0;
Turns:
    for (int turn = 0; turn < turns.count; ++turn) {
        const int left = turns.group - part * turns.together;
        const int some = left < turns.together ? left : turns.together;
    Tiles:
        for (int tile = 0; tile < (turns.streams ? some : 0); ++tile) {
            run_next_tile(array, heads, walk, m, run, i, tile * (turns.attends ? tokens : 0), PASS_READ_PORTS, gemv_result, memory);
        }
        if (turns.attends) attend(chip, heads, run, a, turns.stages, kv, head, some, part == 0, constants, memory);
        head += some;
        const bool next = part == turns.kv_turns - 1;
        kv = next ? kv + 1 : kv;
        part = next ? 0 : part + 1;
    }
    if (turns.streams && is_grouped(m.format)) drop_rows(gemv_result, m.format, m.rows, tokens - first_of(run, i));
}
