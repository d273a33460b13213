// SPDX-License-Identifier: Apache-2.0
// Attention, twice over the same arithmetic: TPHS, where nothing between Q and the context reaches DRAM, and GEMM,
// where queries, scores and probabilities each make the trip.  K and V are read once for all heads that share them.
#pragma once

#include "linear.hpp"

// kTokenLanes scores of one key, and kTokenLanes folded probabilities of one value.
struct scores_t {
    float value[kTokenLanes];
};
struct weights_t {
    uint16_t value[kTokenLanes];
};
// What is divided by at the end: the sum of probabilities, and the power of two of V's scales.
struct Divisor {
    float total;
    int exponent;
};
struct divisors_t {
    Divisor value[kTokenLanes];
};
// The context of kTokenLanes tokens, one element of the head.
struct contexts_t {
    float value[kTokenLanes];
};

using scores_stream = hls::stream<scores_t, 64>;
using weights_stream = hls::stream<weights_t, 64>;
using divisors_stream = hls::stream<divisors_t, 2>;
using contexts_stream = hls::stream<contexts_t, 2 * kMaxHeadDim>;

// On-chip rows of one KV head and of one query head.
struct Heads {
    int8_t key[kContext][kMaxHeadDim];
    int8_t value[kContext][kMaxHeadDim];
    float key_scale[kContext];
    float value_scale[kContext];
    int8_t query[kBlock][kMaxHeadDim];
    float query_scale[kBlock];
    scores_t row[kContext];  // the score rows of a group, until their maxima are known
};

// A group of up to kTokenLanes tokens: lane l is token `first` + l, and sees the keys 0 .. seen(l) - 1.
struct Group {
    int first;
    int lanes;
    int position;  // tokens in the cache before this run
};

inline Group group_at(const Run& run, int first) {
#pragma HLS INLINE
    Group g;
    const int left = static_cast<int>(run.tokens) - first;
    g.first = first;
    g.lanes = left < kTokenLanes ? left : kTokenLanes;
    g.position = static_cast<int>(run.position);
    return g;
}

inline int seen_by(const Group& g, int lane) {
#pragma HLS INLINE
    return g.position + g.first + lane + 1;
}

// Keys that the last lane of the group sees.
inline int longest(const Group& g) {
#pragma HLS INLINE
    return seen_by(g, g.lanes - 1);
}

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

// QK^T: a key a cycle meets kTokenLanes queries.  Scores are exponents of two.
inline void score_group(const int8_t query[kBlock][kMaxHeadDim], const float query_scale[kBlock],
                        const int8_t key[kContext][kMaxHeadDim], const float key_scale[kContext], const Group& g, int head_dim,
                        float kappa, scores_stream& out) {
    float scale[kTokenLanes];
    int8_t q[kTokenLanes][kMaxHeadDim];
#pragma HLS ARRAY_PARTITION variable=scale complete
#pragma HLS ARRAY_PARTITION variable=q complete dim=0
LoadQueries:
    for (int lane = 0; lane < g.lanes; ++lane) {
        scale[lane] = flush(query_scale[g.first + lane] * kappa);
        for (int k = 0; k < kMaxHeadDim; ++k) q[lane][k] = k < head_dim ? query[g.first + lane][k] : 0;
    }
Keys:
    for (int j = 0; j < longest(g); ++j) {
#pragma HLS PIPELINE II=1
        scores_t score;
    ScoreLanes:
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            if (lane < g.lanes) {
                int32_t sum = 0;
                for (int k = 0; k < kMaxHeadDim; ++k) {  // queries are zero beyond the head
#pragma HLS UNROLL
                    sum += static_cast<int32_t>(q[lane][k]) * static_cast<int32_t>(key[j][k]);
                }
                score.value[lane] = static_cast<float>(sum) * flush(scale[lane] * key_scale[j]);
            }
        }
        out.write(score);
    }
}

// MAX over the rows as they arrive, then EXP with V's scales folded into the probabilities.
inline void softmax_group(scores_stream& in, const float value_scale[kContext], const Group& g, scores_t row[kContext],
                          weights_stream& out, divisors_stream& divisors) {
    float peak[kTokenLanes], largest[kTokenLanes], unit[kTokenLanes];
    uint32_t total[kTokenLanes];
#pragma HLS ARRAY_PARTITION variable=peak complete
#pragma HLS ARRAY_PARTITION variable=largest complete
#pragma HLS ARRAY_PARTITION variable=unit complete
#pragma HLS ARRAY_PARTITION variable=total complete
    divisors_t divisor;
Max:
    for (int j = 0; j < longest(g); ++j) {
#pragma HLS PIPELINE II=1
        const scores_t score = in.read();
        row[j] = score;
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            if (lane < g.lanes && j < seen_by(g, lane)) {
                peak[lane] = j == 0 || score.value[lane] > peak[lane] ? score.value[lane] : peak[lane];
                largest[lane] = j == 0 || value_scale[j] > largest[lane] ? value_scale[j] : largest[lane];
            }
        }
    }
    for (int lane = 0; lane < g.lanes; ++lane) {
        divisor.value[lane].exponent = exponent_of(largest[lane]);
        unit[lane] = power_of_two(-divisor.value[lane].exponent);
        total[lane] = 0;
    }
