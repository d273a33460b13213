// SPDX-License-Identifier: Apache-2.0
// GEMM attention, the baseline: queries, scores and probabilities each make the trip through DRAM, in three instructions.
#pragma once

#include "attention.hpp"

// Scores of a group to their rows in DRAM; each row as far as its token sees.
inline void store_scores(scores_stream& in, const Group& g, scores_t row[kContext], address_t target, int stride, beat_t* memory) {
    for (int j = 0; j < longest(g); ++j) row[j] = in.read();
StoreScores:
    for (int lane = 0; lane < g.lanes; ++lane) {
        const address_t base = target + static_cast<address_t>(g.first + lane) * stride * 4;
        for (int j = 0; j < seen_by(g, lane); j += kFloatsInBeat) {
#pragma HLS PIPELINE II=1
            beat_t beat = 0;
            for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
                if (j + k < seen_by(g, lane)) set_word(beat, k, as_bits(row[j + k].value[lane]));
            }
            store<kMemoryPort>(Role::kIntermediates, memory, base + static_cast<address_t>(j) * 4, beat);
        }
    }
}

// Scores of a group from DRAM, over the reading port: `memory` is being written in the same region.
inline void load_scores(const beat_t* constants, address_t source, int stride, const Group& g, scores_t row[kContext], scores_stream& out) {
LoadScoreRows:
    for (int lane = 0; lane < g.lanes; ++lane) {
        const address_t base = source + static_cast<address_t>(g.first + lane) * stride * 4;
        for (int j = 0; j < seen_by(g, lane); j += kFloatsInBeat) {
#pragma HLS PIPELINE II=1
            const beat_t beat = load<kConstantsPort>(Role::kIntermediates, constants, base + static_cast<address_t>(j) * 4);
            for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
                if (j + k < seen_by(g, lane)) row[j + k].value[lane] = as_float(word_of(beat, k));
            }
        }
    }
    for (int j = 0; j < longest(g); ++j) out.write(row[j]);
}

constexpr int kWeightsInBeat = kBeatBytes / 2;

// Folded probabilities and divisors of a group to DRAM.
inline void store_softmax(weights_stream& in, divisors_stream& divisors, const Group& g, weights_t row[kContext], address_t target,
                          int stride, address_t divisor, beat_t* memory) {
    for (int j = 0; j < longest(g); ++j) row[j] = in.read();
    const divisors_t d = divisors.read();
StoreSoftmax:
    for (int lane = 0; lane < g.lanes; ++lane) {
        const address_t base = target + static_cast<address_t>(g.first + lane) * stride * 2;
        for (int j = 0; j < seen_by(g, lane); j += kWeightsInBeat) {
#pragma HLS PIPELINE II=1
            beat_t beat = 0;
            for (int k = 0; k < kWeightsInBeat; ++k) {
#pragma HLS UNROLL
                if (j + k < seen_by(g, lane)) beat.range(16 * k + 15, 16 * k) = row[j + k].value[lane];
            }
            store<kMemoryPort>(Role::kIntermediates, memory, base + static_cast<address_t>(j) * 2, beat);
        }
        beat_t beat = 0;
        set_word(beat, 0, as_bits(d.value[lane].total));
        set_word(beat, 1, static_cast<uint32_t>(d.value[lane].exponent));
        store<kMemoryPort>(Role::kIntermediates, memory, divisor + static_cast<address_t>(g.first + lane) * kBeatBytes, beat);
    }
}

// Folded probabilities and divisors of a group from DRAM.
inline void load_softmax(const beat_t* constants, address_t source, int stride, address_t divisor, const Group& g,
                         weights_t row[kContext], weights_stream& out, divisors_stream& divisors) {
    divisors_t d;
    for (int j = 0; j < longest(g); ++j) {
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            row[j].value[lane] = 0;
        }
    }
LoadSoftmax:
    for (int lane = 0; lane < g.lanes; ++lane) {
        const address_t base = source + static_cast<address_t>(g.first + lane) * stride * 2;
        for (int j = 0; j < seen_by(g, lane); j += kWeightsInBeat) {
#pragma HLS PIPELINE II=1
            const beat_t beat = load<kConstantsPort>(Role::kIntermediates, constants, base + static_cast<address_t>(j) * 2);
            for (int k = 0; k < kWeightsInBeat; ++k) {
#pragma HLS UNROLL
                if (j + k < seen_by(g, lane)) {
                    row[j + k].value[lane] = static_cast<uint16_t>(beat.range(16 * k + 15, 16 * k).to_uint64());
                }
            }
        }
        const beat_t beat = load<kConstantsPort>(Role::kIntermediates, constants, divisor + static_cast<address_t>(g.first + lane) * kBeatBytes);
        d.value[lane].total = as_float(word_of(beat, 0));
        d.value[lane].exponent = static_cast<int>(word_of(beat, 1));
    }
    for (int j = 0; j < longest(g); ++j) out.write(row[j]);
    divisors.write(d);
}

inline void score_region(Heads& chip, const Group& g, int head_dim, float kappa, float cap, address_t target, int stride, beat_t* memory) {
#pragma HLS DATAFLOW
    scores_stream stream;
    score_group(chip.query, chip.query_scale, chip.cache[0].key, chip.cache[0].key_scale, g, head_dim, kappa, cap, stream);
    store_scores(stream, g, chip.row, target, stride, memory);
}

