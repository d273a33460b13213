// SPDX-License-Identifier: Apache-2.0
// From a weight port to lane words: fetching, and the look-up units that unpack one 128-bit beat per cycle.
// docs/packing.md has the formats; machine/storage/ is the same in numpy.
#pragma once

#include "memory.hpp"

constexpr int kHalfwords = 8 * kBeatBytes / kHalfwordBits;  // in a beat
constexpr int kWordDepth = 16;

using words_t = hls::stream<lanes_t, kWordDepth>;

// How one matrix is coded: from an instruction's `format`.
struct Coding {
    bool prefix;      // prefix codes, one per weight
    int chunk;        // published scheme: weights an id stands for; 0 otherwise
    int log_packets;  // published scheme: log2 of the packets in a beat
};

inline Coding coding_of(uint32_t format) {
#pragma HLS INLINE
    Coding coding;
    const int packets = static_cast<int>((format >> 8) & 255);
    coding.prefix = kPrefixCodes && format == kPrefixFormat;
    coding.chunk = static_cast<int>(format & 255);
    coding.log_packets = packets == 4 ? 2 : packets == 2 ? 1 : 0;
    return coding;
}

inline bool is_raw(const Coding& coding) {
#pragma HLS INLINE
    return !coding.prefix && coding.chunk == 0;
}

// Whether the array of this design takes weights of this format.
inline bool array_takes(uint32_t format) {
#pragma HLS INLINE
    const uint32_t chunk = format & 255, packets = (format >> 8) & 255;
    const bool published = kLookupEntries > 0 && format < (1u << 16) && (chunk == 1 || chunk == 2) &&
                           (packets == 1 || packets == 2 || packets == 4);
    return kInt8Array && (format == 0 || published || (kPrefixCodes && format == kPrefixFormat));
}

// The tables of one port: chunks of up to two weights, and a prefix code.  A unit that the design lacks has none.
struct Table {
    int8_t chunk[kLookupEntries > 0 ? kLookupEntries : 1][2];
    uint16_t bound[kCodeBits];   // windows below bound[l - 1] begin with a code of at most l bits
    uint16_t offset[kCodeBits];  // from a code of l bits to its weight's place
    int8_t weight[kPrefixCodes ? 256 : 1];
};

// A table is loaded once, into the copies of all ports.
inline void load_chunks(const beat_t* constants, address_t first, int entries, int chunk, Table& t0, Table& t1, Table& t2, Table& t3) {
LoadChunks:
    for (int n = 0; n < pieces(entries * chunk, kBeatBytes); ++n) {
#pragma HLS PIPELINE II=16
        const beat_t beat = load<kConstantsPort>(Role::kWeights, constants, first, n);
        for (int k = 0; k < kBeatBytes; ++k) {
#pragma HLS UNROLL
            const int at = chunk == 2 ? (n * kBeatBytes + k) / 2 : n * kBeatBytes + k;
            const int part = chunk == 2 ? k % 2 : 0;
            if (n * kBeatBytes + k < entries * chunk) {
                t0.chunk[at][part] = byte_of(beat, k);
                t1.chunk[at][part] = byte_of(beat, k);
                t2.chunk[at][part] = byte_of(beat, k);
                t3.chunk[at][part] = byte_of(beat, k);
            }
        }
    }
    count_loop(Loop::kTable, pieces(entries * chunk, kBeatBytes));
}

// Two arrays of 16 words of 16 bits, then the weights by rising code.
inline void load_codes(const beat_t* constants, address_t first, int entries, Table& table) {
    constexpr int kHeaderBeats = kPrefixHeaderBytes / kBeatBytes;
LoadCodes:
    for (int b = 0; b < kHeaderBeats + pieces(entries, kBeatBytes); ++b) {
#pragma HLS PIPELINE II=16
        const beat_t beat = load<kConstantsPort>(Role::kWeights, constants, first, b);
        for (int k = 0; k < kHalfwords; ++k) {
#pragma HLS UNROLL
            const int length = b % 2 * kHalfwords + k;
            const uint16_t word = halfword_of(beat, k);
            if (b < kHeaderBeats / 2) {
                if (length < kCodeBits) table.bound[length] = word;
            } else if (b < kHeaderBeats) {
                if (length < kCodeBits) table.offset[length] = word;
            } else {
                const int at = (b - kHeaderBeats) * kBeatBytes + 2 * k;
                table.weight[at & 255] = static_cast<int8_t>(word & 255);
                table.weight[(at + 1) & 255] = static_cast<int8_t>(word >> 8);
            }
        }
    }
    count_loop(Loop::kTable, kHeaderBeats + pieces(entries, kBeatBytes));
}

