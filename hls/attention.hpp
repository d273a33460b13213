// SPDX-License-Identifier: Apache-2.0
// The stages of attention for one group of tokens: scores, softmax, mix.  In TPHS they are one pipeline, with nothing between them
// but streams; by GEMM each runs alone, on rows that gemm_attention.hpp brings from DRAM and takes there.
#pragma once

#include "epilogue.hpp"

// kTokenLanes scores of one key, and kTokenLanes folded probabilities of one value.
struct scores_t {
    float value[kTokenLanes];
};
struct weights_t {
    uint16_t value[kTokenLanes];
};
// What is divided by at the end: the sum of probabilities, and the power of two of V's scales.
struct divisor_t {
    uint32_t total[kTokenLanes];  // the bits of a float
    int exponent[kTokenLanes];
};

using scores_stream = hls::stream<scores_t, 64>;
using weights_stream = hls::stream<weights_t, 64>;
using divisors_stream = hls::stream<divisor_t, 2>;
using mix_sum_t = ap_int<16 + 8 + bits_for(kContext)>;

constexpr int kWeightsInBeat = kBeatBytes / 2;

// On-chip rows of one KV head, and of a group of tokens.
struct Cache {
    head_t key[kContext];
    head_t value[kContext];
    float key_scale[kContext + kFloatsInBeat];
    float value_scale[kContext + kFloatsInBeat];
    float score[kTokenLanes][kContext + kFloatsInBeat];          // until their maxima are known
    uint16_t weight[kTokenLanes][kContext + kWeightsInBeat];     // by GEMM
    divisor_t divisor;                                           // by GEMM
    vector_t result[kTokenLanes][kMaxHeadDim / kFloatLanes + 1];
};

// Which stages run: all of them as a pipeline, or one on rows that lie on chip.
enum class Stages : int { kAll, kScores, kSoftmax, kMix };

// A group of up to kTokenLanes rows of queries, which are the tokens of one head after those of another: lane l is row `first` + l.
struct Group {
    int first;
    int token;     // of the first row
    int lanes;
    int tokens;    // of a head
    int position;  // tokens in the cache before this run
    int window;    // tokens that one sees at most; 0 for all
};

// The most keys that a lane of the group sees: those of a head's last token, if the group has it.
inline int longest(const Group& g) {
#pragma HLS INLINE
    const int last = g.token + g.lanes;
    return g.position + (last < g.tokens ? last : g.tokens);
}

// The keys that each lane sees: from .. until.
struct Seen {
    int from[kTokenLanes], until[kTokenLanes];
};

inline Seen seen_by(const Group& g) {
#pragma HLS INLINE
    Seen seen;
    int token = g.token;
SeenLanes:
    for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS PIPELINE II=1
        const int until = g.position + token + 1;
        const int first = until - g.window;
        seen.until[lane] = lane < g.lanes ? until : 0;
        seen.from[lane] = g.window > 0 && first > 0 ? first : 0;
        token = token == g.tokens - 1 ? 0 : token + 1;
    }
    return seen;
}

// `count` INT8 rows of one head from DRAM: one burst.
template <int kPort>
inline void load_rows(Role role, const beat_t* port, address_t first, int count, int head_dim, head_t rows[kContext]) {
    const int width = pieces(head_dim, kBeatBytes);
    head_t row;
    int j = 0, b = 0;
LoadRows:
    for (int n = 0; n < count * width; ++n) {
#pragma HLS PIPELINE II=1
        const beat_t beat = load<kPort>(role, port, first, n);
        for (int part = 0; part < kHeadBeats; ++part) {
#pragma HLS UNROLL
            for (int k = 0; k < kBeatBytes; ++k) {
#pragma HLS UNROLL
                if (part == b) {
                    row.value[part * kBeatBytes + k] = byte_of(beat, k);
                } else if (b == 0) {
                    row.value[part * kBeatBytes + k] = 0;
                }
            }
        }
        const bool next = b == width - 1;
        if (next) rows[j] = row;
        j = next ? j + 1 : j;
        b = next ? 0 : b + 1;
    }
    count_loop(Loop::kLoad, count * width);
}

// Rows and scales of K or V; as many of each as are wanted.
template <int kPort>
inline void load_head(const beat_t* port, address_t rows, address_t scales, int count, int scale_count, int head_dim, head_t codes[kContext],
                      float scale[kContext + kFloatsInBeat]) {
    load_rows<kPort>(Role::kKv, port, rows, count, head_dim, codes);
    load_scales<kPort>(Role::kKv, port, scales, scale_count, scale);
}

// K over the reading port and V over the other, at once.
inline void load_cache(const beat_t* constants, const beat_t* memory, address_t keys, address_t key_scales, address_t values,
                       address_t value_scales, int key_count, int key_scale_count, int value_count, int value_scale_count, int head_dim,
                       head_t key[kContext], float key_scale[kContext + kFloatsInBeat], head_t value[kContext],
                       float value_scale[kContext + kFloatsInBeat]) {
#pragma HLS DATAFLOW
    load_head<kConstantsPort>(constants, keys, key_scales, key_count, key_scale_count, head_dim, key, key_scale);
    load_head<kMemoryPort>(memory, values, value_scales, value_count, value_scale_count, head_dim, value, value_scale);
}

