// SPDX-License-Identifier: Apache-2.0
// INT8 GEMM: weights stream once over their ports and meet every token of the block.  Results leave in FP32 tiles; what becomes of
// them is epilogue.hpp's business.
#pragma once

#include "arithmetic.hpp"
#include "columns.hpp"
#include "pacq.hpp"
#include "weights.hpp"

constexpr int kGroups = (kBlock + kTokenLanes - 1) / kTokenLanes;

// The integer sums of a group of tokens: one output feature of each port.
struct sums_t {
    int32_t value[kTokenLanes][kWeightPorts];
};

using sums_stream = hls::stream<sums_t, 2 * kGroups>;

// What the array needs to know about one matrix.
struct Matrix {
    address_t weights[4];
    address_t scale;
    address_t directory;
    uint32_t format;
    int rows;
    int words;      // lane words of a row
    int tile_rows;  // output features of a full tile
};

// On-chip buffers of the array, shared by every step that multiplies weights.
struct Array {
    lanes_t activation[kInt8Array ? kGroups * kTokenLanes + 1 : 1][kMaxWords];  // from the first token that is served on
    float scale[kBlock + kFloatsInBeat];
    scales_t row_scale[kRowScales];  // of the tile that column_gemm gives
    Table table0, table1, table2, table3;
    Streams streams0, streams1, streams2, streams3;
    results_t result;
};

// The engine's ports.  Designs with fewer weight ports alias the rest, which no code then reads.
#define READ_PORTS \
    const beat_t *weights0, const beat_t *weights1, const beat_t *weights2, const beat_t *weights3, const beat_t *constants
#define PASS_READ_PORTS weights0, weights1, weights2, weights3, constants

// `field` is the index of `weights0` in the instruction: the weight fields have the same order in every instruction.
inline Matrix matrix_of(const Run& run, const Instruction& i, int field, int rows, int cols, int tile_rows) {
    Matrix m;
    for (int p = 0; p < 4; ++p) {
#pragma HLS UNROLL
        m.weights[p] = p < kWeightPorts ? address_of(run, i.word[field + p]) : 0;
    }
    m.format = i.word[field + isa::matrix::format];
    m.directory = address_of(run, i.word[field + isa::matrix::directory]);
    m.scale = address_of(run, i.word[field + isa::matrix::weight_scale]);
    m.rows = rows;
    m.words = cols / kLaneCols;
    m.tile_rows = tile_rows;
    return m;
}

// INT8 rows first .. tokens of [tokens, words] and all scales into the array: one burst.
inline void load_activations(Array& array, const beat_t* memory, address_t codes, address_t scale, int first, int tokens, int words) {
    constexpr int kBeats = kLaneCols / kBeatBytes;
    const address_t from = codes + static_cast<address_t>(first * words * kBeats);
    lanes_t word;
    int t = 0, w = 0;
LoadActivations:
    for (int n = 0; n < (tokens - first) * words * kBeats; ++n) {
#pragma HLS PIPELINE II=1
        const beat_t beat = load<kMemoryPort>(Role::kActivations, memory, from, n);
        for (int k = 0; k < kLaneCols; ++k) {
#pragma HLS UNROLL
            if (k / kBeatBytes == n % kBeats) word.value[k] = byte_of(beat, k % kBeatBytes);
        }
        if (n % kBeats == kBeats - 1) {
            array.activation[t][w] = word;
            t = w == words - 1 ? t + 1 : t;
            w = w == words - 1 ? 0 : w + 1;
        }
    }
    count_loop(Loop::kLoad, (tokens - first) * words * kBeats);
    load_scales<kMemoryPort>(Role::kActivations, memory, scale, tokens, array.scale);
}

// The look-up tables, one copy a port.
inline void load_tables(Array& array, const Run& run, const beat_t* constants, const Instruction& i, int field) {
    const Coding coding = coding_of(i.word[field + isa::matrix::format]);
    if (is_raw(coding)) return;
    const int entries = static_cast<int>(i.word[field + isa::matrix::entries]);
    const address_t first = address_of(run, i.word[field + isa::matrix::table]);
    if constexpr (kPrefixCodes) {
        if (coding.prefix) {
            load_codes(constants, first, array.table0, array.table1, array.table2, array.table3);
        }
    }
    if constexpr (kLookupEntries > 0) {
        if (coding.chunk != 0) load_chunks(constants, first, entries, coding.chunk, array.table0, array.table1, array.table2, array.table3);
    }
}

