// SPDX-License-Identifier: Apache-2.0
// The stages of attention for one group of tokens: scores, softmax, mix, store.  tphs.hpp joins them by streams,
// gemm_attention.hpp puts DRAM between them; the arithmetic is here, once.
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
// The results of kTokenLanes tokens, one element of the head.
struct mixes_t {
    float value[kTokenLanes];
};

using scores_stream = hls::stream<scores_t, 64>;
using weights_stream = hls::stream<weights_t, 64>;
using divisors_stream = hls::stream<divisors_t, 2>;
using mixes_stream = hls::stream<mixes_t, 2 * kMaxHeadDim>;

// On-chip rows of one KV head.
struct Cache {
    int8_t key[kContext][kMaxHeadDim];
    int8_t value[kContext][kMaxHeadDim];
    float key_scale[kContext];
    float value_scale[kContext];
};

// The KV head that attends, the next one where the design has room for it, and one query head.
struct Heads {
    Cache cache[kCaches];
    int8_t query[kBlock][kMaxHeadDim];
    float query_scale[kBlock];
    scores_t row[kContext];  // the score rows of a group, until their maxima are known
};

// A group of up to kTokenLanes rows of queries, which are the tokens of one head after those of another: lane l is row
// `first` + l, and sees the keys 0 .. seen_by(l) - 1.
struct Group {
    int first;
    int lanes;
    int tokens;    // of a head
    int position;  // tokens in the cache before this run
    int window;    // tokens that one sees at most; 0 for all
};

// The group at row `first` of `heads` heads.
inline Group group_at(const Run& run, int first, int heads, int window) {
#pragma HLS INLINE
    Group g;
    g.tokens = static_cast<int>(run.tokens);
    const int left = heads * g.tokens - first;
    g.first = first;
    g.lanes = left < kTokenLanes ? left : kTokenLanes;
    g.position = static_cast<int>(run.position);
    g.window = window;
    return g;
}

inline int token_of(const Group& g, int lane) {
#pragma HLS INLINE
    return (g.first + lane) % g.tokens;
}

inline int seen_by(const Group& g, int lane) {
#pragma HLS INLINE
    return g.position + token_of(g, lane) + 1;
}

// The first key that a lane sees.
inline int seen_from(const Group& g, int lane) {
#pragma HLS INLINE
    const int first = seen_by(g, lane) - g.window;
    return g.window > 0 && first > 0 ? first : 0;
}

// The most keys that a lane of the group sees: those of a head's last token, if the group has it.
inline int longest(const Group& g) {
#pragma HLS INLINE
    const int token = g.first % g.tokens;
    return g.position + (token + g.lanes < g.tokens ? token + g.lanes : g.tokens);
}

// `count` INT8 rows of one head from DRAM.
template <int kPort>
inline void load_rows(Role role, const beat_t* memory, address_t address, int count, int head_dim, int8_t rows[][kMaxHeadDim]) {
    const int width = padded(head_dim, kBeatBytes);
LoadRows:
    for (int j = 0; j < count; ++j) {
        for (int i = 0; i < width; i += kBeatBytes) {
#pragma HLS PIPELINE II=1
            const beat_t beat = load<kPort>(role, memory, address + static_cast<address_t>(j) * width + i);
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
                        float kappa, float cap, scores_stream& out) {
    const float inverse = cap > 0.0f ? 1.0f / cap : 0.0f;
    const float twice = cap > 0.0f ? (2.0f * kLog2e) / cap : 0.0f;
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
                const float y = saturate(static_cast<float>(sum) * flush(scale[lane] * key_scale[j]));
                score.value[lane] = cap > 0.0f ? capped(y, cap, inverse, twice) : y;
            }
        }
        out.write(score);
    }
    count_cycles(Loop::kScores, longest(g));
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
            const int from = seen_from(g, lane);
            if (lane < g.lanes && j >= from && j < seen_by(g, lane)) {
                peak[lane] = j == from || score.value[lane] > peak[lane] ? score.value[lane] : peak[lane];
                largest[lane] = j == from || value_scale[j] > largest[lane] ? value_scale[j] : largest[lane];
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
            if (lane < g.lanes && j >= seen_from(g, lane) && j < seen_by(g, lane)) {
                const uint16_t p = exp2_negative(exp_argument(peak[lane] - row[j].value[lane]));
                total[lane] += p;
                weight.value[lane] =
                    static_cast<uint16_t>(round_even(static_cast<float>(p) * flush(value_scale[j] * unit[lane])));
            }
        }
        out.write(weight);
    }
    count_cycles(Loop::kSoftmax, 2 * longest(g));
    for (int lane = 0; lane < g.lanes; ++lane) divisor.value[lane].total = static_cast<float>(total[lane]);
    divisors.write(divisor);
}

// Softmax x V, then DIV: a value row per cycle is broadcast to kTokenLanes accumulators of a head each.
inline void mix_group(weights_stream& in, divisors_stream& divisors, const int8_t value[kContext][kMaxHeadDim],
                          const Group& g, int head_dim, mixes_stream& out) {
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
        mixes_t element;
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            if (lane < g.lanes) {
                const Divisor& d = divisor.value[lane];
                element.value[lane] = flush((static_cast<float>(sum[lane][k]) / d.total) * power_of_two(d.exponent));
            }
        }
        out.write(element);
    }
    count_cycles(Loop::kMix, longest(g) + head_dim);
}

// The results of a group to their rows in DRAM.
inline void store_group(mixes_stream& in, const Group& g, int head_dim, address_t target, int stride, int column, beat_t* memory) {
    float out[kTokenLanes][kMaxHeadDim];
#pragma HLS ARRAY_PARTITION variable=out complete dim=1
Elements:
    for (int k = 0; k < head_dim; ++k) {
#pragma HLS PIPELINE II=1
        const mixes_t element = in.read();
        for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
            if (lane < g.lanes) out[lane][k] = element.value[lane];
        }
    }
StoreLanes:
    for (int lane = 0; lane < g.lanes; ++lane) {
        const address_t at = target + static_cast<address_t>(token_of(g, lane)) * stride * 4;
        const int head = (g.first + lane) / g.tokens;
        store_floats<kMemoryPort>(Role::kActivations, memory, at, column + head * head_dim, head_dim, out[lane]);
    }
}
