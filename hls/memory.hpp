// SPDX-License-Identifier: Apache-2.0
// Beats in and out of the ports: addresses, bursts, floats.  Every access to DRAM in the engine is made here.  An address of a loop
// is a beat and the loop's counter, so that a tool finds the burst; a memory's bank is known where an access is written.
#pragma once

#include "types.hpp"

#ifndef __SYNTHESIS__
#include "sim/traffic.hpp"
#if defined(__AVX512VBMI2__) && defined(__AVX512VNNI__) && !defined(MEADOW_PLAIN_LANES)
#include "sim/lanes.hpp"
#define MEADOW_SIMD
#endif
#endif

// The address of a slot: chunk << 24 | beat.
inline address_t address_of(const Run& run, uint32_t slot) {
#pragma HLS INLINE
    return run.base[slot >> 24] + (slot & 0xFFFFFF);
}

// A pipelined loop is entered for so many iterations: the C simulation's count of cycles.
inline void count_loop(Loop loop, int64_t iterations) {
#pragma HLS INLINE
#ifndef __SYNTHESIS__
    traffic::cycles[static_cast<int>(loop)] += static_cast<uint64_t>(iterations);
    if (iterations != 0) ++traffic::entries[static_cast<int>(loop)];
#endif
}

template <int kPort>
inline void count_access(int way, Role role, address_t first, int n, int beats) {
#pragma HLS INLINE
#ifndef __SYNTHESIS__
    const uint64_t at = static_cast<uint64_t>(first) + static_cast<uint64_t>(static_cast<int64_t>(n));
    traffic::access(kPort, way, static_cast<int>(role), at * kBeatBytes, static_cast<uint64_t>(beats));
#endif
}

// Beat `n` from `first` on.
template <int kPort>
inline beat_t load(Role role, const beat_t* port, address_t first, int n) {
#pragma HLS INLINE
    count_access<kPort>(0, role, first, n, 1);
    return port[static_cast<uint64_t>(first) + static_cast<uint64_t>(n)];
}

template <int kPort>
inline void store(Role role, beat_t* port, address_t first, int n, beat_t beat) {
#pragma HLS INLINE
    count_access<kPort>(1, role, first, n, 1);
    port[static_cast<uint64_t>(first) + static_cast<uint64_t>(n)] = beat;
}

inline uint32_t word_of(const beat_t& beat, int index) {
#pragma HLS INLINE
    return static_cast<uint32_t>(beat.range(32 * index + 31, 32 * index).to_uint64());
}

inline void set_word(beat_t& beat, int index, uint32_t word) {
#pragma HLS INLINE
    beat.range(32 * index + 31, 32 * index) = word;
}

inline uint16_t halfword_of(const beat_t& beat, int index) {
#pragma HLS INLINE
    return static_cast<uint16_t>(beat.range(16 * index + 15, 16 * index).to_uint64());
}

inline int8_t byte_of(const beat_t& beat, int index) {
#pragma HLS INLINE
    return static_cast<int8_t>(beat.range(8 * index + 7, 8 * index).to_uint64());
}

inline void set_byte(beat_t& beat, int index, int8_t value) {
#pragma HLS INLINE
    beat.range(8 * index + 7, 8 * index) = static_cast<uint8_t>(value);
}

// A burst of `count` beats into a stream.
template <int kPort, int kDepth>
void load_stream(Role role, const beat_t* port, address_t first, int count, Loop loop, hls::stream<beat_t, kDepth>& out) {
#pragma HLS INLINE off
#ifdef MEADOW_SIMD
    count_access<kPort>(0, role, first, 0, count);
    std::memcpy(static_cast<void*>(out.extend(count)), port + first, static_cast<std::size_t>(count) * kBeatBytes);
#else
LoadStream:
    for (int n = 0; n < count; ++n) {
#pragma HLS PIPELINE II=1
        out.write(load<kPort>(role, port, first, n));
    }
#endif
    count_loop(loop, count);
}

// -- floats ------------------------------------------------------------------------------------------------------------

// The vector that beat `n` of a row of `count` floats belongs to, with what is known of it by then.
inline vector_t joined(const vector_t& before, const beat_t& beat, int n, int count) {
#pragma HLS INLINE
    vector_t word;
    const int part = n % kBeatsInVector;
    for (int k = 0; k < kFloatLanes; ++k) {
#pragma HLS UNROLL
        const bool here = k / kFloatsInBeat == part && n * kFloatsInBeat + k % kFloatsInBeat < count;
        const float other = part == 0 || k / kFloatsInBeat >= part ? 0.0f : before.value[k];
        word.value[k] = here ? as_float(word_of(beat, k % kFloatsInBeat)) : other;
    }
    return word;
}

// `count` floats as vectors.
template <int kPort>
void load_floats(Role role, const beat_t* port, address_t first, int count, vector_t* out) {
    vector_t word;
LoadFloats:
    for (int n = 0; n < pieces(count, kFloatsInBeat); ++n) {
#pragma HLS PIPELINE II=1
        word = joined(word, load<kPort>(role, port, first, n), n, count);
        out[n / kBeatsInVector] = word;
    }
    count_loop(Loop::kLoad, pieces(count, kFloatsInBeat));
}

