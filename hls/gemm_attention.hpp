// SPDX-License-Identifier: Apache-2.0
// Attention by GEMM, the baseline: queries, scores and probabilities each make the trip through DRAM, in three instructions.  The
// stages are attention.hpp's; here are the trips of a group's rows.
#pragma once

#include "attention.hpp"

// Scores of a group to their rows in DRAM; each row as far as its token sees.
inline void store_scores(const Cache& chip, const Group& g, address_t target, int stride, beat_t* memory) {
StoreScores:
    for (int lane = 0; lane < g.lanes; ++lane) {
        const address_t at = target + static_cast<address_t>((g.first + lane) * stride);
        const int seen = g.position + g.token + lane + 1;
    StoreScoreRow:
        for (int n = 0; n < pieces(seen, kFloatsInBeat); ++n) {
#pragma HLS PIPELINE II=1
            beat_t beat = 0;
            for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
                if (n * kFloatsInBeat + k < seen) set_word(beat, k, as_bits(chip.score[lane][n * kFloatsInBeat + k]));
            }
            store<kMemoryPort>(Role::kIntermediates, memory, at, n, beat);
        }
        count_loop(Loop::kStore, pieces(seen, kFloatsInBeat));
    }
}

inline void load_scores(Cache& chip, const Group& g, const beat_t* constants, address_t source, int stride) {
LoadScores:
    for (int lane = 0; lane < g.lanes; ++lane) {
        const address_t at = source + static_cast<address_t>((g.first + lane) * stride);
        const int seen = g.position + g.token + lane + 1;
        load_scales<kConstantsPort>(Role::kIntermediates, constants, at, seen, chip.score[lane]);
    }
}

// Folded probabilities and divisors of a group to DRAM.
inline void store_weights(const Cache& chip, const Group& g, address_t target, int stride, address_t divisors, beat_t* memory) {
    const address_t divisor = divisors + static_cast<address_t>(g.first);
StoreWeights:
    for (int lane = 0; lane < g.lanes; ++lane) {
        const address_t at = target + static_cast<address_t>((g.first + lane) * stride);
        const int seen = g.position + g.token + lane + 1;
    StoreWeightRow:
        for (int n = 0; n < pieces(seen, kWeightsInBeat); ++n) {
#pragma HLS PIPELINE II=1
            beat_t beat = 0;
            for (int k = 0; k < kWeightsInBeat; ++k) {
#pragma HLS UNROLL
                if (n * kWeightsInBeat + k < seen) beat.range(16 * k + 15, 16 * k) = chip.weight[lane][n * kWeightsInBeat + k];
            }
            store<kMemoryPort>(Role::kIntermediates, memory, at, n, beat);
        }
        count_loop(Loop::kStore, pieces(seen, kWeightsInBeat));
        beat_t beat = 0;
        set_word(beat, 0, chip.divisor.total[lane]);
        set_word(beat, 1, static_cast<uint32_t>(chip.divisor.exponent[lane]));
        store<kMemoryPort>(Role::kIntermediates, memory, divisor, lane, beat);
        count_loop(Loop::kStore, 1);
    }
}

inline void load_weights(Cache& chip, const Group& g, const beat_t* constants, address_t source, int stride, address_t divisors) {
    const address_t divisor = divisors + static_cast<address_t>(g.first);
LoadWeights:
    for (int lane = 0; lane < g.lanes; ++lane) {
        const address_t at = source + static_cast<address_t>((g.first + lane) * stride);
        const int seen = g.position + g.token + lane + 1;
    LoadWeightRow:
        for (int n = 0; n < pieces(seen, kWeightsInBeat); ++n) {
#pragma HLS PIPELINE II=1
            const beat_t beat = load<kConstantsPort>(Role::kIntermediates, constants, at, n);
            for (int k = 0; k < kWeightsInBeat; ++k) {
#pragma HLS UNROLL
                chip.weight[lane][n * kWeightsInBeat + k] = halfword_of(beat, k);
            }
        }
        count_loop(Loop::kLoad, pieces(seen, kWeightsInBeat));
        const beat_t beat = load<kConstantsPort>(Role::kIntermediates, constants, divisor, lane);
        count_loop(Loop::kLoad, 1);
        chip.divisor.total[lane] = word_of(beat, 0);
        chip.divisor.exponent[lane] = static_cast<int>(word_of(beat, 1));
    }
}
