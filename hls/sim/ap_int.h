// SPDX-License-Identifier: Apache-2.0
// Enough of ap_uint and ap_int to run the kernels under g++: ranges of up to 64 bits, conversions.  Our own subset, not the
// vendor's header; under Vitis its <ap_int.h> is found instead.  tests/hls checks it against exact integers.
#pragma once

#include <cstdint>

template <int W, bool kWide = (W > 128)>
class ap_uint {
    static_assert(W >= 1 && W <= 128, "this subset serves 1 to 128 bits");
    using word = unsigned __int128;
    word value_;

    static constexpr word mask(int bits) { return bits >= 128 ? ~static_cast<word>(0) : (static_cast<word>(1) << bits) - 1; }

  public:
    // Bits hi .. lo, readable and writable.
    class range_ref {
        ap_uint& whole_;
        int hi_, lo_;

      public:
        range_ref(ap_uint& whole, int hi, int lo) : whole_(whole), hi_(hi), lo_(lo) {}
        uint64_t to_uint64() const { return static_cast<uint64_t>((whole_.value_ >> lo_) & mask(hi_ - lo_ + 1)); }
        operator uint64_t() const { return to_uint64(); }
        range_ref& operator=(uint64_t bits) {
            const word m = mask(hi_ - lo_ + 1);
            whole_.value_ = (whole_.value_ & ~(m << lo_)) | ((static_cast<word>(bits) & m) << lo_);
            return *this;
        }
    };
    class const_range_ref {
        uint64_t bits_;

      public:
        explicit const_range_ref(uint64_t bits) : bits_(bits) {}
        uint64_t to_uint64() const { return bits_; }
        operator uint64_t() const { return bits_; }
    };

    ap_uint() = default;
    ap_uint(uint64_t value) : value_(static_cast<word>(value) & mask(W)) {}
    range_ref range(int hi, int lo) { return range_ref(*this, hi, lo); }
    const_range_ref range(int hi, int lo) const {
        return const_range_ref(static_cast<uint64_t>((value_ >> lo) & mask(hi - lo + 1)));
    }
    uint64_t to_uint64() const { return static_cast<uint64_t>(value_); }
};

// Wider than 128 bits: a range lies within one of the pieces of 128.
template <int W>
class ap_uint<W, true> {
    ap_uint<128> piece_[(W + 127) / 128];

  public:
    ap_uint() = default;
    ap_uint(uint64_t value) : piece_{} { piece_[0] = value; }
    auto range(int hi, int lo) { return piece_[lo / 128].range(hi % 128, lo % 128); }
    auto range(int hi, int lo) const { return piece_[lo / 128].range(hi % 128, lo % 128); }
};

// A signed integer of W bits, kept in 64; what does not fit wraps.
template <int W>
class ap_int {
    static_assert(W >= 1 && W <= 64, "this subset serves 1 to 64 bits");
    int64_t value_;

  public:
    ap_int() = default;
    ap_int(int64_t value) : value_(static_cast<int64_t>(static_cast<uint64_t>(value) << (64 - W)) >> (64 - W)) {}
    int64_t to_int64() const { return value_; }
};
