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
    int segment;      // of prefix codes: tiles through which their streams run on
    int chunk;        // published scheme: weights an id stands for; 0 otherwise
    int log_packets;  // published scheme: log2 of the packets in a beat
};

inline bool is_prefix(uint32_t format) {
#pragma HLS INLINE
    return (format & ~(kSegmentMask << kSegmentShift)) == kPrefixFormat;
}

inline Coding coding_of(uint32_t format) {
#pragma HLS INLINE
    Coding coding;
    const int packets = static_cast<int>((format >> 8) & 255);
    coding.prefix = kPrefixCodes && is_prefix(format);
    coding.segment = 1 << ((format >> kSegmentShift) & kSegmentMask);
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
    return kInt8Array && (format == 0 || published || (kPrefixCodes && is_prefix(format)));
}

constexpr int kChunkCopies = kLookupLanes / 2;  // a memory has two ports, and each look-up lane needs one
constexpr int kPlaces = kPrefixCodes ? kPrefixTableBytes - kPrefixHeaderBytes : 1;

// The tables of one port: chunks of up to two weights, and a prefix code.  A unit that the design lacks has none.
struct Table {
    int8_t chunk[kChunkCopies][kLookupEntries > 0 ? kLookupEntries : 1][2];
    uint8_t length[kPrefixLengths];                       // less one: of the first table in the low half, of the second above
    uint8_t offset[kPrefixOffsets];                       // by length less one: from a code to its weight's place
    int8_t weight_at[kPrefixCodes ? kLaneCols : 1][kPlaces];  // by place, for every lane
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
                for (int copy = 0; copy < kChunkCopies; ++copy) {
#pragma HLS UNROLL
                    t0.chunk[copy][at][part] = byte_of(beat, k);
                    t1.chunk[copy][at][part] = byte_of(beat, k);
                    t2.chunk[copy][at][part] = byte_of(beat, k);
                    t3.chunk[copy][at][part] = byte_of(beat, k);
                }
            }
        }
    }
    count_loop(Loop::kChunks, pieces(entries * chunk, kBeatBytes));
}

