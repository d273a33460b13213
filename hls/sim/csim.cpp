// SPDX-License-Identifier: Apache-2.0
// The C simulation's entry: one run of the emitted engine on a simulated DRAM, called through ctypes.
#include <cstdio>
#include <cstring>
#include <exception>

#include "../top.cpp"

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

EXPORTED const char* meadow_design_id() { return kDesignId; }

// `windows` are begin and end of both halves of the DRAM.  Returns the engine's status, or -1 with a text in `message` when the simulation caught an error.
EXPORTED int meadow_csim_run(uint8_t* memory, const uint64_t* windows, uint64_t program, uint64_t bases, uint32_t pages, uint32_t position,
                    uint32_t tokens, uint32_t first_logit, uint32_t ahead, const volatile uint32_t* abort, volatile uint32_t* progress, char* message, uint64_t message_bytes) {
    for (int half = 0; half < 2; ++half) traffic::windows[half] = {windows[2 * half], windows[2 * half + 1]};
    beat_t* dram = reinterpret_cast<beat_t*>(memory);
    gemv_model::dram = memory;
    commands_stream command;
    activations_stream activation;
    results_stream result;
    try {
        return static_cast<int>(meadow_engine(
#define WEIGHTS dram,
#if MEADOW_WEIGHT_PORTS > 0
            WEIGHTS
#endif
#if MEADOW_WEIGHT_PORTS > 1
                WEIGHTS
#endif
#if MEADOW_WEIGHT_PORTS > 2
                    WEIGHTS WEIGHTS
#endif
#undef WEIGHTS
#if MEADOW_GEMV > 0
            command, activation, result,
#endif
            dram, dram, program, bases, pages, position, tokens, first_logit, ahead, abort, progress));
    } catch (const std::exception& error) {
        std::snprintf(message, message_bytes, "%s", error.what());
        return -1;
    }
}

// Since the library was loaded: [port][read, written][role][beats, bursts], then the iterations of each loop, then how often each was entered.
EXPORTED void meadow_csim_traffic(uint64_t* out) {
    for (int p = 0; p < kPorts; ++p) {
        for (int way = 0; way < 2; ++way) {
            for (int role = 0; role < kRoles; ++role) {
                *out++ = traffic::channels[p][way].count[role].beats;
                *out++ = traffic::channels[p][way].count[role].bursts;
            }
        }
    }
    for (int loop = 0; loop < kLoops; ++loop) *out++ = traffic::cycles[loop];
    for (int loop = 0; loop < kLoops; ++loop) *out++ = traffic::entries[loop];
}

#ifdef MEADOW_COSIM
// The registers of pacq_gemv in Verilog, and the cycles that its clock has run.
EXPORTED uint32_t meadow_cosim_read(uint32_t offset) { return gemv_model::module().read(offset); }
EXPORTED void meadow_cosim_write(uint32_t offset, uint32_t value) { gemv_model::module().write(offset, value); }
EXPORTED uint64_t meadow_cosim_cycles() { return gemv_model::module().cycles; }
#endif

}  // extern "C"
