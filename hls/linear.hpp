// SPDX-License-Identifier: Apache-2.0
// INT8 GEMM: weights stream once over their ports and meet every token of the block.  Results leave in FP32 tiles.
// The epilogue decides what is done with a tile (store_tile).
#pragma once

#include "activation.hpp"
#include "norm.hpp"
#include "pacq.hpp"
#include "weights.hpp"

constexpr int kGroups = (kBlock + kTokenLanes - 1) / kTokenLanes;

// The integer sums of a group of tokens: one output feature of each port.
struct sums_t {
    int32_t value[kTokenLanes][kWeightPorts];
};

using sums_stream = hls::stream<sums_t, 2 * kGroups>;
using floats_stream = hls::stream<float, 64>;

constexpr int kResultBanks = 2 * kFloatLanes;  // a pair of features for every float lane, and no fewer than weight ports
static_assert(kResultBanks >= kWeightPorts, "a row of sums is written at once");

// On-chip buffers of the array, shared by every step that multiplies weights.
struct Array {
    lanes_t activation[kInt8Array ? kBlock : 1][kMaxWords];
    float scale[kBlock];
    Table table[kWeightPorts];
    float result[kBlock][kMaxTileRows];
};

// What the array needs to know about one matrix.
struct Matrix {
    address_t weights[kWeightPorts];
    address_t scale;
    address_t directory;
    Coding coding;
    int rows;
    int words;      // lane words of a row
    int tile_rows;  // output features of a full tile
};

// The engine's ports.  Designs with fewer weight ports alias the rest, which no code then reads.
#define READ_PORTS \
    const beat_t *weights0, const beat_t *weights1, const beat_t *weights2, const beat_t *weights3, const beat_t *constants
#define PASS_READ_PORTS weights0, weights1, weights2, weights3, constants

// `field` is the index of `weights0` in the instruction: the weight fields have the same order in every instruction.
inline Matrix matrix_of(const Run& run, const Instruction& i, int field, int rows, int cols, int tile_rows) {
    Matrix m;
    for (int p = 0; p < kWeightPorts; ++p) {
#pragma HLS UNROLL
        m.weights[p] = address_of(run, i.word[field + p]);
    }
    m.coding = coding_of(i.word[field + isa::matrix::format]);
    m.directory = address_of(run, i.word[field + isa::matrix::directory]);
    m.scale = address_of(run, i.word[field + isa::matrix::weight_scale]);
    m.rows = rows;
    m.words = cols / kLaneCols;
    m.tile_rows = tile_rows;
    return m;
}

// INT8 rows first .. tokens of [tokens, words] and all scales into the array.
inline void load_activations(Array& array, const beat_t* memory, address_t codes, address_t scale, int first, int tokens, int words) {
LoadActivations:
    for (int t = first; t < tokens; ++t) {
        for (int w = 0; w < words; ++w) {
#pragma HLS PIPELINE II=2
            for (int half = 0; half < kLaneCols / kBeatBytes; ++half) {
                const address_t at = codes + (static_cast<address_t>(t) * words + w) * kLaneCols + half * kBeatBytes;
                const beat_t beat = load<kMemoryPort>(Role::kActivations, memory, at);
                for (int k = 0; k < kBeatBytes; ++k) {
#pragma HLS UNROLL
                    array.activation[t][w].value[half * kBeatBytes + k] = byte_of(beat, k);
                }
            }
        }
    }
    load_floats<kMemoryPort>(Role::kActivations, memory, scale, tokens, array.scale);
}

// The look-up tables, one copy a port.
inline void load_tables(Array& array, const Run& run, const beat_t* constants, const Instruction& i, int field) {
    const Coding coding = coding_of(i.word[field + isa::matrix::format]);
    if (is_raw(coding)) return;
    const int entries = static_cast<int>(i.word[field + isa::matrix::entries]);
    load_table(constants, address_of(run, i.word[field + isa::matrix::table]), entries, coding, array.table[0]);
    for (int p = 1; p < kWeightPorts; ++p) array.table[p] = array.table[0];
}

inline int32_t dot(const lanes_t& a, const lanes_t& w) {
#pragma HLS INLINE
    int32_t sum = 0;
    for (int k = 0; k < kLaneCols; ++k) {
#pragma HLS UNROLL
        sum += static_cast<int32_t>(a.value[k]) * static_cast<int32_t>(w.value[k]);
    }
    return sum;
}

