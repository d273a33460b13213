// SPDX-License-Identifier: Apache-2.0
// Counts what crosses each port in the C simulation, and catches accesses outside of memory.  Not synthesized.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace traffic {

struct Port {
    uint64_t read_bytes;
    uint64_t written_bytes;
};

inline Port ports[6];
inline uint64_t memory_bytes;  // size of the simulated DRAM; addresses are offsets into it

// An engine that leaves its memory would corrupt another's on a board; here the run ends with an error.
struct OutsideMemory : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline void check(uint64_t address, uint64_t beats) {
    if (address % 16 != 0 || address + 16 * beats > memory_bytes) throw OutsideMemory("access outside of memory");
}

inline void read(int port, uint64_t address, uint64_t beats) {
    check(address, beats);
    ports[port].read_bytes += 16 * beats;
}

inline void write(int port, uint64_t address, uint64_t beats) {
    check(address, beats);
    ports[port].written_bytes += 16 * beats;
}

}  // namespace traffic
