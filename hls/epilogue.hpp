// SPDX-License-Identifier: Apache-2.0
// What is done with a tile of results: a bias, then heads (normed, turned, quantized) or rows (stored, added, activated, joined in
// pairs).  Each stage takes all tokens in one loop, so that its latency is paid once a tile.
#pragma once

#include "activation.hpp"
#include "array.hpp"
#include "norm.hpp"

constexpr int kHeadVectors = kMaxHeadDim / kFloatLanes + 2;  // halves of any length begin a vector each
constexpr int kRopeBanks = kResultBanks;                      // a beat of the table has eight factors
constexpr int kFactorsInBeat = kBeatBytes / 2;
constexpr int kRopeDepth = pieces(kMaxHeadDim + kFactorsInBeat, kRopeBanks);
constexpr int kHeadBeats = kMaxHeadDim / kBeatBytes;
static_assert(kRopeBanks % kFactorsInBeat == 0, "a beat of factors is written at once");

// Rows of heads, as they are made and as they attend.
struct HeadRows {
    int16_t factor[kRopeBanks][kBlock * kRopeDepth];  // cosines and sines of the block's positions
    vector_t turned[kBlock * kHeadVectors];
    uint32_t peak[kBlock];
    head_t code[kBlock];
    float scale[kBlock + kFloatsInBeat];
};

inline vector_t results_at(const results_t& result, int t, int first) {
#pragma HLS INLINE
    float x[kFloatLanes];
#pragma HLS ARRAY_PARTITION variable=x complete
    take(result.bank, t * kResultDepth, first, x);
    vector_t v;
    for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
        v.value[k] = x[k];
    }
    return v;
}

inline void set_results(results_t& result, int t, int first, const vector_t& v) {
#pragma HLS INLINE
    put(result.bank, t * kResultDepth, first, v.value);
}

// Elements from `first` on of a row of `count`; zeros behind it.
inline vector_t ended(vector_t v, int first, int count) {
#pragma HLS INLINE
    for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
        v.value[k] = first + k < count ? v.value[k] : 0.0f;
    }
    return v;
}

// The bias of a tile, read once.
inline void add_bias(results_t& result, const beat_t* constants, address_t bias, int rows, int first, int tokens) {
    vector_t line[kMaxTileRows / kFloatLanes + 1];
#pragma HLS AGGREGATE variable=line
    load_floats<kConstantsPort>(Role::kWeights, constants, bias, rows, line);
    const int vectors = pieces(rows, kFloatLanes);
    int t = first, j = 0;
Bias:
    for (int n = 0; n < vectors * (tokens - first); ++n) {
#pragma HLS PIPELINE II=1
#pragma HLS DEPENDENCE variable=result.bank type=inter dependent=false
        set_results(result, t, j * kFloatLanes, added(results_at(result, t, j * kFloatLanes), line[j]));
        const bool next = j == vectors - 1;
        t = next ? t + 1 : t;
        j = next ? 0 : j + 1;
    }
    count_loop(Loop::kEpilogue, vectors * (tokens - first));
}

// The norm of one head of every token, in place, before it turns.
inline void norm_heads(results_t& result, HeadRows& heads, const beat_t* constants, address_t gain, float eps, int head_dim, int tokens) {
    vector_t line[kMaxHeadDim / kFloatLanes + 1];
    int64_t squares[kBlock];
    float inverse[kBlock];
#pragma HLS AGGREGATE variable=line
    load_floats<kConstantsPort>(Role::kWeights, constants, gain, head_dim, line);
    const float inverse_count = 1.0f / static_cast<float>(head_dim);
    const int vectors = pieces(head_dim, kFloatLanes);
    uint32_t peak = 0;
    int t = 0, j = 0;
HeadPeaks:
    for (int n = 0; n < vectors * tokens; ++n) {
#pragma HLS PIPELINE II=1
        const uint32_t most = peak_of(ended(results_at(result, t, j * kFloatLanes), j * kFloatLanes, head_dim));
        peak = j == 0 || most > peak ? most : peak;
        const bool next = j == vectors - 1;
        if (next) heads.peak[t] = peak;
        t = next ? t + 1 : t;
        j = next ? 0 : j + 1;
    }
    square_sum_t total = 0;
    t = j = 0;
HeadSquares:
    for (int n = 0; n < vectors * tokens; ++n) {
#pragma HLS PIPELINE II=1
        const int exponent = norm_exponent(heads.peak[t]);
        const int64_t some = sum_of_squares(ended(results_at(result, t, j * kFloatLanes), j * kFloatLanes, head_dim), exponent);
        total = (j == 0 ? 0 : total.to_int64()) + some;
        const bool next = j == vectors - 1;
        if (next) squares[t] = total.to_int64();
        t = next ? t + 1 : t;
        j = next ? 0 : j + 1;
    }
HeadRoots:
    for (int n = 0; n < tokens; ++n) {
#pragma HLS PIPELINE II=1
        inverse[n] = inverse_root(squares[n], norm_exponent(heads.peak[n]), eps, inverse_count);
    }
    t = j = 0;
HeadScale:
    for (int n = 0; n < vectors * tokens; ++n) {
#pragma HLS PIPELINE II=1
#pragma HLS DEPENDENCE variable=result.bank type=inter dependent=false
        set_results(result, t, j * kFloatLanes, scaled(results_at(result, t, j * kFloatLanes), inverse[t], line[j]));
        const bool next = j == vectors - 1;
        t = next ? t + 1 : t;
        j = next ? 0 : j + 1;
    }
    count_loop(Loop::kEpilogue, vectors * tokens);
    count_loop(Loop::kEpilogue, vectors * tokens);
    count_loop(Loop::kEpilogue, tokens);
    count_loop(Loop::kEpilogue, vectors * tokens);
}