// A tile against all tokens: a word of each port a cycle meets kTokenLanes tokens.  A group's sums leave with its last word,
// so that rows follow each other without a bubble.
inline void multiply(words_t words[kWeightPorts], const lanes_t activation[kBlock][kMaxWords], int rows, int row_words,
                     int first, int tokens, sums_stream& out) {
    const int groups = (tokens - first + kTokenLanes - 1) / kTokenLanes;
    count_cycles(Loop::kMultiply, static_cast<int64_t>(rows) * row_words * groups);
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
                const int t = first + g * kTokenLanes + lane;
                if (t < tokens) simd::dot_rows<kWeightPorts>(activation[t][0].value, weight, less, row_words, sum.value[lane]);
            }
            out.write(sum);
        }
    }
#else
    sums_t sum[kGroups];
#pragma HLS AGGREGATE variable=sum
    lanes_t weight[kWeightPorts];
#pragma HLS ARRAY_PARTITION variable=weight complete
Rows:
    for (int r = 0; r < rows; ++r) {
    Words:
        for (int w = 0; w < row_words; ++w) {
        Groups:
            for (int g = 0; first + g * kTokenLanes < tokens; ++g) {
#pragma HLS LOOP_FLATTEN
#pragma HLS PIPELINE II=1
                if (g == 0) {  // a perfect nest flattens: no bubble between words, even for one token
                    for (int p = 0; p < kWeightPorts; ++p) {
#pragma HLS UNROLL
                        weight[p] = words[p].read();
                    }
                }
            TokenLanes:
                for (int lane = 0; lane < kTokenLanes; ++lane) {
#pragma HLS UNROLL
                    const int t = first + g * kTokenLanes + lane;
                    if (t < tokens) {
                        for (int p = 0; p < kWeightPorts; ++p) {
#pragma HLS UNROLL
                            sum[g].value[lane][p] = (w == 0 ? 0 : sum[g].value[lane][p]) + dot(activation[t][w], weight[p]);
                        }
                    }
                }
                if (w == row_words - 1) out.write(sum[g]);
            }
        }
    }
#endif
}

inline void load_scales(const beat_t* constants, address_t address, int count, floats_stream& out) {
LoadScales:
    for (int i = 0; i < count; i += kFloatsInBeat) {
        const beat_t beat = load<kConstantsPort>(Role::kWeights, constants, address + static_cast<address_t>(i) * 4);
        for (int k = 0; k < kFloatsInBeat; ++k) {
            if (i + k < count) out.write(as_float(word_of(beat, k)));
        }
    }
}

// Integer sums become FP32; row n of the tile came over port n mod kWeightPorts.
inline void rescale_tile(sums_stream& sums, floats_stream& scales, const float a_scale[kBlock], int port_rows, int first,
                         int tokens, float result[kBlock][kMaxTileRows]) {
Rescale:
    for (int r = 0; r < port_rows; ++r) {
        float w_scale[kWeightPorts];
        for (int p = 0; p < kWeightPorts; ++p) w_scale[p] = scales.read();
        sums_t sum;
        for (int t = first; t < tokens; ++t) {
#pragma HLS PIPELINE II=1
            const int lane = (t - first) % kTokenLanes;
            if (lane == 0) sum = sums.read();
            for (int p = 0; p < kWeightPorts; ++p) {
#pragma HLS UNROLL
                result[t][r * kWeightPorts + p] = rescale(sum.value[lane][p], a_scale[t], w_scale[p]);
            }
        }
    }
    count_cycles(Loop::kRescale, static_cast<int64_t>(port_rows) * (tokens - first));
}

// Beats that each port streams in tile `tile`: from the directory when packed, else what the raw rows take.  A tile's
// entries lie in one beat.
inline void tile_beats(const Matrix& m, const beat_t* constants, int tile, int port_rows, int beats[kWeightPorts]) {
    if (is_raw(m.coding)) {
        for (int p = 0; p < kWeightPorts; ++p) beats[p] = port_rows * m.words * (kLaneCols / kBeatBytes);
        return;
    }
    const int index = tile * kWeightPorts;
    const address_t at = m.directory + static_cast<address_t>(index / kFloatsInBeat) * kBeatBytes;
    const beat_t beat = load<kConstantsPort>(Role::kWeights, constants, at);
    const int most = 2 * port_rows * m.words * (kLaneCols / kBeatBytes) + kLaneCols;  // no code is twice as long as a weight
    for (int p = 0; p < kWeightPorts; ++p) {
        const uint32_t found = word_of(beat, (index + p) % kFloatsInBeat);
        beats[p] = found < static_cast<uint32_t>(most) ? static_cast<int>(found) : most;  // a damaged one ends the tile all the same
    }
}