// Raw weights: two beats are one word.
inline void unpack_raw(beats_stream& beats, int words, words_t& out) {
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
    count_loop(Loop::kUnpack, 2 * words);
}

// The lanes of the prefix decoder and the halfwords that wait for them.
struct Lanes {
    uint32_t held[kLaneCols];  // bits not decoded yet, the next one on top
    uint16_t fill[kLaneCols];  // how many
    uint16_t queue[2 * kLaneCols + kHalfwords];  // what lies beyond the queue itself is never read as a code
    int queued;
};

// Place of each lane's next halfword in the queue, if it needs one: a lane takes it before a word for which it holds less
// than the longest code.  Returns how many lanes do.
inline int place_halfwords(const Lanes& lanes, uint8_t place[kLaneCols]) {
#pragma HLS INLINE
    int wanted = 0;
    for (int lane = 0; lane < kLaneCols; ++lane) {
#pragma HLS UNROLL
        place[lane] = static_cast<uint8_t>(wanted);
        wanted += lanes.fill[lane] < kCodeBits ? 1 : 0;
    }
    return wanted;
}

// One weight of every lane.
inline lanes_t decode_word(Lanes& lanes, const uint8_t place[kLaneCols], const Table& table) {
#pragma HLS INLINE
    uint16_t fresh[kLaneCols], window[kLaneCols], length[kLaneCols], offset[kLaneCols];
#pragma HLS ARRAY_PARTITION variable=fresh complete
#pragma HLS ARRAY_PARTITION variable=window complete
#pragma HLS ARRAY_PARTITION variable=length complete
#pragma HLS ARRAY_PARTITION variable=offset complete
    for (int lane = 0; lane < kLaneCols; ++lane) {
#pragma HLS UNROLL
        fresh[lane] = lanes.queue[place[lane]];
    }
    for (int lane = 0; lane < kLaneCols; ++lane) {
#pragma HLS UNROLL
        const bool take = lanes.fill[lane] < kCodeBits;
        lanes.held[lane] |= take ? static_cast<uint32_t>(fresh[lane]) << ((kHalfwordBits - lanes.fill[lane]) & 31) : 0;
        lanes.fill[lane] = static_cast<uint16_t>(lanes.fill[lane] + (take ? kHalfwordBits : 0));
        window[lane] = static_cast<uint16_t>(lanes.held[lane] >> (32 - kCodeBits));
        length[lane] = 1;
        offset[lane] = table.offset[0];
    }
    for (int l = 1; l < kCodeBits; ++l) {
#pragma HLS UNROLL
        const uint16_t bound = table.bound[l - 1];
        const uint16_t further = static_cast<uint16_t>(table.offset[l] - table.offset[l - 1]);
        for (int lane = 0; lane < kLaneCols; ++lane) {
#pragma HLS UNROLL
            const bool longer = window[lane] >= bound;
            length[lane] = static_cast<uint16_t>(length[lane] + (longer ? 1 : 0));
            offset[lane] = static_cast<uint16_t>(offset[lane] + (longer ? further : 0));
        }
    }
    for (int lane = 0; lane < kLaneCols; ++lane) {
#pragma HLS UNROLL
        offset[lane] = static_cast<uint16_t>(offset[lane] + static_cast<uint16_t>(window[lane] >> (kCodeBits - length[lane])));
        lanes.held[lane] <<= length[lane];
        lanes.fill[lane] = static_cast<uint16_t>(lanes.fill[lane] - length[lane]);
    }
    lanes_t word;
    for (int lane = 0; lane < kLaneCols; ++lane) {
#pragma HLS UNROLL
        word.value[lane] = table.weight[offset[lane] & 255];
    }
    return word;
}