Exp:
    for (int j = 0; j < longest(g); ++j) {
#pragma HLS PIPELINE II=1
        weights_t weight;
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            weight.value[lane] = 0;
            if (lane < g.lanes && j < seen_by(g, lane)) {
                const uint16_t p = exp2_negative(exp_argument(peak[lane] - row[j].value[lane]));
                total[lane] += p;
                weight.value[lane] =
                    static_cast<uint16_t>(round_even(static_cast<float>(p) * flush(value_scale[j] * unit[lane])));
            }
        }
        out.write(weight);
    }
    for (int lane = 0; lane < g.lanes; ++lane) divisor.value[lane].total = static_cast<float>(total[lane]);
    divisors.write(divisor);
}

// Softmax x V, then DIV: a value row a cycle is broadcast to kTokenLanes accumulators of a head each.
inline void context_group(weights_stream& in, divisors_stream& divisors, const int8_t value[kContext][kMaxHeadDim],
                          const Group& g, int head_dim, contexts_stream& out) {
    int64_t sum[kTokenLanes][kMaxHeadDim];
#pragma HLS ARRAY_PARTITION variable=sum complete dim=0
    for (int lane = 0; lane < g.lanes; ++lane) {
        for (int k = 0; k < kMaxHeadDim; ++k) {
#pragma HLS UNROLL
            sum[lane][k] = 0;
        }
    }
Values:
    for (int j = 0; j < longest(g); ++j) {
#pragma HLS PIPELINE II=1
        const weights_t weight = in.read();
    ContextLanes:
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            if (lane < g.lanes) {
                for (int k = 0; k < kMaxHeadDim; ++k) {  // what lies beyond the head is not read again
#pragma HLS UNROLL
                    sum[lane][k] += static_cast<int32_t>(weight.value[lane]) * static_cast<int32_t>(value[j][k]);
                }
            }
        }
    }
    const divisors_t divisor = divisors.read();
Div:
    for (int k = 0; k < head_dim; ++k) {
#pragma HLS PIPELINE II=1
        contexts_t element;
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            if (lane < g.lanes) {
                const Divisor& d = divisor.value[lane];
                element.value[lane] = flush((static_cast<float>(sum[lane][k]) / d.total) * power_of_two(d.exponent));
            }
        }
        out.write(element);
    }
}

// The context of a group to its rows in DRAM.
inline void store_group(contexts_stream& in, const Group& g, int head_dim, address_t target, int stride, int column, beat_t* memory) {
    float out[kTokenLanes][kMaxHeadDim];
#pragma HLS ARRAY_PARTITION variable=out complete dim=1
Elements:
    for (int k = 0; k < head_dim; ++k) {
#pragma HLS PIPELINE II=1
        const contexts_t element = in.read();
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            if (lane < g.lanes) out[lane][k] = element.value[lane];
        }
    }
StoreLanes:
    for (int lane = 0; lane < g.lanes; ++lane) {
        const address_t at = target + static_cast<address_t>(g.first + lane) * stride * 4;
        store_floats<kMemoryPort>(memory, at, column, head_dim, out[lane]);
    }
}

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
    load_activations(array, memory, address_of(run, i.word[codes]), address_of(run, i.word[scale]), tokens, m.words);
    load_tables(array, run, constants, i, isa::tphs::weights0);
    TileWalk walk = begin_tiles(m);
QueryHeads:
    for (int head = 0; head < count; ++head) {
        const int kv = head / group;
        if (head % group == 0) {
            load_rows(memory, head_address(address_of(run, i.word[keys]), kv, room, dim), seen, dim, chip.key);
            load_rows(memory, head_address(address_of(run, i.word[values]), kv, room, dim), seen, dim, chip.value);
            load_floats<kMemoryPort>(memory, scale_address(address_of(run, i.word[key_scale]), kv, room), seen, chip.key_scale);
            load_floats<kMemoryPort>(memory, scale_address(address_of(run, i.word[value_scale]), kv, room), seen, chip.value_scale);
        }
        project_queries(chip, array, walk, m, run, address_of(run, i.word[rope]), dim, PASS_READ_PORTS);
    TokenGroups:
        for (int first = 0; first < tokens; first += kTokenLanes) {
            attend_group(chip, group_at(run, first), dim, as_float(i.word[kappa]), address_of(run, i.word[target]),
                         static_cast<int>(i.word[stride]), head * dim, memory);
        }
    }
}

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
            store<kMemoryPort>(memory, base + static_cast<address_t>(j) * 4, beat);
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
            const beat_t beat = load<kConstantsPort>(constants, base + static_cast<address_t>(j) * 4);
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
            store<kMemoryPort>(memory, base + static_cast<address_t>(j) * 2, beat);
        }
        beat_t beat = 0;
        set_word(beat, 0, as_bits(d.value[lane].total));
        set_word(beat, 1, static_cast<uint32_t>(d.value[lane].exponent));
        store<kMemoryPort>(memory, divisor + static_cast<address_t>(g.first + lane) * kBeatBytes, beat);
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
            const beat_t beat = load<kConstantsPort>(constants, base + static_cast<address_t>(j) * 2);
            for (int k = 0; k < kWeightsInBeat; ++k) {
#pragma HLS UNROLL
                if (j + k < seen_by(g, lane)) {
                    row[j + k].value[lane] = static_cast<uint16_t>(beat.range(16 * k + 15, 16 * k).to_uint64());
                }
            }
        }
        const beat_t beat = load<kConstantsPort>(constants, divisor + static_cast<address_t>(g.first + lane) * kBeatBytes);
        d.value[lane].total = as_float(word_of(beat, 0));
        d.value[lane].exponent = static_cast<int>(word_of(beat, 1));
    }
    for (int j = 0; j < longest(g); ++j) out.write(row[j]);
    divisors.write(d);
}

