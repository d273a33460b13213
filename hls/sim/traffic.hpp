// SPDX-License-Identifier: Apache-2.0
// Counts what crosses each port in the C simulation, by role, and the iterations of the pipelined loops; catches accesses
// outside of memory.  Not synthesized, and shares nothing with the compiler's own prediction.
#pragma once

#include <cstdint>
#include <cstdio>
#include <stdexcept>

#include "../facts.hpp"

namespace traffic {

constexpr uint64_t kBurstBeats = 64;  // max_read_burst_length of the ports

struct Count {
    uint64_t beats;
    uint64_t bursts;
};

// One direction of one port.
struct Channel {
    Count count[kRoles];
    uint64_t next;  // where the burst that is open goes on
    uint64_t open;  // its beats so far
};

inline Channel channels[kPorts][2];
inline uint64_t cycles[kLoops];   // iterations
inline uint64_t entries[kLoops];  // and how often the loop was entered

// Where the simulated DRAM is, from begin up to end: of a board's two halves, the lower and the upper.  Addresses are offsets
// into what the ports point at.
struct Window {
    uint64_t begin, end;
    bool holds(uint64_t address, uint64_t bytes) const { return address >= begin && address < end && bytes <= end - address; }
};
inline Window windows[2];

// An engine that leaves its memory would corrupt another's on a board; here the run ends with an error.
struct OutsideMemory : std::runtime_error {
    using std::runtime_error::runtime_error;
};

[[noreturn]] inline void outside(int port, uint64_t address, uint64_t beats) {
    char text[96];
    std::snprintf(text, sizeof text, "access outside of memory: %llu beats at %#llx over port %d", static_cast<unsigned long long>(beats),
                  static_cast<unsigned long long>(address), port);
    throw OutsideMemory(text);
}

inline void access(int port, int direction, int role, uint64_t address, uint64_t beats) {
    const bool inside = beats < (uint64_t{1} << 32) && (windows[0].holds(address, 16 * beats) || windows[1].holds(address, 16 * beats));
    if (address % 16 != 0 || (!inside && beats > 0)) outside(port, address, beats);
    Channel& c = channels[port][direction];
    Count& count = c.count[role];
    count.beats += beats;
    uint64_t open = address == c.next && c.open < kBurstBeats ? c.open : 0;
    c.next = address + 16 * beats;
    while (beats > 0) {
        if (open == 0) ++count.bursts;
        const uint64_t some = beats < kBurstBeats - open ? beats : kBurstBeats - open;
        beats -= some;
        open = (open + some) % kBurstBeats;
    }
    c.open = open == 0 ? kBurstBeats : open;
}

}  // namespace traffic