// Prefix codes: a cycle takes a beat into the queue where there is room, and gives a word when the queue holds what its
// lanes need.
inline void unpack_prefix(beats_stream& beats, int count, int words, const Table& table, words_t& out) {
    constexpr int kQueue = kLaneCols + kHalfwords;
#ifdef MEADOW_SIMD
    const uint16_t* stream = reinterpret_cast<const uint16_t*>(beats.take(count));
    lanes_t* made = out.extend(words);
    const simd::Unpacked unpacked =
        simd::unpack_prefix<kCodeBits, kQueue>(stream, count, words, table.bound, table.offset, table.weight, made->value);
    out.shrink(words - unpacked.words);
    count_loop(Loop::kUnpack, unpacked.cycles);
#else
    Lanes lanes;
#pragma HLS ARRAY_PARTITION variable=lanes.held complete
#pragma HLS ARRAY_PARTITION variable=lanes.fill complete
#pragma HLS ARRAY_PARTITION variable=lanes.queue complete
    for (int lane = 0; lane < kLaneCols; ++lane) {
#pragma HLS UNROLL
        lanes.held[lane] = 0;
        lanes.fill[lane] = 0;
    }
    lanes.queued = 0;
    int taken = 0, done = 0, cycles = 0;
    bool damaged = false;
UnpackPrefix:
    for (; done < words && !damaged; ++cycles) {
#pragma HLS PIPELINE II=1
#pragma HLS LOOP_TRIPCOUNT min=1 max=16384
        if (taken < count && lanes.queued <= kQueue - kHalfwords) {
            const beat_t beat = beats.read();
            for (int k = 0; k < kHalfwords; ++k) {
#pragma HLS UNROLL
                lanes.queue[lanes.queued + k] = halfword_of(beat, k);
            }
            lanes.queued += kHalfwords;
            ++taken;
        }
        uint8_t place[kLaneCols];
#pragma HLS ARRAY_PARTITION variable=place complete
        const int wanted = place_halfwords(lanes, place);
        if (wanted <= lanes.queued) {
            out.write(decode_word(lanes, place, table));
            lanes.queued -= wanted;
            for (int k = 0; k < kQueue; ++k) {
#pragma HLS UNROLL
                lanes.queue[k] = lanes.queue[k + wanted];
            }
            ++done;
        } else {
            damaged = taken == count;  // the words that are missing are an error in simulation, and the watchdog's on a board
        }
    }
    for (; taken < count; ++taken) beats.read();
    count_loop(Loop::kUnpack, cycles);
#endif
}

// The ids of one beat: every lane shifts its own bits out, with no dependence on other lanes but the packets' modes.
inline int look_up(const beat_t& beat, const Coding& coding, const Table& table, int8_t* out) {
#pragma HLS INLINE
    constexpr int kMask = (kLookupEntries > 0 ? kLookupEntries : 1) - 1;
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
                    const int id = static_cast<int>(beat.range(at + width - 1, at).to_uint64()) & kMask;
                    for (int k = 0; k < 2; ++k) {
#pragma HLS UNROLL
                        if (k < coding.chunk) out[(first + lane) * coding.chunk + k] = table.chunk[id][k];
                    }
                }
            }
            first += count;
        }
    }
    return first * coding.chunk;
}

// The published scheme: one beat an iteration, at most one word out.  What the last beat holds beyond `words` is padding.
inline void unpack_packets(beats_stream& beats, int count, int words, const Coding& coding, const Table& table, words_t& out) {
    int8_t held[2 * kLaneCols];
#pragma HLS ARRAY_PARTITION variable=held complete
    int fill = 0;
    int left = words;
UnpackPackets:
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
    count_loop(Loop::kUnpack, count);
}

inline void unpack(beats_stream& beats, int count, int words, uint32_t format, const Table& table, words_t& out) {
    const Coding coding = coding_of(format);
    if (is_raw(coding)) {
        unpack_raw(beats, words, out);
        return;
    }
    if constexpr (kPrefixCodes) {
        if (coding.prefix) unpack_prefix(beats, count, words, table, out);
    }
    if constexpr (kLookupEntries > 0) {
        if (coding.chunk != 0) unpack_packets(beats, count, words, coding, table, out);
    }
}