// One weight port's share of the pipeline: fetch, then unpack.
template <int kPort>
void stream_weights(const beat_t* port, address_t address, int beats, int words, const Coding& coding, const Table& table,
                    words_t& out) {
#pragma HLS DATAFLOW
    beats_t raw;
    load_stream<kPort>(Role::kWeights, port, address, beats, raw);
    unpack(raw, beats, words, coding, table, out);
}

// One tile through the pipeline: each port fetches and unpacks, one array multiplies, one unit rescales.
inline void run_tile(Array& array, const Matrix& m, const address_t at[kWeightPorts], const int beats[kWeightPorts], int tile,
                     int port_rows, int first, int tokens, READ_PORTS) {
#pragma HLS DATAFLOW
    words_t words[kWeightPorts];
    sums_stream sums;
    floats_stream scales;
    const int count = port_rows * m.words;
    stream_weights<0>(weights0, at[0], beats[0], count, m.coding, array.table[0], words[0]);
    if constexpr (kWeightPorts > 1) {
        stream_weights<1>(weights1, at[1], beats[1], count, m.coding, array.table[1], words[1]);
    }
    if constexpr (kWeightPorts > 2) {
        stream_weights<2>(weights2, at[2], beats[2], count, m.coding, array.table[2], words[2]);
        stream_weights<3>(weights3, at[3], beats[3], count, m.coding, array.table[3], words[3]);
    }
    load_scales(constants, m.scale + static_cast<address_t>(tile) * padded(m.tile_rows, kFloatsInBeat) * 4, port_rows * kWeightPorts, scales);
    multiply(words, array.activation, port_rows, m.words, first, tokens, sums);
    rescale_tile(sums, scales, array.scale, port_rows, first, tokens, array.result);
}

// Steps through the tiles of a matrix, keeping each port's place in its stream.
struct TileWalk {
    address_t at[kWeightPorts];
    int tile;
};

inline TileWalk begin_tiles(const Matrix& m) {
    TileWalk walk;
    walk.tile = 0;
    for (int p = 0; p < kWeightPorts; ++p) {
#pragma HLS UNROLL
        walk.at[p] = m.weights[p];
    }
    return walk;
}

// Multiplies the next tile for tokens first .. tokens; returns how many of its output features are real.
inline int next_tile(TileWalk& walk, Array& array, const Matrix& m, int first, int tokens, READ_PORTS) {
    const int step = m.tile_rows / kWeightPorts;
    const int all_rows = (m.rows + kWeightPorts - 1) / kWeightPorts;
    const int done = walk.tile * step;
    const int port_rows = all_rows - done < step ? all_rows - done : step;
    int beats[kWeightPorts];
    tile_beats(m, constants, walk.tile, port_rows, beats);
    run_tile(array, m, walk.at, beats, walk.tile, port_rows, first, tokens, PASS_READ_PORTS);
    for (int p = 0; p < kWeightPorts; ++p) walk.at[p] += static_cast<address_t>(beats[p]) * kBeatBytes;
    const int left = m.rows - walk.tile * m.tile_rows;
    ++walk.tile;
    return left < m.tile_rows ? left : m.tile_rows;
}

// The same by the engine that takes weights of this format.
inline int some_rows(TileWalk& walk, Array& array, const Matrix& m, uint32_t format, int first, int tokens, READ_PORTS,
                     results_stream& pacq_result) {
    if (!is_grouped(format)) {
        return kInt8Array ? next_tile(walk, array, m, first, tokens, PASS_READ_PORTS) : 0;
    }
    const int left = m.rows - walk.tile * m.tile_rows;
    const int real = left < m.tile_rows ? left : m.tile_rows;
    receive_rows(pacq_result, format, real, first, tokens, array.result);
    ++walk.tile;
    return real;
}