// A tile against all tokens: a word of each port a cycle meets kTokenLanes tokens.  A group's sums leave with its last word,
// so that rows follow each other without a bubble: one loop with counters, since loops of variable bounds do not flatten.
inline void multiply(words_t words[kWeightPorts], const lanes_t activation[kInt8Array ? kGroups * kTokenLanes + 1 : 1][kMaxWords], int rows, int row_words,
                     int tokens, sums_stream& out) {
    const int groups = pieces(tokens, kTokenLanes);
    count_loop(Loop::kMultiply, static_cast<int64_t>(rows) * row_words * groups);
#ifdef MEADOW_SIMD
    for (int r = 0; r < rows; ++r) {
        const int8_t* weight[kWeightPorts];
        int32_t less[kWeightPorts];
        for (int p = 0; p < kWeightPorts; ++p) {
            weight[p] = words[p].take(row_words)->value;
            less[p] = simd::raised(weight[p], row_words);
        }
        for (int g = 0; g < groups; ++g) {
            sums_t sum;
            for (int lane = 0; lane < kTokenLanes; ++lane) {
                const int t = g * kTokenLanes + lane;
                if (t < tokens) simd::dot_rows<kWeightPorts>(activation[t][0].value, weight, less, row_words, sum.value[lane]);
            }
            out.write(sum);
        }
    }
#else
    sums_t sum[kGroups];
#pragma HLS ARRAY_PARTITION variable=sum complete
    lanes_t weight[kWeightPorts];
#pragma HLS ARRAY_PARTITION variable=weight complete
    int w = 0, g = 0;
Multiply:
    for (int n = 0; n < rows * row_words * groups; ++n) {
#pragma HLS PIPELINE II=1
        if (g == 0) {
            for (int p = 0; p < kWeightPorts; ++p) {
#pragma HLS UNROLL
                weight[p] = words[p].read();
            }
        }
        sums_t s = sum[g];
        for (int lane = 0; lane < kTokenLanes; lane += 2) {
#pragma HLS UNROLL
            for (int p = 0; p < kWeightPorts; ++p) {
#pragma HLS UNROLL
                int32_t low, high;
                dot_pair(activation[g * kTokenLanes + lane][w].value, activation[g * kTokenLanes + lane + 1][w].value, weight[p].value, low, high);
                s.value[lane][p] = (w == 0 ? 0 : s.value[lane][p]) + low;
                if (lane + 1 < kTokenLanes) s.value[lane + 1][p] = (w == 0 ? 0 : s.value[lane + 1][p]) + high;
            }
        }
        sum[g] = s;
        if (w == row_words - 1) out.write(s);
        const bool next = g == groups - 1;
        g = next ? 0 : g + 1;
        w = !next ? w : w == row_words - 1 ? 0 : w + 1;
    }
#endif
}

// Integer sums become FP32; row n of the tile came over port n mod kWeightPorts, and its scale lies in the beats of `scales`.
inline void rescale_tile(sums_stream& sums, beats_stream& scales, const float a_scale[kBlock + kFloatsInBeat], int port_rows, int first,
                         int tokens, results_t& result) {
    constexpr int kRows = kFloatsInBeat / kWeightPorts;  // of scales in a beat
    int t = first, r = 0, lane = 0;
    sums_t sum;
    beat_t beat = 0;
Rescale:
    for (int n = 0; n < port_rows * (tokens - first); ++n) {
#pragma HLS PIPELINE II=1
        if (t == first && r % kRows == 0) beat = scales.read();
        if (lane == 0) sum = sums.read();
        int32_t mine[kWeightPorts];
#pragma HLS ARRAY_PARTITION variable=mine complete
        for (int l = 0; l < kTokenLanes; ++l) {
#pragma HLS UNROLL
            for (int p = 0; p < kWeightPorts; ++p) {
#pragma HLS UNROLL
                if (l == lane) mine[p] = sum.value[l][p];
            }
        }
        float y[kWeightPorts];
#pragma HLS ARRAY_PARTITION variable=y complete
        for (int p = 0; p < kWeightPorts; ++p) {
#pragma HLS UNROLL
            y[p] = rescale(mine[p], a_scale[t], as_float(word_of(beat, r % kRows * kWeightPorts + p)));
        }
        put<kWeightPorts>(result.bank, t * kResultDepth, r * kWeightPorts, y);
        const bool next = t == tokens - 1;
        lane = next || lane == kTokenLanes - 1 ? 0 : lane + 1;
        t = next ? first : t + 1;
        r = next ? r + 1 : r;
    }
    count_loop(Loop::kRescale, static_cast<int64_t>(port_rows) * (tokens - first));
}