// The header is kept, so that its lengths go in beside the weights, four of each a cycle.
inline void load_codes(const beat_t* constants, address_t first, Table& t0, Table& t1, Table& t2, Table& t3) {
    constexpr int kHeaderBeats = kPrefixHeaderBytes / kBeatBytes;
    constexpr int kWeightBeats = kPrefixTableBytes / kBeatBytes - kHeaderBeats;
    constexpr int kLengths = kPrefixLengths / kWeightBeats;  // that go in with a beat of weights
    beat_t header[kHeaderBeats];
#pragma HLS ARRAY_PARTITION variable=header complete
LoadHeader:
    for (int b = 0; b < kHeaderBeats; ++b) {
#pragma HLS PIPELINE II=1
        header[b] = load<kConstantsPort>(Role::kWeights, constants, first, b);
    }
    count_loop(Loop::kLoad, kHeaderBeats);
    for (int k = 0; k < kPrefixOffsets; ++k) {
#pragma HLS UNROLL
        const uint8_t offset = static_cast<uint8_t>(byte_of(header[kHeaderBeats - 1], k));
        t0.offset[k] = t1.offset[k] = t2.offset[k] = t3.offset[k] = offset;
    }
LoadWeights:
    for (int b = 0; b < kWeightBeats; ++b) {
#pragma HLS PIPELINE II=4
        const beat_t beat = load<kConstantsPort>(Role::kWeights, constants, first + kHeaderBeats, b);
        for (int k = 0; k < kLengths; ++k) {
#pragma HLS UNROLL
            const int at = b * kLengths + k;
            const uint8_t length = static_cast<uint8_t>(byte_of(header[at / kBeatBytes], at % kBeatBytes));
            t0.length[at] = t1.length[at] = t2.length[at] = t3.length[at] = length;
        }
        for (int k = 0; k < kBeatBytes; ++k) {
#pragma HLS UNROLL
            for (int lane = 0; lane < kLaneCols; ++lane) {
#pragma HLS UNROLL
                t0.weight_at[lane][b * kBeatBytes + k] = byte_of(beat, k);
                t1.weight_at[lane][b * kBeatBytes + k] = byte_of(beat, k);
                t2.weight_at[lane][b * kBeatBytes + k] = byte_of(beat, k);
                t3.weight_at[lane][b * kBeatBytes + k] = byte_of(beat, k);
            }
        }
    }
    count_loop(Loop::kTable, kWeightBeats);
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

// One lane of the prefix decoder: three halfwords, the first bit that is not decoded, and how many halfwords it has had.
struct Lane {
    uint16_t first, second, third;
    uint16_t at;  // 16 and more: the first halfword is decoded and goes with the next step, so that no length decides it
    uint16_t had;
};

// Less one: the length of the code that a window begins with.
inline int length_of(int window, const Table& table) {
#pragma HLS INLINE
    constexpr int kEscape = (1 << kPrefixEscapeBits) - 1;
    const int first = window >> (kCodeBits - kPrefixIndexBits);
    const int second = (window >> (kCodeBits - kPrefixEscapeBits - kPrefixIndexBits)) & (kPrefixLengths - 1);
    return window >> (kCodeBits - kPrefixEscapeBits) == kEscape ? table.length[second] >> 4 : table.length[first] & 15;
}

// A lane goes on by a halfword where it has decoded one, and by a code.  Returns the code's place among the weights.
inline int decode(Lane& lane, uint16_t fresh, bool prime, const Table& table) {
#pragma HLS INLINE
    const uint32_t whole = static_cast<uint32_t>(lane.at >= kHalfwordBits ? lane.second : lane.first) << 16 |
                           (lane.at >= kHalfwordBits ? lane.third : lane.second);
    const int within = lane.at % kHalfwordBits;
    const int window = static_cast<int>(whole >> (2 * kHalfwordBits - kCodeBits - within)) & ((1 << kCodeBits) - 1);
    const int less = length_of(window, table);
    if (prime || lane.at >= kHalfwordBits) {
        lane.first = lane.second;
        lane.second = lane.third;
        lane.third = fresh;
        ++lane.had;
    }
    if (!prime) lane.at = static_cast<uint16_t>(within + less + 1);
    return ((window >> (kCodeBits - 1 - less)) + table.offset[less]) & 255;
}

// The columns of a row back in their order: lane l has column l + turn.  A step a bit of the turn, each without a choice of 32.
inline lanes_t turned_back(lanes_t word, int turn) {
#pragma HLS INLINE
    for (int by = 1; by < kLaneCols; by *= 2) {
#pragma HLS UNROLL
        lanes_t next;
        for (int k = 0; k < kLaneCols; ++k) {
#pragma HLS UNROLL
            next.value[k] = (turn & by) != 0 ? word.value[(k - by) & (kLaneCols - 1)] : word.value[k];
        }
        word = next;
    }
    return word;
}

// The streams of a port: they run on from tile to tile of a segment.  A round brings every lane a halfword.
struct Streams {
#ifdef MEADOW_SIMD
    simd::Streams simd;
#endif
    uint16_t fifo[kPrefixCodes ? kLaneCols : 1][kLaneFifo];
    Lane lane[kPrefixCodes ? kLaneCols : 1];
    uint16_t rounds;
    int turn;
};

// Prefix codes: a cycle gives a word when every lane has what it may need.  Whether it does, and whether there is room, is known two
// cycles later, which the margins allow for.
inline void unpack_prefix(beats_stream& beats, int count, int words, int row_words, bool start, const Table& table, Streams& streams,
                          words_t& out) {
    constexpr int kHeld = 3;              // halfwords of a lane
    constexpr int kNeeded = 3;            // that wait for a lane: one for each step until that is counted
    constexpr int kFull = kLaneFifo - 4;  // a round for each cycle, and the one that comes
    constexpr int kIdle = 8;              // cycles after which nothing will come of a stream
#ifdef MEADOW_SIMD
    const uint16_t* stream = reinterpret_cast<const uint16_t*>(beats.take(count));
    lanes_t* made = out.extend(words);
    const simd::Unpacked unpacked = simd::unpack_prefix<kTurn, kNeeded, kFull, kIdle>(
        streams.simd, stream, count, words, row_words, start, table.length, table.offset, table.weight_at[0], made->value);
    out.shrink(words - unpacked.words);
    count_loop(Loop::kUnpack, unpacked.cycles);
#else
    bool enough[kLaneCols], room[kLaneCols];
#pragma HLS ARRAY_PARTITION variable=enough complete
#pragma HLS ARRAY_PARTITION variable=room complete
    for (int l = 0; l < kLaneCols; ++l) {
#pragma HLS UNROLL
        if (start) streams.lane[l] = {0, 0, 0, 0, 0};
        enough[l] = false;
        room[l] = false;
    }
    if (start) streams.rounds = 0;
    if (start) streams.turn = 0;
    bool all_enough = false, all_room = false, damaged = false;
    int taken = 0, done = 0, cycles = 0, idle = 0, primed = start ? 0 : kHeld, column = 0;
UnpackPrefix:
    for (; (done < words || taken < count) && !damaged; ++cycles) {
#pragma HLS PIPELINE II=1
#pragma HLS DEPENDENCE variable=streams.fifo inter false
#pragma HLS LOOP_TRIPCOUNT min=1 max=16384
        const int group = taken % kRound;
        const bool take = taken < count && all_room, step = all_enough && done < words, prime = primed < kHeld;
        bool behind = false;  // a lane has decoded more than the stream held
        lanes_t word;
        for (int l = 0; l < kLaneCols; ++l) {
#pragma HLS UNROLL
            // Beats of this round have come for the groups before this one.
            const uint16_t came = static_cast<uint16_t>(streams.rounds + (l / kHalfwords < group ? 1 : 0));
            if (step) {
                const uint16_t fresh = streams.fifo[l][streams.lane[l].had % kLaneFifo];
                word.value[l] = table.weight_at[l][decode(streams.lane[l], fresh, prime, table)];
                const int left = static_cast<int16_t>(static_cast<uint16_t>(came - streams.lane[l].had));
                behind |= taken == count && !prime && streams.lane[l].at > kHalfwordBits * (left + kHeld);
            }
        }
        bool wanted = true, free = true;
        for (int l = 0; l < kLaneCols; ++l) {
#pragma HLS UNROLL
            wanted &= enough[l];
            free &= room[l];
        }
        for (int l = 0; l < kLaneCols; ++l) {
#pragma HLS UNROLL
            const uint16_t came = static_cast<uint16_t>(streams.rounds + (l / kHalfwords < group ? 1 : 0));
            const int waiting = static_cast<int16_t>(static_cast<uint16_t>(came - streams.lane[l].had));
            enough[l] = waiting >= kNeeded || taken == count;
            room[l] = waiting < kFull;
        }
        all_enough = wanted;
        all_room = free;
        if (take) {
            const beat_t beat = beats.read();
            for (int l = 0; l < kLaneCols; ++l) {
#pragma HLS UNROLL
                if (l / kHalfwords == group) streams.fifo[l][streams.rounds % kLaneFifo] = halfword_of(beat, l % kHalfwords);
            }
            if (group == kRound - 1) ++streams.rounds;
            ++taken;
        }
        if (step && !prime) {
            if (!behind) out.write(turned_back(word, streams.turn));
            ++done;
            const bool last = column == row_words - 1;
            column = last ? 0 : column + 1;
            streams.turn = last ? (streams.turn + kTurn) % kLaneCols : streams.turn;
        }
        if (step && prime) ++primed;
        idle = take || step ? 0 : idle + 1;
        damaged = behind || idle == kIdle;  // the words that are missing are an error in simulation, and the watchdog's on a board
    }
    for (; taken < count; ++taken) beats.read();
    count_loop(Loop::kUnpack, cycles);
#endif
}

// The ids of one beat: every lane shifts its own bits out, with no dependence on other lanes but the packets' modes.
inline int look_up(const beat_t& beat, const Coding& coding, const Table& table, int8_t* out) {
#pragma HLS INLINE
    constexpr int kMask = (kLookupEntries > 0 ? kLookupEntries : 1) - 1;
    constexpr int kLogLanes = 4;
    static_assert(1 << kLogLanes == kLookupLanes, "lanes are told from packets by bits");
    const int log_lanes = kLogLanes - coding.log_packets;  // of a packet
    const int packet_bits = 8 * kBeatBytes >> coding.log_packets;
    int first[5], width[4];
#pragma HLS ARRAY_PARTITION variable=first complete
#pragma HLS ARRAY_PARTITION variable=width complete
    first[0] = 0;
Packets:
    for (int packet = 0; packet < 4; ++packet) {
#pragma HLS UNROLL
        const int start = (packet * packet_bits) & (8 * kBeatBytes - 1);
        width[packet] = static_cast<int>(beat.range(start + kModeBits - 1, start).to_uint64()) + 1;
        first[packet + 1] = first[packet] + (packet < 1 << coding.log_packets ? kIdsInPacket[coding.log_packets][width[packet]] : 0);
    }
Lanes:
    for (int lane = 0; lane < kLookupLanes; ++lane) {
#pragma HLS UNROLL
        const int packet = lane >> log_lanes;
        const int mine = first[packet] + lane - (packet << log_lanes);
        if (mine < first[packet + 1]) {
            const int at = packet * packet_bits + kModeBits + (mine - first[packet]) * width[packet];
            const int id = static_cast<int>(beat.range(at + width[packet] - 1, at).to_uint64()) & kMask;
            for (int k = 0; k < 2; ++k) {
#pragma HLS UNROLL
                if (k < coding.chunk) out[mine * coding.chunk + k] = table.chunk[lane / 2][id][k];
            }
        }
    }
    return first[4] * coding.chunk;
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

inline void unpack(beats_stream& beats, int count, int words, int row_words, bool start, uint32_t format, const Table& table,
                   Streams& streams, words_t& out) {
    const Coding coding = coding_of(format);
    if (is_raw(coding)) {
        unpack_raw(beats, words, out);
        return;
    }
    if constexpr (kPrefixCodes) {
        if (coding.prefix) unpack_prefix(beats, count, words, row_words, start, table, streams, out);
    }
    if constexpr (kLookupEntries > 0) {
        if (coding.chunk != 0) unpack_packets(beats, count, words, coding, table, out);
    }
}
