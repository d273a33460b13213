// SPDX-License-Identifier: Apache-2.0
// pacq_gemv or column_gemm in Verilog behind the C simulation's streams: commands, activations and results pass through the Verilated module, which
// reads the simulated DRAM over its AXI ports.  Takes the place of sim/gemv.hpp's model; everything else stays.
// MEADOW_GEMV_HEADER and MEADOW_GEMV_MODULE are the header and the class that Verilator made.
#pragma once

#include <cstring>
#include <deque>
#include <memory>
#include <stdexcept>

#include MEADOW_GEMV_HEADER
#include "verilated.h"

namespace gemv_model {

constexpr int kPortsBeside = kColumns ? kColumnPorts : kPacqPorts;
constexpr int kFirstBeside = kColumns ? kColumnsPort : kPacqPort;  // by which traffic is counted
constexpr int kCommandWords = kColumns ? 2 : 1 + (kPacqPorts + 1) / 2;

inline const uint8_t* dram;  // of the run; addresses are offsets into it

template <typename Signal>
uint8_t* bytes_of(Signal& signal) {
    return reinterpret_cast<uint8_t*>(&signal);
}

// The module, its clock, and the memory behind its ports.  It lives as long as the library, as hardware does.
class Module {
    static constexpr uint64_t kLatency = 60;       // cycles from a request to its first beat
    static constexpr uint64_t kPatience = 1 << 22;  // cycles without anything before a run is given up

    struct Beat {
        uint64_t address, ready;
        bool last;
    };
    VerilatedContext context_;
    MEADOW_GEMV_MODULE dut_{&context_};
    std::deque<Beat> waiting_[kPortsBeside];
    uint64_t random_ = 88172645463325252ull;

    bool chance() {  // three of four
        random_ ^= random_ << 13;
        random_ ^= random_ >> 7;
        random_ ^= random_ << 17;
        return (random_ & 3) != 0;
    }

  public:
    uint64_t cycles = 0;
    std::deque<beat_t> commands, activations;
    std::deque<result_word_t> results;

    Module() {
        std::memset(bytes_of(dut_.m_axi_rvalid), 0, sizeof dut_.m_axi_rvalid);
        dut_.s_axis_command_tvalid = dut_.s_axis_activation_tvalid = dut_.m_axis_result_tready = 0;
        dut_.s_axil_arvalid = dut_.s_axil_awvalid = dut_.s_axil_wvalid = 0;
        dut_.s_axil_bready = dut_.s_axil_rready = 1;
        dut_.rst_i = 1;
        for (int n = 0; n < 5; ++n) edge();
        dut_.rst_i = 0;
    }

    // One cycle; true when something moved.
    bool tick() {
        bool moved = false;
        dut_.s_axis_command_tvalid = !commands.empty();
        if (!commands.empty()) copy_in(dut_.s_axis_command_tdata, commands.front());
        dut_.s_axis_activation_tvalid = !activations.empty() && chance();
        if (!activations.empty()) copy_in(dut_.s_axis_activation_tdata, activations.front());
        dut_.m_axis_result_tready = chance();
        uint8_t valid = 0, last = 0;
        for (int p = 0; p < kPortsBeside; ++p) {
            if (waiting_[p].empty() || waiting_[p].front().ready > cycles || !chance()) continue;
            const Beat& beat = waiting_[p].front();
            valid = static_cast<uint8_t>(valid | 1u << p);
            if (beat.last) last = static_cast<uint8_t>(last | 1u << p);
            if (dram != nullptr) std::memcpy(bytes_of(dut_.m_axi_rdata) + kBeatBytes * p, dram + beat.address, kBeatBytes);
        }
        bytes_of(dut_.m_axi_rvalid)[0] = valid;
        bytes_of(dut_.m_axi_rlast)[0] = last;
        bytes_of(dut_.m_axi_arready)[0] = static_cast<uint8_t>((1u << kPortsBeside) - 1);
        dut_.eval();
        if (dut_.s_axis_command_tvalid && dut_.s_axis_command_tready) {
            commands.pop_front();
            moved = true;
        }
        if (dut_.s_axis_activation_tvalid && dut_.s_axis_activation_tready) {
            activations.pop_front();
            moved = true;
        }
        if (dut_.m_axis_result_tready && dut_.m_axis_result_tvalid) {
            result_word_t word = 0;
            for (int p = 0; p < kTogether; ++p) {
                uint32_t bits;
                std::memcpy(&bits, bytes_of(dut_.m_axis_result_tdata) + 4 * p, 4);
                word.range(32 * p + 31, 32 * p) = bits;
            }
            results.push_back(word);
            moved = true;
        }
        for (int p = 0; p < kPortsBeside; ++p) {
            if ((bytes_of(dut_.m_axi_arvalid)[0] >> p & 1) != 0) {
                uint64_t address = 0;
                std::memcpy(&address, bytes_of(dut_.m_axi_araddr) + 5 * p, 5);
                const uint64_t length = bytes_of(dut_.m_axi_arlen)[p] + 1u;
                traffic::access(kFirstBeside + p, 0, static_cast<int>(Role::kWeights), address, length);
                for (uint64_t n = 0; n < length; ++n) waiting_[p].push_back({address + kBeatBytes * n, cycles + kLatency, n + 1 == length});
                moved = true;
            }
            if ((valid >> p & 1) != 0 && (bytes_of(dut_.m_axi_rready)[0] >> p & 1) != 0) {
                waiting_[p].pop_front();
                moved = true;
            }
        }
        edge();
        ++cycles;
        return moved;
    }