// Beats that each port streams in tile `tile`: from the directory when packed, else what the raw rows take.  A tile's
// entries lie in one beat.
inline void tile_beats(const Matrix& m, const beat_t* constants, int tile, int port_rows, int beats[4]) {
    const int raw = port_rows * m.words * (kLaneCols / kBeatBytes);
    for (int p = 0; p < 4; ++p) {
#pragma HLS UNROLL
        beats[p] = raw;
    }
    if (is_raw(coding_of(m.format))) return;
    const int index = tile * kWeightPorts;
    const beat_t beat = load<kConstantsPort>(Role::kWeights, constants, m.directory, index / kFloatsInBeat);
    count_loop(Loop::kLoad, 1);
    const int most = 2 * raw + kLaneCols;  // no code is twice as long as a weight
    for (int p = 0; p < kWeightPorts; ++p) {
#pragma HLS UNROLL
        const uint32_t found = word_of(beat, index % kFloatsInBeat + p);
        beats[p] = found < static_cast<uint32_t>(most) ? static_cast<int>(found) : most;  // a damaged one ends the tile all the same
    }
}

// One weight port's share of the pipeline: fetch, then unpack.
template <int kPort>
void stream_weights(const beat_t* port, address_t first, int beats, int words, int row_words, bool start, uint32_t format,
                    const Table& table, Streams& streams, words_t& out) {
#pragma HLS DATAFLOW
    beats_stream raw;
    load_stream<kPort>(Role::kWeights, port, first, beats, Loop::kFetch, raw);
    unpack(raw, beats, words, row_words, start, format, table, streams, out);
}

// One tile through the pipeline: each port fetches and unpacks, one array multiplies, one unit rescales.
inline void run_tile(address_t at0, address_t at1, address_t at2, address_t at3, int beats0, int beats1, int beats2, int beats3, int count,
                     bool start, uint32_t format, const Table& table0, const Table& table1, const Table& table2, const Table& table3,
                     Streams& streams0, Streams& streams1, Streams& streams2, Streams& streams3,
                     const lanes_t activation[kInt8Array ? kGroups * kTokenLanes + 1 : 1][kMaxWords], const float a_scale[kBlock + kFloatsInBeat],
                     address_t scale, int scale_beats, int port_rows, int row_words, int first, int tokens, int served,
                     results_t& result, READ_PORTS) {
#pragma HLS DATAFLOW
    words_t words[kWeightPorts];
    sums_stream sums;
    beats_stream scales;
    stream_weights<0>(weights0, at0, beats0, count, row_words, start, format, table0, streams0, words[0]);
    if constexpr (kWeightPorts > 1) {
        stream_weights<1>(weights1, at1, beats1, count, row_words, start, format, table1, streams1, words[1]);
    }
    if constexpr (kWeightPorts > 2) {
        stream_weights<2>(weights2, at2, beats2, count, row_words, start, format, table2, streams2, words[2]);
        stream_weights<3>(weights3, at3, beats3, count, row_words, start, format, table3, streams3, words[3]);
    }
    load_stream<kConstantsPort>(Role::kWeights, constants, scale, scale_beats, Loop::kLoad, scales);
    multiply(words, activation, port_rows, row_words, served, sums);
    rescale_tile(sums, scales, a_scale, port_rows, first, tokens, result);
}