// QK^T: a key a cycle meets kTokenLanes queries.  Scores are exponents of two.
inline void score_group(Stages stages, const head_t query[kBlock], const float query_scale[kBlock + kFloatsInBeat], const head_t key[kContext],
                        const float key_scale[kContext + kFloatsInBeat], Group g, float kappa, float cap, float inverse, float twice,
                        scores_stream& out) {
    if (stages != Stages::kAll && stages != Stages::kScores) return;
    float scale[kTokenLanes];
    head_t q[kTokenLanes + 1];  // lanes are multiplied in pairs
#pragma HLS ARRAY_PARTITION variable=scale complete
#pragma HLS ARRAY_PARTITION variable=q complete
LoadQueries:
    for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS PIPELINE II=1
        const int row = lane < g.lanes ? g.first + lane : g.first;
        scale[lane] = flush(query_scale[row] * kappa);
        q[lane] = query[row];
    }
Keys:
    for (int j = 0; j < longest(g); ++j) {
#pragma HLS PIPELINE II=1
        const head_t k = key[j];
        int32_t sum[kTokenLanes + 1];
#pragma HLS ARRAY_PARTITION variable=sum complete
        for (int lane = 0; lane < kTokenLanes; lane += 2) {
#pragma HLS UNROLL
            dot_pair(q[lane].value, q[lane + 1].value, k.value, sum[lane], sum[lane + 1]);
        }
        scores_t score;
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            const float y = saturate(static_cast<float>(sum[lane]) * flush(scale[lane] * key_scale[j]));
            score.value[lane] = y;
            if constexpr (kScoreCap) {
                if (cap > 0.0f) score.value[lane] = capped(y, cap, inverse, twice);
            }
        }
        out.write(score);
    }
    count_loop(Loop::kScores, kTokenLanes);
    count_loop(Loop::kScores, longest(g));
}

// MAX over the rows as they arrive, then EXP with V's scales folded into the probabilities.
inline void softmax_group(Stages stages, scores_stream& in, const float value_scale[kContext + kFloatsInBeat], Group g,
                          float row[kTokenLanes][kContext + kFloatsInBeat], weights_stream& out, divisors_stream& divisors) {
    if (stages == Stages::kMix) return;
    const bool stream = stages != Stages::kSoftmax;
    const Seen seen = seen_by(g);
    int32_t peak[kTokenLanes];
    uint32_t largest[kTokenLanes], total[kTokenLanes];
#pragma HLS ARRAY_PARTITION variable=seen.from complete
#pragma HLS ARRAY_PARTITION variable=seen.until complete
#pragma HLS ARRAY_PARTITION variable=peak complete
#pragma HLS ARRAY_PARTITION variable=largest complete
#pragma HLS ARRAY_PARTITION variable=total complete
    for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
        peak[lane] = INT32_MIN;
        largest[lane] = 0;
        total[lane] = 0;
    }
Max:
    for (int j = 0; j < longest(g); ++j) {
#pragma HLS PIPELINE II=1
        scores_t score;
        if (stream) score = in.read();
        const uint32_t v_scale = magnitude_of(value_scale[j]);
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            const float s = stream ? score.value[lane] : row[lane][j];
            if (stream) row[lane][j] = s;
            const bool visible = j >= seen.from[lane] && j < seen.until[lane];
            const int32_t order = order_of(s);
            peak[lane] = visible && order > peak[lane] ? order : peak[lane];
            largest[lane] = visible && v_scale > largest[lane] ? v_scale : largest[lane];
        }
    }
    count_loop(Loop::kSoftmax, kTokenLanes);
    count_loop(Loop::kSoftmax, longest(g));
    if (stages == Stages::kScores) return;
    divisor_t divisor;
    for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
        divisor.exponent[lane] = exponent_of(largest[lane]);
    }
Exp:
    for (int j = 0; j < longest(g); ++j) {
#pragma HLS PIPELINE II=1
        weights_t weight;
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            const bool visible = j >= seen.from[lane] && j < seen.until[lane];
            const float distance = of_order(peak[lane]) - row[lane][j];
            const uint16_t p = exp2_negative(visible ? exp_argument(distance) : 0);
            const int folded = round_even(static_cast<float>(p) * flush(times_power(value_scale[j], -divisor.exponent[lane])));
            total[lane] += visible ? p : 0;
            weight.value[lane] = visible ? static_cast<uint16_t>(folded) : static_cast<uint16_t>(0);
        }
        out.write(weight);
    }
    count_loop(Loop::kSoftmax, longest(g));
    for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
        divisor.total[lane] = as_bits(static_cast<float>(total[lane]));
    }
    divisors.write(divisor);
}