inline void score_region(Heads& chip, const Group& g, int head_dim, float kappa, address_t target, int stride, beat_t* memory) {
#pragma HLS DATAFLOW
    scores_stream stream;
    score_group(chip.query, chip.query_scale, chip.key, chip.key_scale, g, head_dim, kappa, stream);
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
    softmax_group(stream, chip.value_scale, g, chip.row, weights, divisors);
    store_softmax(weights, divisors, g, outgoing, target, stride, divisor, memory);
}

inline void context_region(Heads& chip, const Group& g, weights_t incoming[kContext], int head_dim, const beat_t* constants,
                           address_t source, int source_stride, address_t divisor, address_t target, int stride, int column,
                           beat_t* memory) {
#pragma HLS DATAFLOW
    weights_stream weights;
    divisors_stream divisors;
    contexts_stream contexts;
    load_softmax(constants, source, source_stride, divisor, g, incoming, weights, divisors);
    context_group(weights, divisors, chip.value, g, head_dim, contexts);
    store_group(contexts, g, head_dim, target, stride, column, memory);
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
            load_rows(memory, head_address(address_of(run, i.word[keys]), kv, room, dim), seen, dim, chip.key);
            load_floats<kMemoryPort>(memory, scale_address(address_of(run, i.word[key_scale]), kv, room), seen, chip.key_scale);
        }
        load_rows(memory, head_address(address_of(run, i.word[queries]), head, rows, dim), tokens, dim, chip.query);
        load_floats<kMemoryPort>(memory, scale_address(address_of(run, i.word[query_scale]), head, rows), tokens, chip.query_scale);
        const address_t at = address_of(run, i.word[target]) + static_cast<address_t>(head) * rows * stride * 4;
    ScoreGroups:
        for (int first = 0; first < tokens; first += kTokenLanes) {
            score_region(chip, group_at(run, first), dim, as_float(i.word[kappa]), at, stride, memory);
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
            load_floats<kMemoryPort>(memory, scale, seen, chip.value_scale);
        }
        const address_t place = static_cast<address_t>(head) * i.word[block];
    SoftmaxGroups:
        for (int first = 0; first < tokens; first += kTokenLanes) {
            softmax_region(chip, group_at(run, first), incoming, outgoing, constants,
                           address_of(run, i.word[isa::softmax::scores]) + place * stride * 4,
                           address_of(run, i.word[target]) + place * stride * 2, stride,
                           address_of(run, i.word[divisor]) + place * kBeatBytes, memory);
        }
    }
}

// Step three: probabilities and V from DRAM, the context to DRAM.
inline void context(Heads& chip, const Run& run, const Instruction& i, const beat_t* constants, beat_t* memory) {
    using namespace isa::context;
    const int tokens = static_cast<int>(run.tokens);
    const int seen = static_cast<int>(run.position) + tokens;
    const int dim = static_cast<int>(i.word[head_dim]);
    const int group = static_cast<int>(i.word[heads]) / static_cast<int>(i.word[kv_heads]);
    const int room = static_cast<int>(i.word[capacity]);
    const int width = static_cast<int>(i.word[row]);
    static weights_t incoming[kContext];
#pragma HLS AGGREGATE variable=incoming
ContextHeads:
    for (int head = 0; head < static_cast<int>(i.word[heads]); ++head) {
        if (head % group == 0) {
            load_rows(memory, head_address(address_of(run, i.word[values]), head / group, room, dim), seen, dim, chip.value);
        }
        const address_t place = static_cast<address_t>(head) * i.word[block];
    ContextGroups:
        for (int first = 0; first < tokens; first += kTokenLanes) {
            context_region(chip, group_at(run, first), incoming, dim, constants,
                           address_of(run, i.word[weights]) + place * width * 2, width,
                           address_of(run, i.word[divisor]) + place * kBeatBytes, address_of(run, i.word[target]),
                           static_cast<int>(i.word[stride]), head * dim, memory);
        }
    }
}