// Steps through the tiles of a matrix, keeping each port's place in its stream.
struct TileWalk {
    address_t at[4];
    int tile;
    int in_segment;
};

inline TileWalk begin_tiles(const Matrix& m) {
    TileWalk walk;
    walk.tile = 0;
    walk.in_segment = 0;
    for (int p = 0; p < 4; ++p) {
#pragma HLS UNROLL
        walk.at[p] = m.weights[p];
    }
    return walk;
}

// Multiplies the next tile for tokens first .. tokens; returns how many of its output features are real.
inline int next_tile(TileWalk& walk, Array& array, const Matrix& m, int first, int tokens, READ_PORTS) {
    const int step = m.tile_rows / kWeightPorts;
    const int all_rows = pieces(m.rows, kWeightPorts);
    const int done = walk.tile * step;
    const int port_rows = all_rows - done < step ? all_rows - done : step;
    int beats[4];
#pragma HLS ARRAY_PARTITION variable=beats complete
    tile_beats(m, constants, walk.tile, port_rows, beats);
    const address_t scale = m.scale + static_cast<address_t>(walk.tile * pieces(m.tile_rows, kFloatsInBeat));
    run_tile(walk.at[0], walk.at[1], walk.at[2], walk.at[3], beats[0], beats[1], beats[2], beats[3], port_rows * m.words,
             walk.in_segment == 0, m.format, array.table0, array.table1, array.table2, array.table3, array.streams0, array.streams1,
             array.streams2, array.streams3, array.activation, array.scale, scale,
             pieces(port_rows * kWeightPorts, kFloatsInBeat), port_rows, m.words, first, tokens, tokens - first, array.result,
             PASS_READ_PORTS);
    for (int p = 0; p < 4; ++p) {
#pragma HLS UNROLL
        walk.at[p] += static_cast<address_t>(beats[p]);
    }
    const int left = m.rows - walk.tile * m.tile_rows;
    ++walk.tile;
    walk.in_segment = walk.in_segment == coding_of(m.format).segment - 1 ? 0 : walk.in_segment + 1;
    return left < m.tile_rows ? left : m.tile_rows;
}

// Whether the engine beside takes weights of this format.
inline bool is_streamed(uint32_t format) {
#pragma HLS INLINE
    return is_grouped(format) || is_columns(format);
}

// The command of an instruction, if it is for the engine beside.  The weight fields of LINEAR and TPHS lie at the same words.
inline void send_command(const Run& run, const Instruction& i, commands_stream& gemv_command) {
    static_assert(static_cast<int>(isa::linear::weights0) == static_cast<int>(isa::tphs::weights0) &&
                      static_cast<int>(isa::linear::hold) == static_cast<int>(isa::tphs::hold),
                  "LINEAR and TPHS name their weights alike");
    if (i.word[0] != isa::kLinear && i.word[0] != isa::kTphs) return;
    const uint32_t format = i.word[isa::linear::format];
    if (is_grouped(format)) send_grouped(run, i, gemv_command);
    if (is_columns(format)) send_columns(run, i, gemv_command);
}

// The same by the engine that takes weights of this format.
inline int some_rows(TileWalk& walk, Array& array, const Matrix& m, int first, int tokens, READ_PORTS, results_stream& gemv_result) {
    if (!is_streamed(m.format)) {
        if constexpr (kInt8Array) return next_tile(walk, array, m, first, tokens, PASS_READ_PORTS);
        return 0;
    }
    const int left = m.rows - walk.tile * m.tile_rows;
    const int real = left < m.tile_rows ? left : m.tile_rows;
    if constexpr (kColumns) {
        const address_t scale = m.scale + static_cast<address_t>(walk.tile * pieces(m.tile_rows, kFloatsInBeat));
        load_row_scales(constants, scale, real, array.row_scale);
        receive_sums(gemv_result, array.scale, array.row_scale, real, first, tokens, array.result);
    } else {
        receive_rows(gemv_result, m.format, real, first, tokens, array.result);
    }
    ++walk.tile;
    return real;
}