// Cosines and sines of the run's positions: one burst for a step.
inline void load_rope(HeadRows& heads, const beat_t* constants, address_t table, int position, int tokens, int head_dim) {
    const int row = pieces(head_dim, kFactorsInBeat);
    const address_t from = table + static_cast<address_t>(position * row);
    int t = 0, b = 0;
LoadRope:
    for (int n = 0; n < tokens * row; ++n) {
#pragma HLS PIPELINE II=1
        const beat_t beat = load<kConstantsPort>(Role::kWeights, constants, from, n);
        int16_t factor[kFactorsInBeat];
#pragma HLS ARRAY_PARTITION variable=factor complete
        for (int k = 0; k < kFactorsInBeat; ++k) {
#pragma HLS UNROLL
            factor[k] = static_cast<int16_t>(halfword_of(beat, k));
        }
        put(heads.factor, t * kRopeDepth, b * kFactorsInBeat, factor);
        const bool next = b == row - 1;
        t = next ? t + 1 : t;
        b = next ? 0 : b + 1;
    }
    count_loop(Loop::kLoad, tokens * row);
}

// One head of every token: turned by its position or not, quantized, to the rows from `first` on.
inline void finish_heads(const results_t& result, HeadRows& heads, int first, int tokens, int head_dim, bool rope) {
    const int half = rope ? head_dim / 2 : head_dim;
    const int steps = pieces(half, kFloatLanes);
    const int vectors = rope ? 2 * steps : steps;
    uint32_t peak = 0;
    int t = 0, j = 0;
Turn:
    for (int n = 0; n < steps * tokens; ++n) {
#pragma HLS PIPELINE II=1
        const int at = j * kFloatLanes;
        vector_t low = results_at(result, t, at);
        vector_t high = results_at(result, t, half + at);
        int16_t cosine[kFloatLanes], sine[kFloatLanes];
#pragma HLS ARRAY_PARTITION variable=cosine complete
#pragma HLS ARRAY_PARTITION variable=sine complete
        take(heads.factor, t * kRopeDepth, at, cosine);
        take(heads.factor, t * kRopeDepth, half + at, sine);
        for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
            if (rope) turn(low.value[k], high.value[k], cosine[k], sine[k]);
        }
        low = ended(low, at, half);
        high = ended(high, at, rope ? half : 0);
        heads.turned[t * kHeadVectors + j] = low;
        if (rope) heads.turned[t * kHeadVectors + steps + j] = high;
        const uint32_t a = peak_of(low), b = peak_of(high);
        const uint32_t most = a > b ? a : b;
        peak = j == 0 || most > peak ? most : peak;
        const bool next = j == steps - 1;
        if (next) heads.peak[t] = peak;
        t = next ? t + 1 : t;
        j = next ? 0 : j + 1;
    }
    float inverse[kBlock];
HeadLevels:
    for (int n = 0; n < tokens; ++n) {
#pragma HLS PIPELINE II=1
        const Levels levels = levels_of(heads.peak[n]);
        inverse[n] = levels.inverse;
        heads.scale[first + n] = levels.scale;
    }
    head_t row;
    t = j = 0;
HeadCodes:
    for (int n = 0; n < vectors * tokens; ++n) {
#pragma HLS PIPELINE II=1
        const vector_t v = heads.turned[t * kHeadVectors + j];
        const int start = j < steps ? j * kFloatLanes : half + (j - steps) * kFloatLanes;
        int8_t code[kFloatLanes];
#pragma HLS ARRAY_PARTITION variable=code complete
        for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
            code[k] = code_of(v.value[k], inverse[t]);
        }
        for (int k = 0; k < kMaxHeadDim; ++k) {
#pragma HLS UNROLL
            const int part = k - start;
            if (part >= 0 && part < kFloatLanes) {
                row.value[k] = code[part & (kFloatLanes - 1)];
            } else if (j == 0) {
                row.value[k] = 0;
            }
        }
        const bool next = j == vectors - 1;
        if (next) heads.code[first + t] = row;
        t = next ? t + 1 : t;
        j = next ? 0 : j + 1;
    }
    count_loop(Loop::kEpilogue, steps * tokens);
    count_loop(Loop::kEpilogue, tokens);
    count_loop(Loop::kEpilogue, vectors * tokens);
}