inline void softmax_region(Heads& chip, const Group& g, scores_t incoming[kContext], weights_t outgoing[kContext],
                           const beat_t* constants, address_t source, address_t target, int stride, address_t divisor,
                           beat_t* memory) {
#pragma HLS DATAFLOW
    scores_stream stream;
    weights_stream weights;
    divisors_stream divisors;
    load_scores(constants, source, stride, g, incoming, stream);
    softmax_group(stream, chip.cache[0].value_scale, g, chip.row, weights, divisors);
    store_softmax(weights, divisors, g, outgoing, target, stride, divisor, memory);
}

inline void mix_region(Heads& chip, const Group& g, weights_t incoming[kContext], int head_dim, const beat_t* constants,
                           address_t source, int source_stride, address_t divisor, address_t target, int stride, int column,
                           beat_t* memory) {
#pragma HLS DATAFLOW
    weights_stream weights;
    divisors_stream divisors;
    mixes_stream mixes;
    load_softmax(constants, source, source_stride, divisor, g, incoming, weights, divisors);
    mix_group(weights, divisors, chip.cache[0].value, g, head_dim, mixes);
    store_group(mixes, g, head_dim, target, stride, column, memory);
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
    const int stride = static_cast<int>(i.word[row]);
ScoreHeads:
    for (int head = 0; head < static_cast<int>(i.word[heads]); ++head) {
        const int kv = head / group;
        if (head % group == 0) {
            load_rows<kMemoryPort>(Role::kKv, memory, head_address(address_of(run, i.word[keys]), kv, room, dim), seen, dim, chip.cache[0].key);
            load_floats<kMemoryPort>(Role::kKv, memory, scale_address(address_of(run, i.word[key_scale]), kv, room), seen, chip.cache[0].key_scale);
        }
        load_rows<kMemoryPort>(Role::kIntermediates, memory, head_address(address_of(run, i.word[queries]), head, rows, dim), tokens, dim, chip.query);
        load_floats<kMemoryPort>(Role::kIntermediates, memory, scale_address(address_of(run, i.word[query_scale]), head, rows), tokens, chip.query_scale);
        const address_t at = address_of(run, i.word[target]) + static_cast<address_t>(head) * rows * stride * 4;
    ScoreGroups:
        for (int first = 0; first < tokens; first += kTokenLanes) {
            score_region(chip, group_at(run, first, 1, 0), dim, as_float(i.word[kappa]), as_float(i.word[softcap]), at, stride, memory);
        }
    }
}

// Step two: scores from DRAM, folded probabilities and divisors to DRAM.
inline void softmax(Heads& chip, const Run& run, const Instruction& i, const beat_t* constants, beat_t* memory) {
    using namespace isa::softmax;
    const int tokens = static_cast<int>(run.tokens);
    const int seen = static_cast<int>(run.position) + tokens;
    const int group = static_cast<int>(i.word[heads]) / static_cast<int>(i.word[kv_heads]);
    const int room = static_cast<int>(i.word[capacity]);
    const int stride = static_cast<int>(i.word[row]);
    static scores_t incoming[kContext];
    static weights_t outgoing[kContext];
#pragma HLS AGGREGATE variable=incoming
#pragma HLS AGGREGATE variable=outgoing
SoftmaxHeads:
    for (int head = 0; head < static_cast<int>(i.word[heads]); ++head) {
        if (head % group == 0) {
            const address_t scale = scale_address(address_of(run, i.word[value_scale]), head / group, room);
            load_floats<kMemoryPort>(Role::kKv, memory, scale, seen, chip.cache[0].value_scale);
        }
        const address_t place = static_cast<address_t>(head) * i.word[block];
    SoftmaxGroups:
        for (int first = 0; first < tokens; first += kTokenLanes) {
            softmax_region(chip, group_at(run, first, 1, static_cast<int>(i.word[window])), incoming, outgoing, constants,
                           address_of(run, i.word[isa::softmax::scores]) + place * stride * 4,
                           address_of(run, i.word[target]) + place * stride * 2, stride,
                           address_of(run, i.word[divisor]) + place * kBeatBytes, memory);
        }
    }
}

// Step three: probabilities and V from DRAM, the results to DRAM.
inline void mix(Heads& chip, const Run& run, const Instruction& i, const beat_t* constants, beat_t* memory) {
    using namespace isa::mix;
    const int tokens = static_cast<int>(run.tokens);
    const int seen = static_cast<int>(run.position) + tokens;
    const int dim = static_cast<int>(i.word[head_dim]);
    const int group = static_cast<int>(i.word[heads]) / static_cast<int>(i.word[kv_heads]);
    const int room = static_cast<int>(i.word[capacity]);
    const int width = static_cast<int>(i.word[row]);
    static weights_t incoming[kContext];
#pragma HLS AGGREGATE variable=incoming
MixHeads:
    for (int head = 0; head < static_cast<int>(i.word[heads]); ++head) {
        if (head % group == 0) {
            load_rows<kMemoryPort>(Role::kKv, memory, head_address(address_of(run, i.word[values]), head / group, room, dim), seen, dim, chip.cache[0].value);
        }
        const address_t place = static_cast<address_t>(head) * i.word[block];
    ContextGroups:
        for (int first = 0; first < tokens; first += kTokenLanes) {
            mix_region(chip, group_at(run, first, 1, 0), incoming, dim, constants,
                           address_of(run, i.word[probabilities]) + place * width * 2, width,
                           address_of(run, i.word[divisor]) + place * kBeatBytes, address_of(run, i.word[target]),
                           static_cast<int>(i.word[stride]), head * dim, memory);
        }
    }
}
