// SPDX-License-Identifier: Apache-2.0
// NEXT: the likeliest token of a row of logits is told to the host, and its embedding becomes the input of the next run, so that no
// host is needed between two tokens.  machine/instructions/next.py is the same in numpy.
#pragma once

#include "arithmetic.hpp"
#include "memory.hpp"

constexpr int kMostGroups = kMaxCols / kSmallestGroup + kFloatsInBeat;  // of a row of embeddings

// Integers in the order of floats, both zeros the same.
inline int32_t rank_of(uint32_t bits) {
#pragma HLS INLINE
    return (bits & ~kSignBit) == 0 ? 0 : order_of(as_float(bits));
}

// The index of the largest of `count` floats, the first of them.
inline uint32_t likeliest(const beat_t* memory, address_t logits, int count) {
    int32_t best = INT32_MIN;
    uint32_t index = 0;
Likeliest:
    for (int n = 0; n < pieces(count, kFloatsInBeat); ++n) {
#pragma HLS PIPELINE II=1
        const beat_t beat = load<kMemoryPort>(Role::kActivations, memory, logits, n);
        int32_t rank[kFloatsInBeat];
        uint32_t lane[kFloatsInBeat];
#pragma HLS ARRAY_PARTITION variable=rank complete
#pragma HLS ARRAY_PARTITION variable=lane complete
        for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
            rank[k] = n * kFloatsInBeat + k < count ? rank_of(word_of(beat, k)) : INT32_MIN;
            lane[k] = static_cast<uint32_t>(k);
        }
        for (int step = 1; step < kFloatsInBeat; step *= 2) {
#pragma HLS UNROLL
            for (int k = 0; k + step < kFloatsInBeat; k += 2 * step) {
#pragma HLS UNROLL
                const bool more = rank[k + step] > rank[k];
                rank[k] = more ? rank[k + step] : rank[k];
                lane[k] = more ? lane[k + step] : lane[k];
            }
        }
        const bool more = rank[0] > best;
        best = more ? rank[0] : best;
        index = more ? static_cast<uint32_t>(n * kFloatsInBeat) + lane[0] : index;
    }
    count_loop(Loop::kNext, pieces(count, kFloatsInBeat));
    return index;
}

// Whether the host named this token among those that end an answer.
inline bool is_end(const beat_t* constants, address_t ends, uint32_t token) {
    bool found = false;
LoadEnds:
    for (int n = 0; n < kEnds / kFloatsInBeat; ++n) {
#pragma HLS PIPELINE II=1
        const beat_t beat = load<kConstantsPort>(Role::kProgram, constants, ends, n);
        for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
            found = found || word_of(beat, k) == token;
        }
    }
    count_loop(Loop::kNext, kEnds / kFloatsInBeat);
    return found;
}

// An integer of eight bits and a sign as a float, by its leading bit.
inline float small_float(int value) {
#pragma HLS INLINE
    const auto magnitude = static_cast<uint32_t>(value < 0 ? -value : value);
    int top = 0;
    for (int b = 1; b < 9; ++b) {
#pragma HLS UNROLL
        if ((magnitude >> b & 1u) != 0) top = b;
    }
    const uint32_t mantissa = (magnitude << (23 - top)) & 0x7FFFFFu;
    return magnitude == 0 ? 0.0f : as_float((value < 0 ? kSignBit : 0u) | static_cast<uint32_t>(top + 127) << 23 | mantissa);
}

// A row of the table, times its scales and with its minima: an element a cycle.
inline void gather_row(beats_stream& codes, const float scale[kMostGroups], const float minimum[kMostGroups], int dim, int group, uint32_t form,
                       float factor, beats_stream& out) {
    const bool with_sign = (form & kCodesSigned) != 0, with_minima = (form & kCodesMinima) != 0;
    beat_t some = 0, beat = 0;
    int g = 0, at = 0;
Gather:
    for (int n = 0; n < padded(dim, kFloatsInBeat); ++n) {
#pragma HLS PIPELINE II=1
        if (n % kBeatBytes == 0) some = codes.read();
        const int8_t code = byte_of(some, n % kBeatBytes);
        const float product = small_float(with_sign ? static_cast<int>(code) : static_cast<int>(static_cast<uint8_t>(code))) * scale[g];
        const float x = (with_minima ? product + minimum[g] : product) * factor;
        for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
            if (k == n % kFloatsInBeat) set_word(beat, k, n < dim ? as_bits(x) : 0);
        }
        if (n % kFloatsInBeat == kFloatsInBeat - 1) out.write(beat);
        const bool next = at == group - 1;
        at = next ? 0 : at + 1;
        g = next ? g + 1 : g;
    }
    count_loop(Loop::kNext, padded(dim, kFloatsInBeat));
}

