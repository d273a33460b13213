// SPDX-License-Identifier: Apache-2.0
// The sequencer: fetches instructions and starts the kernels, one after another.  Knows no model.
#pragma once

#include "next.hpp"
#include "norm.hpp"
#include "steps.hpp"

constexpr int kMaxInstructions = 1 << 16;

// Whether the design has the engine that takes weights of this format.
inline bool has_engine(uint32_t format) {
#pragma HLS INLINE
    return is_streamed(format) || array_takes(format);
}

inline Instruction fetch_instruction(const beat_t* constants, address_t first) {
    Instruction i;
FetchInstruction:
    for (int b = 0; b < isa::kWords / 4; ++b) {
#pragma HLS PIPELINE II=1
        const beat_t beat = load<kConstantsPort>(Role::kProgram, constants, first, b);
        for (int k = 0; k < 4; ++k) {
#pragma HLS UNROLL
            i.word[4 * b + k] = word_of(beat, k);
        }
    }
    return i;
}

// An address in beats, from bytes of 64 bits; `fits` is lost where it has not 32.
inline address_t beats_of(uint64_t bytes, bool& fits) {
#pragma HLS INLINE
    fits = fits && bytes / kBeatBytes < (uint64_t{1} << 32);
    return static_cast<address_t>(bytes / kBeatBytes);
}

inline bool load_bases(const beat_t* constants, address_t first, int pages, Run& run) {
    bool fits = true;
LoadBases:
    for (int n = 0; n < pieces(pages, 2); ++n) {
#pragma HLS PIPELINE II=1
        const beat_t beat = load<kConstantsPort>(Role::kProgram, constants, first, n);
        run.base[2 * n] = beats_of(beat.range(63, 0).to_uint64(), fits);
        if (2 * n + 1 < pages) run.base[2 * n + 1] = beats_of(beat.range(127, 64).to_uint64(), fits);
    }
    return fits;
}