// The rows of a head that were made, to their place: codes in one burst, and scales from token `start` on.
inline void store_heads(const HeadRows& heads, Role role, const beat_t* constants, beat_t* memory, address_t codes, address_t scales, int start,
                        int tokens, int head_dim) {
    const int width = pieces(head_dim, kBeatBytes);
    int t = 0, b = 0;
StoreHeads:
    for (int n = 0; n < tokens * width; ++n) {
#pragma HLS PIPELINE II=1
        const head_t row = heads.code[t];
        beat_t beat = 0;
        for (int part = 0; part < kHeadBeats; ++part) {
#pragma HLS UNROLL
            for (int k = 0; k < kBeatBytes; ++k) {
#pragma HLS UNROLL
                if (part == b) set_byte(beat, k, row.value[part * kBeatBytes + k]);
            }
        }
        store<kMemoryPort>(role, memory, codes, n, beat);
        const bool next = b == width - 1;
        t = next ? t + 1 : t;
        b = next ? 0 : b + 1;
    }
    count_loop(Loop::kStore, tokens * width);
    const beat_t kept = kept_at(role, constants, scales, start);
    store_floats<kMemoryPort>(role, memory, scales, start, tokens, kept, heads.scale);
}

// -- rows ----------------------------------------------------------------------------------------------------------------

// What becomes of rows of results, as scalars for the stages.
struct RowsStep {
    int epilogue, function;
    int first, tokens;
    int column, columns;  // of the target
    int stride;           // beats of a row of the target
};

// Rows of the target where they are added to, and the beats in which rows begin where those are not whole; over the port of the
// constants, since `memory` is being written.
inline void load_targets(const beat_t* constants, address_t target, RowsStep step, vectors_stream& rows, beats_stream& kept) {
LoadTargets:
    for (int t = step.first; t < step.tokens; ++t) {
        const address_t at = target + static_cast<address_t>(t * step.stride);
        kept.write(kept_at(Role::kActivations, constants, at, step.column));
        if (step.epilogue == isa::kEpilogueAdd) {
            load_row<kConstantsPort>(Role::kActivations, constants, at + static_cast<address_t>(step.column / kFloatsInBeat), step.columns, rows);
        }
    }
}

inline void finish_rows(const results_t& result, vectors_stream& rows, RowsStep step, vectors_stream& out) {
    const bool glu = step.epilogue == isa::kEpilogueGlu;
    const bool act = step.epilogue == isa::kEpilogueAct;
    const int vectors = pieces(step.columns, kFloatLanes);
    int t = step.first, j = 0;
FinishRows:
    for (int n = 0; n < vectors * (step.tokens - step.first); ++n) {
#pragma HLS PIPELINE II=1
        const int at = j * kFloatLanes;
        vector_t y = results_at(result, t, at);
        float pair[kResultBanks];
#pragma HLS ARRAY_PARTITION variable=pair complete
        take(result.bank, t * kResultDepth, 2 * at, pair);
        for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
            const float gate = glu ? pair[2 * k] : y.value[k];
            if (glu || act) y.value[k] = activated(step.function, gate, glu, pair[2 * k + 1]);
        }
        if (step.epilogue == isa::kEpilogueAdd) y = added(rows.read(), y);
        out.write(y);
        const bool next = j == vectors - 1;
        t = next ? t + 1 : t;
        j = next ? 0 : j + 1;
    }
    count_loop(Loop::kEpilogue, vectors * (step.tokens - step.first));
}

inline void store_targets(vectors_stream& rows, beats_stream& kept, RowsStep step, address_t target, beat_t* memory) {
StoreTargets:
    for (int t = step.first; t < step.tokens; ++t) {
        const beat_t before = kept.read();
        const address_t at = target + static_cast<address_t>(t * step.stride);
        store_floats<kMemoryPort>(Role::kActivations, memory, at, step.column, step.columns, before, rows);
    }
}

// Rows of FP32: stored, added to what is there, activated, or pairs of columns joined by function(gate) * up.
inline void rows_region(const results_t& result, const beat_t* constants, address_t target, RowsStep step, beat_t* memory) {
#pragma HLS DATAFLOW
    vectors_stream before;
    vectors_stream made;
    beats_stream kept;
    load_targets(constants, target, step, before, kept);
    finish_rows(result, before, step, made);
    store_targets(made, kept, step, target, memory);
}
