// SPDX-License-Identifier: Apache-2.0
// From a weight port to lane words: fetching, and the look-up unit that unpacks one 128-bit beat a cycle.
// docs/packing.md has the format; compiler/unpack.py is the same in numpy.
#pragma once

#include "memory.hpp"

constexpr int kModeBits = 4;
constexpr int kBeatDepth = 64;
constexpr int kWordDepth = 16;

using beats_t = hls::stream<beat_t, kBeatDepth>;
using words_t = hls::stream<lanes_t, kWordDepth>;

// How one matrix is coded: from an instruction's `format`, `entries` and `table`.
struct Coding {
    int chunk;        // weights an id stands for; 0 when raw
    int log_packets;  // log2 of the packets in a beat
};

inline Coding coding_of(uint32_t format) {
#pragma HLS INLINE
    Coding coding;
    const int packets = static_cast<int>(format >> 8);
    coding.chunk = static_cast<int>(format & 255);
    coding.log_packets = packets == 4 ? 2 : packets == 2 ? 1 : 0;
    return coding;
}

// The look-up table of one port: chunks of up to two weights.
struct Table {
    int8_t value[kLookupEntries][2];
};

inline void load_table(const beat_t* constants, address_t address, int entries, int chunk, Table& table) {
LoadTable:
    for (int i = 0; i < entries * chunk; i += kBeatBytes) {
        const beat_t beat = load<kConstantsPort>(constants, address + i);
        for (int k = 0; k < kBeatBytes; ++k) {
            const int at = i + k;
            if (at < entries * chunk) table.value[at / chunk][at % chunk] = byte_of(beat, k);
        }
    }
}

// Raw weights: two beats are one word.
inline void unpack_raw(beats_t& beats, int words, words_t& out) {
UnpackRaw:
    for (int i = 0; i < words; ++i) {
#pragma HLS PIPELINE II=2
        lanes_t word;
        for (int half = 0; half < kLaneCols / kBeatBytes; ++half) {
            const beat_t beat = beats.read();
            for (int k = 0; k < kBeatBytes; ++k) {
#pragma HLS UNROLL
                word.value[half * kBeatBytes + k] = byte_of(beat, k);
            }
        }
        out.write(word);
    }
}

// The ids of one beat: every lane shifts its own bits out, with no dependence on other lanes but the packets' modes.
inline int look_up(const beat_t& beat, const Coding& coding, const Table& table, int8_t* out) {
#pragma HLS INLINE
    const int packets = 1 << coding.log_packets;
    const int packet_bits = 8 * kBeatBytes >> coding.log_packets;
    const int lanes = kLookupLanes >> coding.log_packets;
    int first = 0;
Packets:
    for (int packet = 0; packet < 4; ++packet) {
#pragma HLS UNROLL
        if (packet < packets) {
            const int start = packet * packet_bits;
            const int width = static_cast<int>(beat.range(start + kModeBits - 1, start).to_uint64()) + 1;
            const int count = kIdsInPacket[coding.log_packets][width];
        Lanes:
            for (int lane = 0; lane < kLookupLanes; ++lane) {
#pragma HLS UNROLL
                if (lane < lanes && lane < count) {
                    const int at = start + kModeBits + lane * width;
                    const int id = static_cast<int>(beat.range(at + width - 1, at).to_uint64()) & (kLookupEntries - 1);
                    for (int k = 0; k < 2; ++k) {
#pragma HLS UNROLL
                        if (k < coding.chunk) out[(first + lane) * coding.chunk + k] = table.value[id][k];
                    }
                }
            }
            first += count;
        }
    }
    return first * coding.chunk;
}

// Packed weights: one beat an iteration, at most one word out.  What the last beat holds beyond `words` is padding.
inline void unpack_packed(beats_t& beats, int count, int words, const Coding& coding, const Table& table, words_t& out) {
    int8_t held[2 * kLaneCols];
#pragma HLS ARRAY_PARTITION variable=held complete
    int fill = 0;
    int left = words;
UnpackPacked:
    for (int i = 0; i < count; ++i) {
#pragma HLS PIPELINE II=1
        int8_t fresh[kLaneCols];
#pragma HLS ARRAY_PARTITION variable=fresh complete
        const int got = look_up(beats.read(), coding, table, fresh);
        for (int k = 0; k < kLaneCols; ++k) {
#pragma HLS UNROLL
            if (k < got) held[fill + k] = fresh[k];
        }
        fill += got;
        if (fill >= kLaneCols) {
            lanes_t word;
            for (int k = 0; k < kLaneCols; ++k) {
#pragma HLS UNROLL
                word.value[k] = held[k];
                held[k] = held[k + kLaneCols];
            }
            fill -= kLaneCols;
            if (left > 0) out.write(word);
            --left;
        }
    }
}

inline void unpack(beats_t& beats, int count, int words, const Coding& coding, const Table& table, words_t& out) {
    if (coding.chunk == 0) {
        unpack_raw(beats, words, out);
    } else {
        unpack_packed(beats, count, words, coding, table, out);
    }
}