inline void store_row(beats_stream& row, address_t target, int beats, beat_t* memory) {
StoreRow:
    for (int n = 0; n < beats; ++n) {
#pragma HLS PIPELINE II=1
        store<kMemoryPort>(Role::kActivations, memory, target, n, row.read());
    }
    count_loop(Loop::kStore, beats);
}

inline void gather_region(const beat_t* constants, address_t row, int code_beats, int row_beats, const float scale[kMostGroups], const float minimum[kMostGroups], int dim,
                          int group, uint32_t form, float factor, address_t target, beat_t* memory) {
#pragma HLS DATAFLOW
    beats_stream codes;
    beats_stream made;
    load_stream<kConstantsPort>(Role::kWeights, constants, row, code_beats, Loop::kLoad, codes);
    gather_row(codes, scale, minimum, dim, group, form, factor, made);
    store_row(made, target, row_beats, memory);
}

// A row of embeddings to the residual stream.
inline void gather(const beat_t* constants, address_t row, int dim, int group, uint32_t form, float factor, address_t target, beat_t* memory) {
    const int groups = pieces(dim, group);
    float scale[kMostGroups], minimum[kMostGroups];
#pragma HLS ARRAY_PARTITION variable=scale cyclic factor=kFloatsInBeat
#pragma HLS ARRAY_PARTITION variable=minimum cyclic factor=kFloatsInBeat
    const address_t scales = row + static_cast<address_t>(pieces(dim, kBeatBytes));
    load_scales<kConstantsPort>(Role::kWeights, constants, scales, groups, scale);
    if ((form & kCodesMinima) != 0) {
        load_scales<kConstantsPort>(Role::kWeights, constants, scales + static_cast<address_t>(pieces(groups, kFloatsInBeat)), groups, minimum);
    }
    gather_region(constants, row, pieces(dim, kBeatBytes), pieces(dim, kFloatsInBeat), scale, minimum, dim, group, form, factor, target, memory);
}

// Whether the program is to run again, a position later.
inline bool run_next(Run& run, const Instruction& i, const beat_t* constants, beat_t* memory) {
    if (run.ahead == 0) return false;
    const uint32_t token = likeliest(memory, address_of(run, i.word[isa::next::logits]), static_cast<int>(i.word[isa::next::vocab]));
    const address_t ring = address_of(run, i.word[isa::next::ring]);
    const int place = static_cast<int>(run.made < i.word[isa::next::places] ? run.made : i.word[isa::next::places] - 1);
    ++run.made;
    // Token and number are one beat, so that a host that sees the number sees the token.
    beat_t told = 0;
    set_word(told, 0, token);
    set_word(told, 1, run.made);
    const bool ended = is_end(constants, address_of(run, i.word[isa::next::ends]), token);
    const bool again = !ended && run.made != run.ahead;  // as many as the context holds: run_program has looked
    store<kMemoryPort>(Role::kActivations, memory, ring, place, told);
    if (!again) return false;
    const int dim = static_cast<int>(i.word[isa::next::dim]), group = static_cast<int>(i.word[isa::next::group]);
    const uint32_t form = i.word[isa::next::form];
    const uint32_t shift = i.word[isa::next::shift] & 31u;
    const int scale_beats = pieces(pieces(dim, group), kFloatsInBeat);
    const int stride = pieces(dim, kBeatBytes) + ((form & kCodesMinima) != 0 ? 2 * scale_beats : scale_beats);
    const uint32_t part = token >> shift;
    const address_t table = address_of(run, i.word[isa::next::table0 + (part & 3u)]);
    const address_t row = table + (token & ((1u << shift) - 1u)) * static_cast<address_t>(stride);
    gather(constants, row, dim, group, form, as_float(i.word[isa::next::factor]), address_of(run, i.word[isa::next::x]), memory);
    ++run.position;
    return true;
}
