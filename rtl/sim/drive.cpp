// SPDX-License-Identifier: Apache-2.0
// Drives pacq_gemv or column_gemm under Verilator: a memory behind its AXI ports, an engine that sends commands and activations and takes
// results, as a script says.  evidence/ladder/verilated.py writes the script and reads what comes out.  Knows no model.
//
//     drive MEMORY SCRIPT RESULTS
//
// MEMORY is a file that is the DRAM, addresses are offsets into it.  SCRIPT is 64-bit words: a header, the commands, then what
// the engine does, one thing after another.  RESULTS gets the results as they came, counters go to standard output.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>

#include HEADER
#include "verilated.h"

namespace {

constexpr int kPorts = PORTS;
constexpr int kCommandWords = 2 * COMMAND_WORDS;  // 64-bit words
constexpr int kAhead = 11;  // commands that go before the one that is served: of 16 instructions, 12 at most are such

// The memory: beats per cycle over all ports together, in units of 1/65536; latency in cycles, the least and how much more at
// most; every `refresh_period` cycles nothing for `refresh` of them.
struct Header {
    uint64_t beats_per_cycle, latency, jitter, refresh_period, refresh;
    uint64_t foreign_rate;  // beats per cycle of whoever else reads, in units of 1/65536
    uint64_t commands, operations, most_cycles;
};

// What the engine does next.
enum : uint64_t {
    kFeed,     // cycles per word in 1/256, words: activations go
    kTake,     // cycles a word of results in 1/256, words
    kWork,     // cycles, beats: busy, while somebody else reads so many beats from the memory
    kCommand,  // the next command is being served from now on
};
struct Operation {
    uint64_t kind, pace, count;
};

template <typename Signal>
uint8_t* bytes(Signal& signal) {
    return reinterpret_cast<uint8_t*>(&signal);
}

template <typename Signal>
bool bit(Signal& signal, int n) {
    return (bytes(signal)[n / 8] >> (n % 8) & 1) != 0;
}

struct Beat {
    uint64_t address, ready;  // the cycle from which it may go
    bool last;
};

struct Random {
    uint64_t state = 88172645463325252ull;
    uint64_t below(uint64_t n) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return n == 0 ? 0 : state % n;
    }
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    const int file = open(argv[1], O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) return 2;
    const auto size = static_cast<uint64_t>(status.st_size);
    const auto* memory = static_cast<const uint8_t*>(mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0));
    FILE* script = std::fopen(argv[2], "rb");
    FILE* out = std::fopen(argv[3], "wb");
    Header header;
    if (memory == MAP_FAILED || script == nullptr || out == nullptr || std::fread(&header, sizeof header, 1, script) != 1) return 2;
    std::vector<uint64_t> commands(header.commands * kCommandWords);
    std::vector<Operation> operations(header.operations);
    if (std::fread(commands.data(), 8, commands.size(), script) != commands.size()) return 2;
    if (std::fread(operations.data(), sizeof(Operation), operations.size(), script) != operations.size()) return 2;
    std::vector<uint8_t> activations;  // the rest, in the order in which they go
    uint8_t some[65536];
    for (std::size_t n; (n = std::fread(some, 1, sizeof some, script)) > 0;) activations.insert(activations.end(), some, some + n);

    VerilatedContext context;
    MODULE dut(&context);
    auto tick = [&] {
        dut.clk_i = 1;
        dut.eval();
        dut.clk_i = 0;
        dut.eval();
    };
    std::memset(bytes(dut.m_axi_rvalid), 0, sizeof dut.m_axi_rvalid);
    dut.s_axis_command_tvalid = dut.s_axis_activation_tvalid = dut.m_axis_result_tready = 0;
    dut.s_axil_arvalid = dut.s_axil_awvalid = dut.s_axil_wvalid = 0;
    dut.s_axil_bready = dut.s_axil_rready = 1;
    dut.rst_i = 1;
    for (int n = 0; n < 5; ++n) tick();
    dut.rst_i = 0;

    Random random;
    std::deque<Beat> waiting[kPorts];
    uint64_t newest[kPorts] = {};   // when the last beat asked for is there
    uint64_t open[kPorts] = {};     // bursts under way
    uint64_t taken[kPorts] = {};    // beats
    uint64_t credit = 0, offered = 0, others = 0, foreign = 0, foreign_credit = 0;
    int turn = 0;
    std::size_t command_word = 0, served = 0, operation = 0, fed = 0;
    uint64_t done = 0, next_at = 0, cycle = 0, first_beat = 0, last_beat = 0;
    bool began = false;
    for (; operation < operations.size(); ++cycle) {
        if (cycle == header.most_cycles) {
            std::printf("{\"error\": \"not done after %llu cycles, at operation %zu\"}\n", static_cast<unsigned long long>(cycle), operation);
            return 1;
        }
        // What needs no time.
        while (operation < operations.size()) {
            const Operation& o = operations[operation];
            if (o.kind == kCommand) ++served;
            if (o.kind == kWork ? !began || cycle < next_at || foreign > 0 : o.kind <= kTake && done < o.count) break;
            done = 0;
            next_at = 0;
            began = false;
            ++operation;
        }
        if (operation == operations.size()) break;
        const Operation& o = operations[operation];
        if (o.kind == kWork && !began) {
            began = true;
            next_at = cycle + o.pace;
            foreign = o.count;
            foreign_credit = 0;
        }

        // Commands, as far ahead as the sequencer sends them.
        dut.s_axis_command_tvalid = command_word < commands.size() / 2 && command_word / (kCommandWords / 2) < served + kAhead;
        if (dut.s_axis_command_tvalid) std::memcpy(bytes(dut.s_axis_command_tdata), &commands[2 * command_word], 16);
        const bool due = 256 * cycle >= next_at;
        dut.s_axis_activation_tvalid = o.kind == kFeed && done < o.count && due;
        if (dut.s_axis_activation_tvalid) std::memcpy(bytes(dut.s_axis_activation_tdata), &activations[fed], 16);
        dut.m_axis_result_tready = o.kind == kTake && done < o.count && due;

        // The memory.
        const bool refreshing = header.refresh_period != 0 && cycle % header.refresh_period < header.refresh;
        if (!refreshing) {
            credit += header.beats_per_cycle;
            offered += header.beats_per_cycle;
        }
        const uint64_t most = static_cast<uint64_t>(kPorts) << 17;  // the controller does not save up for long
        if (credit > most) credit = most;
        uint8_t valid = 0;
        std::memset(bytes(dut.m_axi_rlast), 0, sizeof dut.m_axi_rlast);
        const int sharers = kPorts + (foreign > 0 ? 1 : 0);
        if (foreign > 0 && foreign_credit < 8 * 65536) foreign_credit += header.foreign_rate;
        for (int n = 0; n < sharers && !refreshing; ++n) {
            const int p = (turn + n) % sharers;
            if (p == kPorts) {
                while (foreign_credit >= 65536 && foreign > 0 && credit >= 65536) {
                    credit -= 65536;
                    foreign_credit -= 65536;
                    --foreign;
                    ++others;
                }
                continue;
            }
            if (waiting[p].empty() || waiting[p].front().ready > cycle || credit < 65536) continue;
            credit -= 65536;
            const Beat beat = waiting[p].front();
            valid = static_cast<uint8_t>(valid | 1u << p);
            if (beat.address + 16 <= size) std::memcpy(bytes(dut.m_axi_rdata) + 16 * p, memory + beat.address, 16);
            if (beat.last) bytes(dut.m_axi_rlast)[0] = static_cast<uint8_t>(bytes(dut.m_axi_rlast)[0] | 1u << p);
        }
        turn = (turn + 1) % sharers;
        bytes(dut.m_axi_rvalid)[0] = valid;
        uint8_t ready = 0;
        for (int p = 0; p < kPorts; ++p) ready = static_cast<uint8_t>(ready | (open[p] < 16 ? 1u << p : 0u));
        bytes(dut.m_axi_arready)[0] = ready;
        dut.eval();

        // Handshakes of this cycle.
        if (dut.s_axis_command_tvalid && dut.s_axis_command_tready) ++command_word;
        if (dut.s_axis_activation_tvalid && dut.s_axis_activation_tready) {
            fed += 16;
            ++done;
            next_at = 256 * cycle + o.pace;
        }
        if (dut.m_axis_result_tready && dut.m_axis_result_tvalid) {
            std::fwrite(bytes(dut.m_axis_result_tdata), 4, RESULT_WORDS, out);
            ++done;
            next_at = 256 * cycle + o.pace;
        }
        for (int p = 0; p < kPorts; ++p) {
            if (bit(dut.m_axi_arvalid, p) && (ready >> p & 1) != 0) {
                uint64_t address = 0;
                std::memcpy(&address, bytes(dut.m_axi_araddr) + 5 * p, 5);
                const uint64_t length = bytes(dut.m_axi_arlen)[p] + 1u;
                uint64_t at = cycle + header.latency + random.below(header.jitter + 1);
                if (at < newest[p]) at = newest[p];
                if ((address & ~uint64_t{4095}) != ((address + 16 * length - 1) & ~uint64_t{4095}) || address + 16 * length > size) {
                    std::printf("{\"error\": \"a burst of %llu beats at %llx\"}\n", static_cast<unsigned long long>(length), static_cast<unsigned long long>(address));
                    return 1;
                }
                for (uint64_t n = 0; n < length; ++n) waiting[p].push_back({address + 16 * n, at, n + 1 == length});
                newest[p] = at;
                ++open[p];
            }
            if ((valid >> p & 1) != 0) {  // RREADY is always up
                if (waiting[p].front().last) --open[p];
                waiting[p].pop_front();
                if (taken[0] + taken[kPorts - 1] == 0) first_beat = cycle;
                last_beat = cycle;
                ++taken[p];
            }
        }
        tick();
    }

    // The error register, over AXI4-Lite.
    dut.s_axil_araddr = 0x20;
    dut.s_axil_arvalid = 1;
    for (int n = 0; n < 4; ++n) {
        dut.eval();
        const bool accepted = dut.s_axil_arready != 0;
        tick();
        if (accepted) dut.s_axil_arvalid = 0;
        if (dut.s_axil_rvalid) break;
    }
    std::printf("{\"cycles\": %llu, \"first_beat\": %llu, \"last_beat\": %llu, \"offered\": %.3f, \"others\": %llu, \"status\": %u, \"beats\": [",
                static_cast<unsigned long long>(cycle), static_cast<unsigned long long>(first_beat), static_cast<unsigned long long>(last_beat),
                static_cast<double>(offered) / 65536, static_cast<unsigned long long>(others), static_cast<unsigned>(dut.s_axil_rdata));
    for (int p = 0; p < kPorts; ++p) std::printf("%s%llu", p ? ", " : "", static_cast<unsigned long long>(taken[p]));
    std::printf("]}\n");
    return std::fclose(out) == 0 ? 0 : 2;
}
