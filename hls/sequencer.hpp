// SPDX-License-Identifier: Apache-2.0
// The sequencer: fetches instructions and starts the kernels, one after another.  Knows no model.
#pragma once

#include "gemm_attention.hpp"
#include "norm.hpp"
#include "tphs.hpp"

constexpr int kMaxInstructions = 1 << 16;

// Whether the design has the engine that takes weights of this format.
inline bool has_engine(uint32_t format) {
#pragma HLS INLINE
    return is_grouped(format) ? kPacq : array_takes(format);
}

inline Instruction fetch_instruction(const beat_t* constants, address_t address) {
    Instruction i;
FetchInstruction:
    for (int b = 0; b < isa::kWords / 4; ++b) {
#pragma HLS PIPELINE II=1
        const beat_t beat = load<kConstantsPort>(Role::kProgram, constants, address + static_cast<address_t>(b) * kBeatBytes);
        for (int k = 0; k < 4; ++k) {
#pragma HLS UNROLL
            i.word[4 * b + k] = word_of(beat, k);
        }
    }
    return i;
}

inline void load_bases(const beat_t* constants, address_t address, int pages, Run& run) {
LoadBases:
    for (int page = 0; page < pages; page += 2) {
#pragma HLS PIPELINE II=1
        const beat_t beat = load<kConstantsPort>(Role::kProgram, constants, address + static_cast<address_t>(page) * 8);
        run.base[page] = beat.range(63, 0).to_uint64();
        if (page + 1 < pages) run.base[page + 1] = beat.range(127, 64).to_uint64();
    }
}

inline uint32_t run_program(address_t program, address_t bases, uint32_t pages, uint32_t position, uint32_t tokens,
                            uint32_t first_logit, READ_PORTS, PACQ_PORTS, beat_t* memory, volatile uint32_t* progress) {
    static Array array;
    static Heads heads;
// A key, a value and a group's scores are read whole in a cycle; so are the activations of a group of tokens, and the
// look-up tables by every lane.
#pragma HLS ARRAY_PARTITION variable=heads.cache complete
#pragma HLS ARRAY_RESHAPE variable=heads.cache.key complete dim=3
#pragma HLS ARRAY_RESHAPE variable=heads.cache.value complete dim=3
#pragma HLS AGGREGATE variable=heads.row
#pragma HLS AGGREGATE variable=array.activation
#pragma HLS ARRAY_PARTITION variable=array.activation cyclic factor=kTokenLanes dim=1
#pragma HLS ARRAY_PARTITION variable=array.result cyclic factor=kResultBanks dim=2
#pragma HLS ARRAY_PARTITION variable=array.table complete dim=1
#pragma HLS BIND_STORAGE variable=array.table type=ram_1wnr impl=bram
    Run run;
    run.position = position;
    run.tokens = tokens;
    run.first_logit = first_logit;
    if (tokens == 0 || tokens > kBlock || position > kContext - tokens || pages > kPages) return kBadRun;
    if (first_logit > tokens) return kBadRun;
    load_bases(constants, bases, static_cast<int>(pages), run);
    // Instructions are fetched ahead of the one that runs, so that pacq_gemv knows which weights to read next.
    Instruction ring[kAhead];
    int fetched = 0;
    bool ended = false;
Program:
    for (int step = 0; step < kMaxInstructions; ++step) {
    FetchAhead:
        while (!ended && fetched < step + kAhead) {
            const Instruction next = fetch_instruction(constants, program + static_cast<address_t>(fetched) * isa::kWords * 4);
            if (next.word[0] == isa::kLinear || next.word[0] == isa::kTphs) {
                if (!has_engine(next.word[isa::linear::format])) return kNoEngine;
                if (kPacq) send_command(run, next, pacq_command);
            }
            ended = next.word[0] == isa::kEnd;
            ring[fetched % kAhead] = next;
            ++fetched;
        }
        const Instruction i = ring[step % kAhead];
        *progress = static_cast<uint32_t>(step) + 1;  // where the host looks when nothing comes
        switch (i.word[0]) {
            case isa::kEnd: return kDone;
            case isa::kNorm: norm(run, i, constants, memory); break;
            case isa::kQuantize: quantize(run, i, memory); break;
            case isa::kLinear: linear(array, run, i, PASS_READ_PORTS, PASS_PACQ_PORTS, memory); break;
            case isa::kTphs: tphs(heads, array, run, i, PASS_READ_PORTS, PASS_PACQ_PORTS, memory); break;
            case isa::kScores: scores(heads, run, i, memory); break;
            case isa::kSoftmax: softmax(heads, run, i, constants, memory); break;
            case isa::kMix: mix(heads, run, i, constants, memory); break;
            default: return kBadOpcode;
        }
    }
    return kBadOpcode;
}