// cos and sin of one position.
inline void load_rope(const beat_t* constants, address_t table, int position, int head_dim, int16_t* factor) {
    const int row_bytes = padded(head_dim * 2, kBeatBytes);
LoadRope:
    for (int i = 0; i < row_bytes; i += kBeatBytes) {
        const beat_t beat = load<kConstantsPort>(Role::kWeights, constants, table + static_cast<address_t>(position) * row_bytes + i);
        for (int k = 0; k < kBeatBytes / 2; ++k) {
            const uint32_t word = word_of(beat, k / 2);
            factor[i / 2 + k] = static_cast<int16_t>(k % 2 == 0 ? word & 0xFFFF : word >> 16);
        }
    }
}

// What comes before the epilogue: the bias of a tile of results, read once.
inline void add_bias(Array& array, const Run& run, const beat_t* constants, uint32_t options, uint32_t bias, int tile, int tile_rows,
                     int rows, int first, int tokens) {
    if ((options & isa::kBiasOption) == 0) return;
    float line[kMaxTileRows];
#pragma HLS ARRAY_PARTITION variable=line cyclic factor=kFloatLanes
    load_floats<kConstantsPort>(Role::kWeights, constants, address_of(run, bias) + static_cast<address_t>(tile) * padded(tile_rows, kFloatsInBeat) * 4, rows, line);
BiasTokens:
    for (int t = first; t < tokens; ++t) {
        count_cycles(Loop::kEpilogue, (rows + kFloatLanes - 1) / kFloatLanes);
    BiasColumns:
        for (int k = 0; k < rows; ++k) {
#pragma HLS PIPELINE II=1
#pragma HLS UNROLL factor=kFloatLanes
            array.result[t][k] = flush(array.result[t][k] + line[k]);
        }
    }
}

// The norm of one head of every token, before it turns.
inline void norm_heads(Array& array, const Run& run, const beat_t* constants, uint32_t options, uint32_t gain, float eps, int head_dim) {
    if ((options & isa::kNormOption) == 0) return;
    float line[kMaxHeadDim];
#pragma HLS ARRAY_PARTITION variable=line cyclic factor=kFloatLanes
    load_floats<kConstantsPort>(Role::kWeights, constants, address_of(run, gain), head_dim, line);
    const float inverse = 1.0f / static_cast<float>(head_dim);
NormHeadTokens:
    for (int t = 0; t < static_cast<int>(run.tokens); ++t) {
        norm_row(array.result[t], line, head_dim, eps, inverse, array.result[t]);
        count_cycles(Loop::kEpilogue, 3 * ((head_dim + kFloatLanes - 1) / kFloatLanes));  // peak, squares, scaled
    }
}

// Heads: each token's row is rotated (K, Q) or not (V), quantized, and written at its place.
inline void store_heads(Array& array, const Run& run, const Instruction& i, const beat_t* constants, beat_t* memory, int head) {
    using namespace isa::linear;
    const int head_dim = static_cast<int>(i.word[isa::linear::head_dim]);
    const int capacity = static_cast<int>(i.word[isa::linear::capacity]);
    const int start = i.word[append] ? static_cast<int>(run.position) : 0;
    const int width = padded(head_dim, kBeatBytes);
    const address_t codes = address_of(run, i.word[target]);
    const Role role = i.word[append] ? Role::kKv : Role::kIntermediates;
    float scales[kBlock];
    int8_t row[kMaxHeadDim];
    int16_t factor[kMaxHeadDim];
#pragma HLS ARRAY_PARTITION variable=row cyclic factor=kBeatBytes
#pragma HLS ARRAY_PARTITION variable=factor cyclic factor=kFloatLanes
    norm_heads(array, run, constants, i.word[options], i.word[gain], as_float(i.word[eps]), head_dim);
HeadTokens:
    for (int t = 0; t < static_cast<int>(run.tokens); ++t) {
        if (i.word[epilogue] == isa::kEpilogueRopeHeads) {
            load_rope(constants, address_of(run, i.word[rope]), static_cast<int>(run.position) + t, head_dim, factor);
            rope_head(array.result[t], factor, head_dim / 2);
            count_cycles(Loop::kEpilogue, (head_dim / 2 + kFloatLanes - 1) / kFloatLanes);
        }
        scales[t] = quantize_row(array.result[t], head_dim, row);
        count_cycles(Loop::kEpilogue, 2 * ((head_dim + kFloatLanes - 1) / kFloatLanes));  // peak, codes
        const address_t at = codes + (static_cast<address_t>(head) * capacity + start + t) * width;
        store_codes<kMemoryPort>(role, memory, at, head_dim, row);
    }
    const address_t base = address_of(run, i.word[target_scale]) + static_cast<address_t>(head) * padded(capacity, 4) * 4;
    store_floats<kMemoryPort>(role, memory, base, start, static_cast<int>(run.tokens), scales);
}