    // Cycles until `count` results wait.
    void until(std::size_t count) {
        for (uint64_t quiet = 0; results.size() < count; quiet = tick() ? 0 : quiet + 1) {
            if (quiet > kPatience) throw std::runtime_error("the engine in Verilog gave no result");
        }
    }

    // AXI4-Lite, as the processor sees it.
    uint32_t read(uint32_t offset) {
        dut_.s_axil_araddr = static_cast<uint8_t>(offset);
        dut_.s_axil_arvalid = 1;
        for (int n = 0; n < 64; ++n) {
            dut_.eval();
            const bool accepted = dut_.s_axil_arready != 0;
            const bool there = dut_.s_axil_rvalid != 0;
            const uint32_t value = dut_.s_axil_rdata;
            tick();
            if (accepted) dut_.s_axil_arvalid = 0;
            if (there) return value;
        }
        throw std::runtime_error("the engine in Verilog did not answer a read");
    }

    void write(uint32_t offset, uint32_t value) {
        dut_.s_axil_awaddr = static_cast<uint8_t>(offset);
        dut_.s_axil_wdata = value;
        dut_.s_axil_wstrb = 15;
        dut_.s_axil_awvalid = dut_.s_axil_wvalid = 1;
        for (int n = 0; n < 64; ++n) {
            dut_.eval();
            const bool accepted = dut_.s_axil_awready != 0;
            const bool there = dut_.s_axil_bvalid != 0;
            tick();
            if (accepted) dut_.s_axil_awvalid = dut_.s_axil_wvalid = 0;
            if (there) return;
        }
        throw std::runtime_error("the engine in Verilog did not answer a write");
    }

  private:
    void edge() {
        dut_.clk_i = 1;
        dut_.eval();
        dut_.clk_i = 0;
        dut_.eval();
    }

    template <typename Signal>
    static void copy_in(Signal& signal, const beat_t& word) {
        const uint64_t halves[2] = {word.range(63, 0).to_uint64(), word.range(127, 64).to_uint64()};
        std::memcpy(bytes_of(signal), halves, sizeof halves);
    }
};

inline Module& module() {
    static std::unique_ptr<Module> made(new Module);
    return *made;
}

// One command, from its activations to its results.  Commands that wait behind it go too: their weights are read ahead.
inline void serve(GEMV_PORTS) {
    static std::deque<std::size_t> owed;  // results of each command that was sent and not served
    Module& m = module();
    while (!gemv_command.empty()) {
        const beat_t word = gemv_command.read();
        owed.push_back(kColumns ? word.range(15, 0).to_uint64() * word.range(47, 32).to_uint64() * kBeatBytes / kTogether
                                : word.range(47, 32).to_uint64() * kBandRows * word.range(79, 64).to_uint64());
        m.commands.push_back(word);
        for (int n = 1; n < kCommandWords; ++n) m.commands.push_back(gemv_command.read());
    }
    while (!gemv_activation.empty()) m.activations.push_back(gemv_activation.read());
    m.until(owed.front());
    for (std::size_t n = 0; n < owed.front(); ++n) {
        gemv_result.write(m.results.front());
        m.results.pop_front();
    }
    owed.pop_front();
}

}  // namespace gemv_model