// Softmax x V, then DIV: a value row per cycle is broadcast to kTokenLanes accumulators of a head each.
inline void mix_group(Stages stages, weights_stream& in, divisors_stream& divisors, const head_t value[kContext], Group g, int head_dim,
                      uint16_t row[kTokenLanes][kContext + kWeightsInBeat], divisor_t& kept,
                      vector_t result[kTokenLanes][kMaxHeadDim / kFloatLanes + 1]) {
    if (stages == Stages::kScores) return;
    const bool stream = stages != Stages::kMix;
    const Seen seen = seen_by(g);
    mix_sum_t sum[kTokenLanes][kMaxHeadDim];
#pragma HLS ARRAY_PARTITION variable=seen.until complete
#pragma HLS ARRAY_PARTITION variable=sum complete dim=0
    for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
        for (int k = 0; k < kMaxHeadDim; ++k) {
#pragma HLS UNROLL
            sum[lane][k] = 0;
        }
    }
Values:
    for (int j = 0; j < longest(g); ++j) {
#pragma HLS PIPELINE II=1
        weights_t weight;
        if (stream) weight = in.read();
        const head_t v = value[j];
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            const uint16_t held = row[lane][j];
            const uint16_t w = stream ? weight.value[lane] : j < seen.until[lane] ? held : static_cast<uint16_t>(0);
            if (stages == Stages::kSoftmax) row[lane][j] = w;
            for (int k = 0; k < kMaxHeadDim; ++k) {  // what lies beyond the head is zero
#pragma HLS UNROLL
                sum[lane][k] = sum[lane][k].to_int64() + static_cast<int32_t>(w) * static_cast<int32_t>(v.value[k]);
            }
        }
    }
    count_loop(Loop::kMix, kTokenLanes);
    count_loop(Loop::kMix, longest(g));
    divisor_t divisor = kept;
    if (stream) divisor = divisors.read();
    kept = divisor;
    if (stages == Stages::kSoftmax) return;
    vector_t word[kTokenLanes];
#pragma HLS ARRAY_PARTITION variable=word complete
Div:
    for (int k = 0; k < head_dim; ++k) {
#pragma HLS PIPELINE II=1
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            const float quotient = static_cast<float>(sum[lane][0].to_int64()) / as_float(divisor.total[lane]);
            const float element = flush(times_power(quotient, divisor.exponent[lane]));
            for (int e = 0; e < kFloatLanes; ++e) {
#pragma HLS UNROLL
                if (e == k % kFloatLanes) word[lane].value[e] = element;
            }
            result[lane][k / kFloatLanes] = word[lane];
            for (int e = 0; e + 1 < kMaxHeadDim; ++e) {  // the next element comes to the front
#pragma HLS UNROLL
                sum[lane][e] = sum[lane][e + 1];
            }
        }
    }
    count_loop(Loop::kMix, head_dim);
}

// The pipeline of one head and one group, or one stage of it.
inline void attend_group(Stages stages, const head_t query[kBlock], const float query_scale[kBlock + kFloatsInBeat], const head_t key[kContext],
                         const float key_scale[kContext + kFloatsInBeat], const head_t value[kContext],
                         const float value_scale[kContext + kFloatsInBeat], float score[kTokenLanes][kContext + kFloatsInBeat],
                         uint16_t weight[kTokenLanes][kContext + kWeightsInBeat], divisor_t& divisor,
                         vector_t result[kTokenLanes][kMaxHeadDim / kFloatLanes + 1], Group g, int head_dim, float kappa, float cap,
                         float inverse, float twice) {
#pragma HLS DATAFLOW
    scores_stream scores;
    weights_stream weights;
    divisors_stream divisors;
    score_group(stages, query, query_scale, key, key_scale, g, kappa, cap, inverse, twice, scores);
    softmax_group(stages, scores, value_scale, g, score, weights, divisors);
    mix_group(stages, weights, divisors, value, g, head_dim, weight, divisor, result);
}

// The results of a group to their rows in DRAM.
inline void store_group(const Cache& chip, const Group& g, const beat_t* constants, address_t target, int stride, int column, int head_dim,
                        beat_t* memory) {
    const int vectors = pieces(head_dim, kFloatLanes);
    int token = g.token;
StoreLanes:
    for (int lane = 0; lane < g.lanes; ++lane) {
        vector_t line[kMaxHeadDim / kFloatLanes + 1];
#pragma HLS AGGREGATE variable=line
    ResultLine:
        for (int j = 0; j < vectors; ++j) {
#pragma HLS PIPELINE II=1
            line[j] = chip.result[lane][j];
        }
        const address_t at = target + static_cast<address_t>(token * stride);
        const beat_t kept = kept_at(Role::kActivations, constants, at, column);
        store_floats<kMemoryPort>(Role::kActivations, memory, at, column, head_dim, kept, line);
        count_loop(Loop::kStore, vectors);
        const bool next = token == g.tokens - 1;
        token = next ? 0 : token + 1;
        column = next ? column + head_dim : column;
    }
}