inline uint32_t run_program(uint64_t program, uint64_t bases, uint32_t pages, uint32_t position, uint32_t tokens,
                            uint32_t first_logit, uint32_t ahead, READ_PORTS, GEMV_PORTS, beat_t* memory, const volatile uint32_t* abort,
                            volatile uint32_t* progress) {
    static Array array;
    static HeadRows heads;
    static Cache chip;
// A word of a memory is read whole; what a cycle reads of several words lies in several memories.
#pragma HLS AGGREGATE variable=array.activation
#pragma HLS ARRAY_PARTITION variable=array.activation cyclic factor=kTokenLanes dim=1
#pragma HLS ARRAY_PARTITION variable=array.scale cyclic factor=kFloatsInBeat
#pragma HLS AGGREGATE variable=array.row_scale
#pragma HLS ARRAY_PARTITION variable=array.result.bank complete dim=1
#pragma HLS ARRAY_PARTITION variable=array.table0.chunk complete dim=1
#pragma HLS ARRAY_PARTITION variable=array.table0.chunk complete dim=3
#pragma HLS ARRAY_PARTITION variable=array.table0.length complete
#pragma HLS ARRAY_PARTITION variable=array.table0.offset complete
#pragma HLS ARRAY_PARTITION variable=array.table0.weight_at complete dim=1
#pragma HLS ARRAY_PARTITION variable=array.table0.weight_at cyclic factor=4 dim=2
#pragma HLS ARRAY_PARTITION variable=array.streams0.lane complete
#pragma HLS ARRAY_PARTITION variable=array.streams0.fifo complete dim=1
#pragma HLS BIND_STORAGE variable=array.streams0.fifo type=ram_s2p impl=lutram
#pragma HLS ARRAY_PARTITION variable=array.table1.chunk complete dim=1
#pragma HLS ARRAY_PARTITION variable=array.table1.chunk complete dim=3
#pragma HLS ARRAY_PARTITION variable=array.table1.length complete
#pragma HLS ARRAY_PARTITION variable=array.table1.offset complete
#pragma HLS ARRAY_PARTITION variable=array.table1.weight_at complete dim=1
#pragma HLS ARRAY_PARTITION variable=array.table1.weight_at cyclic factor=4 dim=2
#pragma HLS ARRAY_PARTITION variable=array.streams1.lane complete
#pragma HLS ARRAY_PARTITION variable=array.streams1.fifo complete dim=1
#pragma HLS BIND_STORAGE variable=array.streams1.fifo type=ram_s2p impl=lutram
#pragma HLS ARRAY_PARTITION variable=array.table2.chunk complete dim=1
#pragma HLS ARRAY_PARTITION variable=array.table2.chunk complete dim=3
#pragma HLS ARRAY_PARTITION variable=array.table2.length complete
#pragma HLS ARRAY_PARTITION variable=array.table2.offset complete
#pragma HLS ARRAY_PARTITION variable=array.table2.weight_at complete dim=1
#pragma HLS ARRAY_PARTITION variable=array.table2.weight_at cyclic factor=4 dim=2
#pragma HLS ARRAY_PARTITION variable=array.streams2.lane complete
#pragma HLS ARRAY_PARTITION variable=array.streams2.fifo complete dim=1
#pragma HLS BIND_STORAGE variable=array.streams2.fifo type=ram_s2p impl=lutram
#pragma HLS ARRAY_PARTITION variable=array.table3.chunk complete dim=1
#pragma HLS ARRAY_PARTITION variable=array.table3.chunk complete dim=3
#pragma HLS ARRAY_PARTITION variable=array.table3.length complete
#pragma HLS ARRAY_PARTITION variable=array.table3.offset complete
#pragma HLS ARRAY_PARTITION variable=array.table3.weight_at complete dim=1
#pragma HLS ARRAY_PARTITION variable=array.table3.weight_at cyclic factor=4 dim=2
#pragma HLS ARRAY_PARTITION variable=array.streams3.lane complete
#pragma HLS ARRAY_PARTITION variable=array.streams3.fifo complete dim=1
#pragma HLS BIND_STORAGE variable=array.streams3.fifo type=ram_s2p impl=lutram
#pragma HLS ARRAY_PARTITION variable=heads.factor complete dim=1
#pragma HLS AGGREGATE variable=heads.turned
#pragma HLS AGGREGATE variable=heads.code
#pragma HLS ARRAY_PARTITION variable=heads.scale cyclic factor=kFloatsInBeat
#pragma HLS AGGREGATE variable=chip.key
#pragma HLS AGGREGATE variable=chip.value
#if MEADOW_URAM
#pragma HLS BIND_STORAGE variable=chip.key type=ram_s2p impl=uram
#pragma HLS BIND_STORAGE variable=chip.value type=ram_s2p impl=uram
#endif
#pragma HLS ARRAY_PARTITION variable=chip.key_scale cyclic factor=kFloatsInBeat
#pragma HLS ARRAY_PARTITION variable=chip.value_scale cyclic factor=kFloatsInBeat
#pragma HLS ARRAY_PARTITION variable=chip.score complete dim=1
#pragma HLS ARRAY_PARTITION variable=chip.score cyclic factor=kFloatsInBeat dim=2
#pragma HLS ARRAY_PARTITION variable=chip.weight complete dim=1
#pragma HLS ARRAY_PARTITION variable=chip.weight cyclic factor=kWeightsInBeat dim=2
#pragma HLS ARRAY_PARTITION variable=chip.divisor.total complete
#pragma HLS ARRAY_PARTITION variable=chip.divisor.exponent complete
#pragma HLS AGGREGATE variable=chip.result
#pragma HLS ARRAY_PARTITION variable=chip.result complete dim=1
    Run run;
    run.position = position;
    run.tokens = tokens;
    run.first_logit = first_logit;
    run.ahead = ahead;
    run.made = 0;
    if (tokens == 0 || tokens > kBlock || position > kContext - tokens || pages > kPages) return kBadRun;
    if (first_logit > tokens) return kBadRun;
    if (ahead != 0 && (tokens != 1 || first_logit != 0 || ahead > kContext - position)) return kBadRun;
    bool fits = true;
    const address_t code = beats_of(program, fits), table = beats_of(bases, fits);
    if (!fits || !load_bases(constants, table, static_cast<int>(pages), run)) return kBadRun;
    // Instructions are fetched ahead of the one that runs, so that the engine beside knows which weights to read next.
    Instruction ring[kAhead];
    int fetched = 0;
    bool ended = false;
Program:
    for (int step = 0; step < kMaxInstructions; ++step) {
    FetchAhead:
        while (!ended && fetched < step + kAhead) {
            const Instruction next = fetch_instruction(constants, code + static_cast<address_t>(fetched * (isa::kWords / kFloatsInBeat)));
            if (next.word[0] == isa::kLinear || next.word[0] == isa::kTphs) {
                if (!has_engine(next.word[isa::linear::format])) return kNoEngine;
                if (kGemv) send_command(run, next, gemv_command);
            }
            ended = next.word[0] == isa::kEnd;
            ring[fetched % kAhead] = next;
            ++fetched;
        }
        const Instruction i = ring[step % kAhead];
        *progress = static_cast<uint32_t>(step) + 1;  // where the host looks when nothing comes
        if (*abort != 0) return kAborted;
        switch (i.word[0]) {
            case isa::kEnd: return kDone;
            case isa::kNorm:
            case isa::kQuantize: run_rows(run, i, constants, memory); break;
            case isa::kLinear:
            case isa::kTphs:
            case isa::kScores:
            case isa::kSoftmax:
            case isa::kMix: run_step(array, heads, chip, run, i, PASS_READ_PORTS, PASS_GEMV_PORTS, memory); break;
            case isa::kNext:
                if (run_next(run, i, constants, memory)) {
                    if (fetched > step + 1 + (ended ? 1 : 0)) return kBadOpcode;  // commands behind it have gone to the engine beside
                    fetched = 0;
                    ended = false;
                    step = -1;
                }
                break;
            default: return kBadOpcode;
        }
    }
    return kBadOpcode;
}
