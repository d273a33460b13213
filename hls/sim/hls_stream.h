// SPDX-License-Identifier: Apache-2.0
// Enough of hls::stream to run the kernels under g++, where the processes of a DATAFLOW region run one after another.
// A read from an empty stream, and data left behind, are errors here; on hardware both would hang.
#pragma once

#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

namespace hls {

template <typename T, int DEPTH = 2>
class stream {
    static_assert(DEPTH >= 1, "a stream holds at least one word");
    static_assert(std::is_trivially_copyable<T>::value, "words are copied as bytes");

    // Words that were written, of which `next` have been read.  Not std::vector: it would clear what extend() hands out.
    struct Buffer {
        std::unique_ptr<T[]> words;
        std::size_t capacity = 0;
    };
    Buffer buffer_;
    std::size_t size_ = 0;
    std::size_t next_ = 0;

    // Buffers of streams that have gone: a region makes its streams anew for every tile, their memory need not be.
    static std::vector<Buffer>& pool() {
        static std::vector<Buffer> buffers;
        return buffers;
    }

    void reserve(std::size_t size) {
        if (size <= buffer_.capacity) return;
        Buffer larger;
        larger.capacity = size < 2 * buffer_.capacity ? 2 * buffer_.capacity : size;
        larger.words.reset(new T[larger.capacity]);
        if (size_ != 0) std::memcpy(static_cast<void*>(larger.words.get()), buffer_.words.get(), size_ * sizeof(T));
        buffer_ = std::move(larger);
    }

  public:
    stream() {
        if (!pool().empty()) {
            buffer_ = std::move(pool().back());
            pool().pop_back();
        }
    }
    stream(const stream&) = delete;
    stream& operator=(const stream&) = delete;
    ~stream() noexcept(false) {
        pool().push_back(std::move(buffer_));
        if (next_ != size_ && std::uncaught_exceptions() == 0) throw std::runtime_error("a stream was left with data");
    }

    bool empty() const { return next_ == size_; }
    void write(const T& word) {
        reserve(size_ + 1);
        buffer_.words[size_++] = word;
    }
    // For what the simulation does faster than word by word: `count` words that wait, at once; room for `count` more, to be
    // filled in; and the last `count` taken back.
    const T* take(int count) {
        if (size_ - next_ < static_cast<std::size_t>(count)) throw std::runtime_error("a read from an empty stream");
        next_ += static_cast<std::size_t>(count);
        return buffer_.words.get() + next_ - count;
    }
    T* extend(int count) {
        reserve(size_ + static_cast<std::size_t>(count));
        size_ += static_cast<std::size_t>(count);
        return buffer_.words.get() + size_ - count;
    }
    void shrink(int count) { size_ -= static_cast<std::size_t>(count); }
    T read() {
        if (empty()) throw std::runtime_error("a read from an empty stream");
        return buffer_.words[next_++];
    }
};

}  // namespace hls
