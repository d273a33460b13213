// SPDX-License-Identifier: Apache-2.0
// Enough of hls::stream to run the kernels under g++, where the processes of a DATAFLOW region run one after another.
// A read from an empty stream, and data left behind, are errors here; on hardware both would hang.
#pragma once

#include <cstddef>
#include <exception>
#include <stdexcept>
#include <utility>
#include <vector>

namespace hls {

template <typename T, int DEPTH = 2>
class stream {
    static_assert(DEPTH >= 1, "a stream holds at least one word");
    std::vector<T> words_;
    std::size_t next_ = 0;

    // Buffers of streams that have gone: a region makes its streams anew for every tile, their memory need not be.
    static std::vector<std::vector<T>>& pool() {
        static std::vector<std::vector<T>> buffers;
        return buffers;
    }

  public:
    stream() {
        if (!pool().empty()) {
            words_.swap(pool().back());
            pool().pop_back();
        }
    }
    stream(const stream&) = delete;
    stream& operator=(const stream&) = delete;
    ~stream() noexcept(false) {
        const bool left = next_ != words_.size();
        words_.clear();
        pool().push_back(std::move(words_));
        if (left && std::uncaught_exceptions() == 0) throw std::runtime_error("a stream was left with data");
    }

    bool empty() const { return next_ == words_.size(); }
    void write(const T& word) { words_.push_back(word); }
    // For what the simulation does faster than word by word: `count` words that wait, at once; room for `count` more, to be
    // filled in; and the last `count` taken back.
    const T* take(int count) {
        if (words_.size() - next_ < static_cast<std::size_t>(count)) throw std::runtime_error("a read from an empty stream");
        next_ += static_cast<std::size_t>(count);
        return words_.data() + next_ - count;
    }
    T* extend(int count) {
        words_.resize(words_.size() + static_cast<std::size_t>(count));
        return words_.data() + words_.size() - count;
    }
    void shrink(int count) { words_.resize(words_.size() - static_cast<std::size_t>(count)); }
    T read() {
        if (empty()) throw std::runtime_error("a read from an empty stream");
        return words_[next_++];
    }
};

}  // namespace hls