template <int kPort>
void load_row(Role role, const beat_t* port, address_t first, int count, vectors_stream& out) {
    const int beats = pieces(count, kFloatsInBeat);
    vector_t word;
LoadRow:
    for (int n = 0; n < beats; ++n) {
#pragma HLS PIPELINE II=1
        word = joined(word, load<kPort>(role, port, first, n), n, count);
        if (n % kBeatsInVector == kBeatsInVector - 1 || n == beats - 1) out.write(word);
    }
    count_loop(Loop::kLoad, beats);
}

// `count` scales, one by one.
template <int kPort>
void load_scales(Role role, const beat_t* port, address_t first, int count, float* out) {
LoadScales:
    for (int n = 0; n < pieces(count, kFloatsInBeat); ++n) {
#pragma HLS PIPELINE II=1
        const beat_t beat = load<kPort>(role, port, first, n);
        for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
            out[n * kFloatsInBeat + k] = as_float(word_of(beat, k));
        }
    }
    count_loop(Loop::kLoad, pieces(count, kFloatsInBeat));
}

// Four floats, as bits.
struct four_t {
    uint32_t word[kFloatsInBeat];
};

// Those of beat `n` of `count` floats: from an array, or from a stream whose word is held while its beats are taken.
inline four_t four_at(const float* in, int n, int count, vector_t& /*held*/) {
#pragma HLS INLINE
    four_t four;
    for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
        four.word[k] = n * kFloatsInBeat + k < count ? as_bits(in[n * kFloatsInBeat + k]) : 0;
    }
    return four;
}

inline four_t part_of(const vector_t& held, int n, int count) {
#pragma HLS INLINE
    four_t four;
    for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
        float x = held.value[k];
        for (int part = 1; part < kBeatsInVector; ++part) {
#pragma HLS UNROLL
            if (n % kBeatsInVector == part) x = held.value[part * kFloatsInBeat + k];
        }
        four.word[k] = n * kFloatsInBeat + k < count ? as_bits(x) : 0;
    }
    return four;
}

inline four_t four_at(vectors_stream& in, int n, int count, vector_t& held) {
#pragma HLS INLINE
    if (n % kBeatsInVector == 0 && n * kFloatsInBeat < count) held = in.read();
    return part_of(held, n, count);
}

inline four_t four_at(const vector_t* in, int n, int count, vector_t& /*held*/) {
#pragma HLS INLINE
    return part_of(in[n / kBeatsInVector], n, count);
}

// `count` floats to element `first` of a row at `base`.  `kept` is the beat where they begin, as it was: what lies before them in
// it stays; what lies behind them in their last beat is set to zero.
template <int kPort, class Source>
void store_floats(Role role, beat_t* port, address_t base, int first, int count, const beat_t& kept, Source& in) {
    const int offset = first % kFloatsInBeat;
    const address_t at = base + static_cast<address_t>(first / kFloatsInBeat);
    four_t before;
#pragma HLS ARRAY_PARTITION variable=before.word complete
    for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
        before.word[k] = word_of(kept, k);  // only those before `offset` are used
    }
    vector_t held;
StoreFloats:
    for (int n = 0; n < pieces(offset + count, kFloatsInBeat); ++n) {
#pragma HLS PIPELINE II=1
        const four_t fresh = four_at(in, n, count, held);
        uint32_t both[2 * kFloatsInBeat];  // what was left over, then what came
#pragma HLS ARRAY_PARTITION variable=both complete
        for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
            both[k] = before.word[k];
            both[kFloatsInBeat + k] = fresh.word[k];
        }
        beat_t beat = 0;
        for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
            set_word(beat, k, k < offset ? both[k] : both[(kFloatsInBeat - offset + k) % (2 * kFloatsInBeat)]);
        }
        for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
            before.word[k] = both[(2 * kFloatsInBeat - offset + k) % (2 * kFloatsInBeat)];
        }
        store<kPort>(role, port, at, n, beat);
    }
    count_loop(Loop::kStore, pieces(offset + count, kFloatsInBeat));
}

// The beat in which element `first` of a row lies, where the row's floats begin within it.
inline beat_t kept_at(Role role, const beat_t* constants, address_t base, int first) {
    if (first % kFloatsInBeat == 0) return beat_t(0);
    count_loop(Loop::kLoad, 1);
    return load<kConstantsPort>(role, constants, base, first / kFloatsInBeat);
}

// -- banks -------------------------------------------------------------------------------------------------------------
// A row lies over kBanks memories, element n in memory n mod kBanks: a run of elements is read in a cycle wherever it begins.

template <int kCount, int kBanks, int kDepth, typename T>
inline void take(const T (&bank)[kBanks][kDepth], int row, int first, T (&out)[kCount]) {
#pragma HLS INLINE
    T all[kBanks];
#pragma HLS ARRAY_PARTITION variable=all complete
    for (int b = 0; b < kBanks; ++b) {
#pragma HLS UNROLL
        const int at = row + (first + ((b - first) & (kBanks - 1))) / kBanks;
        all[b] = bank[b][at < kDepth ? at : 0];
    }
    for (int k = 0; k < kCount; ++k) {
#pragma HLS UNROLL
        out[k] = all[(first + k) & (kBanks - 1)];
    }
}

// The same where `first` is a multiple of kCount.
template <int kCount, int kBanks, int kDepth, typename T>
inline void put(T (&bank)[kBanks][kDepth], int row, int first, const T (&in)[kCount]) {
#pragma HLS INLINE
    for (int b = 0; b < kBanks; ++b) {
#pragma HLS UNROLL
        if (b / kCount == first / kCount % (kBanks / kCount)) bank[b][row + first / kBanks] = in[b % kCount];
    }
}
