// SPDX-License-Identifier: Apache-2.0
// Beats in and out of the ports: addresses, bursts, floats.  Every access to DRAM in the engine is made here.
#pragma once

#include "types.hpp"

#ifndef __SYNTHESIS__
#include "sim/traffic.hpp"
#if defined(__AVX512VBMI2__) && defined(__AVX512VNNI__) && !defined(MEADOW_PLAIN_LANES)
#include "sim/lanes.hpp"
#define MEADOW_SIMD
#endif
#endif

// The byte address of a slot: chunk << 24 | beat.
inline address_t address_of(const Run& run, uint32_t slot) {
#pragma HLS INLINE
    return run.base[slot >> 24] + (static_cast<address_t>(slot & 0xFFFFFF) << 4);
}

// `iterations` of a pipelined loop, for the C simulation's count of cycles.
inline void count_cycles(Loop loop, int64_t iterations) {
#pragma HLS INLINE
#ifndef __SYNTHESIS__
    traffic::cycles[static_cast<int>(loop)] += static_cast<uint64_t>(iterations);
#endif
}

template <int kPort>
inline void count_read(Role role, address_t address, int beats) {
#pragma HLS INLINE
#ifndef __SYNTHESIS__
    traffic::access(kPort, 0, static_cast<int>(role), address, static_cast<uint64_t>(beats));
#endif
}

template <int kPort>
inline beat_t load(Role role, const beat_t* port, address_t address) {
#pragma HLS INLINE
    count_read<kPort>(role, address, 1);
    return port[address >> 4];
}

template <int kPort>
inline void store(Role role, beat_t* port, address_t address, beat_t beat) {
#pragma HLS INLINE
#ifndef __SYNTHESIS__
    traffic::access(kPort, 1, static_cast<int>(role), address, 1);
#endif
    port[address >> 4] = beat;
}

// A burst of `count` beats into a stream.
template <int kPort, int kDepth>
void load_stream(Role role, const beat_t* port, address_t address, int count, hls::stream<beat_t, kDepth>& out) {
    count_read<kPort>(role, address, count);
#ifdef MEADOW_SIMD
    std::memcpy(static_cast<void*>(out.extend(count)), port + (address >> 4), static_cast<std::size_t>(count) * kBeatBytes);
#else
LoadStream:
    for (int i = 0; i < count; ++i) {
#pragma HLS PIPELINE II=1
        out.write(port[(address >> 4) + static_cast<address_t>(i)]);
    }
#endif
    count_cycles(Loop::kFetch, count);
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

// `count` floats from a beat-aligned address.
template <int kPort>
void load_floats(Role role, const beat_t* port, address_t address, int count, float* out) {
LoadFloats:
    for (int i = 0; i < count; i += kFloatsInBeat) {
#pragma HLS PIPELINE II=1
        const beat_t beat = load<kPort>(role, port, address + static_cast<address_t>(i) * 4);
        for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
            if (i + k < count) out[i + k] = as_float(word_of(beat, k));
        }
    }
}

// `count` floats to element `first` of an array at a beat-aligned address.  What lies before them in their first beat
// is kept; what lies behind them in their last is set to zero.
template <int kPort>
void store_floats(Role role, beat_t* port, address_t base, int first, int count, const float* in) {
    const int offset = first % kFloatsInBeat;
    const address_t address = base + static_cast<address_t>(first - offset) * 4;
    beat_t beat = 0;
    if (offset != 0) beat = load<kPort>(role, port, address);
StoreFloats:
    for (int i = -offset; i < count; i += kFloatsInBeat) {
#pragma HLS PIPELINE II=1
        for (int k = 0; k < kFloatsInBeat; ++k) {
#pragma HLS UNROLL
            const int index = i + k;
            if (index >= 0) set_word(beat, k, index < count ? as_bits(in[index]) : 0);
        }
        store<kPort>(role, port, address + static_cast<address_t>(i + offset) * 4, beat);
    }
}

// `count` INT8 codes to a beat-aligned address, padded with zeros to whole beats.
template <int kPort>
void store_codes(Role role, beat_t* port, address_t address, int count, const int8_t* in) {
StoreCodes:
    for (int i = 0; i < count; i += kBeatBytes) {
#pragma HLS PIPELINE II=1
        beat_t beat = 0;
        for (int k = 0; k < kBeatBytes; ++k) {
#pragma HLS UNROLL
            if (i + k < count) set_byte(beat, k, in[i + k]);
        }
        store<kPort>(role, port, address + i, beat);
    }
}