// Rows of FP32: stored, added to what is there, or pairs of columns joined by silu(gate) * up.
inline void store_rows(Array& array, const Run& run, const Instruction& i, beat_t* memory, int first, int row, int rows) {
    using namespace isa::linear;
    const bool glu = i.word[epilogue] == isa::kEpilogueGlu;
    const bool act = i.word[epilogue] == isa::kEpilogueAct;
    const int function = function_of(i.word[options]);
    const int columns = glu ? rows / 2 : rows;
    const int column = glu ? row / 2 : row;
    float line[kMaxTileRows];
#pragma HLS ARRAY_PARTITION variable=line cyclic factor=kFloatLanes
RowTokens:
    for (int t = first; t < static_cast<int>(run.tokens); ++t) {
        const address_t base = address_of(run, i.word[target]) + static_cast<address_t>(t) * i.word[stride] * 4;
        if (i.word[epilogue] == isa::kEpilogueAdd) {
            load_floats<kMemoryPort>(Role::kActivations, memory, base + static_cast<address_t>(column) * 4, columns, line);
        }
        count_cycles(Loop::kEpilogue, (columns + kFloatLanes - 1) / kFloatLanes);
    Columns:
        for (int k = 0; k < columns; ++k) {
#pragma HLS PIPELINE II=1
#pragma HLS UNROLL factor=kFloatLanes
            if (glu) {
                line[k] = activated(function, array.result[t][2 * k], true, array.result[t][2 * k + 1]);
            } else if (act) {
                line[k] = activated(function, array.result[t][k], false, 0.0f);
            } else if (i.word[epilogue] == isa::kEpilogueAdd) {
                line[k] = flush(line[k] + array.result[t][k]);
            } else {
                line[k] = array.result[t][k];
            }
        }
        store_floats<kMemoryPort>(Role::kActivations, memory, base, column, columns, line);
    }
}

inline void linear(Array& array, const Run& run, const Instruction& i, READ_PORTS, PACQ_PORTS, beat_t* memory) {
    using namespace isa::linear;
    const int tokens = static_cast<int>(run.tokens);
    const int first = first_of(run, i);
    if (first >= tokens) return;
    const bool grouped = is_grouped(i.word[format]);
    const Matrix m = matrix_of(run, i, isa::linear::weights0, static_cast<int>(i.word[rows]), static_cast<int>(i.word[cols]),
                               static_cast<int>(i.word[tile_rows]));
    if (grouped) {
        begin_grouped(run, i, memory, PASS_PACQ_PORTS);
    } else {
        load_activations(array, memory, address_of(run, i.word[codes]), address_of(run, i.word[scale]), first, tokens, m.words);
        load_tables(array, run, constants, i, isa::linear::weights0);
    }
    const bool heads = i.word[epilogue] == isa::kEpilogueHeads || i.word[epilogue] == isa::kEpilogueRopeHeads;
    const int tiles = (m.rows + m.tile_rows - 1) / m.tile_rows;
    TileWalk walk = begin_tiles(m);
Tiles:
    for (int tile = 0; tile < tiles; ++tile) {
        const int row = static_cast<int>(i.word[first_row]) + tile * m.tile_rows;
        const int real = some_rows(walk, array, m, i.word[format], first, tokens, PASS_READ_PORTS, pacq_result);
        add_bias(array, run, constants, i.word[options], i.word[bias], row / m.tile_rows, m.tile_rows, real, first, tokens);
        if (heads) {
            store_heads(array, run, i, constants, memory, row / m.tile_rows);
        } else {
            store_rows(array, run, i, memory, first, row, real);
        }
    }
    if (grouped) drop_rows(pacq_result, i.word[format], m.rows, tokens - first);
}
