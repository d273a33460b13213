// SPDX-License-Identifier: Apache-2.0
// The two loops that take the C simulation's time, the prefix decoder and the multiplier array, in AVX-512.  Not synthesized:
// weights.hpp and linear.hpp have the engine's own, and tests compare the two: weights, sums and cycles.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace simd {

// What unpack_prefix did: words made (fewer than asked for when the stream is damaged), and cycles of its loop.
struct Unpacked {
    int words;
    int cycles;
};

// The streams of a port: see weights.hpp.  A row of `fifo` is a round; a lane is 16 bits of each vector.
struct Streams {
    alignas(64) uint16_t fifo[64][32];
    alignas(64) uint16_t first[32], second[32], third[32], at[32], had[32];
    int rounds;
    int low, high;  // the least and the most that a lane has had
    int turn;
};

// `count` beats of eight halfwords at `stream` into `words` words of 32 weights at `out`, in as many cycles as weights.hpp takes.
template <int kTurn, int kNeeded, int kFull, int kIdle>
inline Unpacked unpack_prefix(Streams& s, const uint16_t* stream, int count, int words, int row_words, bool start, const uint8_t* lengths,
                              const uint8_t* offsets, const int8_t* weight, int8_t* out) {
    const __m512i zero = _mm512_setzero_si512(), one = _mm512_set1_epi16(1), two = _mm512_set1_epi16(2), bits = _mm512_set1_epi16(15), byte = _mm512_set1_epi16(0xFF);
    const __m512i table = _mm512_loadu_si512(lengths);
    const __m512i offset = _mm512_cvtepu8_epi16(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(offsets))));
    const __m512i quarter[4] = {_mm512_loadu_si512(weight), _mm512_loadu_si512(weight + 64), _mm512_loadu_si512(weight + 128),
                                _mm512_loadu_si512(weight + 192)};
    const __m256i column = _mm256_set_epi8(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7,
                                           6, 5, 4, 3, 2, 1, 0);
    int rounds = start ? 0 : s.rounds, turn = start ? 0 : s.turn, low = start ? 0 : s.low, high = start ? 0 : s.high;
    __m512i first = zero, second = zero, third = zero, at = zero, had = zero;
    if (!start) {
        first = _mm512_load_si512(s.first);
        second = _mm512_load_si512(s.second);
        third = _mm512_load_si512(s.third);
        at = _mm512_load_si512(s.at);
        had = _mm512_load_si512(s.had);
    }
    Unpacked made = {0, 0};
    bool enough = false, all_enough = false, room = false, all_room = false;
    int taken = 0, idle = 0, primed = start ? 0 : 3, at_word = 0;
    while (made.words < words || taken < count) {
        ++made.cycles;
        const bool take = taken < count && all_room, step = all_enough && made.words < words, prime = primed < 3;
        // Halfwords that have come for each lane: one more for the groups before the next beat's.
        const __m512i round = _mm512_set1_epi16(static_cast<short>(rounds));
        const __m512i came = _mm512_mask_add_epi16(round, (1u << (8 * (taken % 4))) - 1, round, one);
        bool behind = false;
        __m512i place = zero;
        if (step) {
            const __mmask32 gone = _mm512_cmpgt_epi16_mask(at, bits), pop = prime ? ~static_cast<__mmask32>(0) : gone;
            const __m512i window = _mm512_srli_epi16(
                _mm512_shldv_epi16(_mm512_mask_mov_epi16(first, gone, second), _mm512_mask_mov_epi16(second, gone, third), at), 2);
            // Lengths less one: both tables' lie in a byte.
            const __mmask32 escape = _mm512_cmpge_epi16_mask(window, _mm512_set1_epi16(0x3C00));
            const __m512i index = _mm512_mask_mov_epi16(_mm512_srli_epi16(window, 8), escape,
                                                        _mm512_and_si512(_mm512_srli_epi16(window, 4), _mm512_set1_epi16(63)));
            __mmask32 others = 0;
            const __m512i both = _mm512_and_si512(_mm512_permutexvar_epi8(index, table), byte);
            const __m512i less = _mm512_mask_mov_epi16(_mm512_and_si512(both, bits), escape, _mm512_srli_epi16(both, 4));
            const __m512i code = _mm512_srlv_epi16(window, _mm512_sub_epi16(_mm512_set1_epi16(13), less));
            place = _mm512_add_epi16(code, _mm512_permutexvar_epi16(less, offset));
            // Lanes are at few different rounds: each of these is looked at whole.
            __m512i fresh = _mm512_load_si512(s.fifo[low & 63]), other = zero, r = _mm512_set1_epi16(static_cast<short>(low + 1));
            for (int n = low + 1; n <= high; n += 2) {  // two chains
                const __mmask32 here = _mm512_cmpeq_epi16_mask(had, r), next = _mm512_cmpeq_epi16_mask(had, _mm512_add_epi16(r, one));
                fresh = _mm512_mask_mov_epi16(fresh, here, _mm512_load_si512(s.fifo[n & 63]));
                other = _mm512_mask_mov_epi16(other, next, _mm512_load_si512(s.fifo[(n + 1) & 63]));
                r = _mm512_add_epi16(r, two);
                others |= next;
            }
            fresh = _mm512_mask_mov_epi16(fresh, others, other);
            first = _mm512_mask_mov_epi16(first, pop, second);
            second = _mm512_mask_mov_epi16(second, pop, third);
            third = _mm512_mask_mov_epi16(third, pop, fresh);
            if (!prime) at = _mm512_add_epi16(_mm512_add_epi16(_mm512_and_si512(at, bits), less), one);
            had = _mm512_mask_add_epi16(had, pop, had, one);
            if (_mm512_cmpeq_epi16_mask(had, _mm512_set1_epi16(static_cast<short>(low))) == 0) ++low;
            if (_mm512_cmpeq_epi16_mask(had, _mm512_set1_epi16(static_cast<short>(high + 1))) != 0) ++high;
            if (taken == count && !prime) {
                const __m512i left = _mm512_slli_epi16(_mm512_add_epi16(_mm512_sub_epi16(came, had), _mm512_set1_epi16(3)), 4);
                behind = _mm512_cmpgt_epi16_mask(at, left) != 0;
            }
        }
        all_enough = enough;
        all_room = room;
        const __m512i waiting = _mm512_sub_epi16(came, had);
        enough = taken == count || _mm512_cmplt_epi16_mask(waiting, _mm512_set1_epi16(kNeeded)) == 0;
        room = _mm512_cmpge_epi16_mask(waiting, _mm512_set1_epi16(kFull)) == 0;
        if (take) {
            std::memcpy(s.fifo[rounds & 63] + 8 * (taken % 4), stream + 8 * static_cast<std::size_t>(taken), 16);
            if (taken % 4 == 3) ++rounds;
            ++taken;
        }
        idle = take || step ? 0 : idle + 1;
        if (behind || idle == kIdle) break;
        if (!step) continue;
        if (prime) {
            ++primed;
            continue;
        }
        const __m512i index = _mm512_castsi256_si512(_mm512_cvtepi16_epi8(place));
        const __m512i below = _mm512_permutex2var_epi8(quarter[0], index, quarter[1]);
        const __m512i above = _mm512_permutex2var_epi8(quarter[2], index, quarter[3]);
        const __m512i found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), below, above);
        const __m256i back = _mm256_and_si256(_mm256_sub_epi8(column, _mm256_set1_epi8(static_cast<char>(turn))), _mm256_set1_epi8(31));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutexvar_epi8(back, _mm512_castsi512_si256(found)));
        out += 32;
        ++made.words;
        if (++at_word == row_words) {
            at_word = 0;
            turn = (turn + kTurn) % 32;
        }
    }
    s.rounds = rounds;
    s.turn = turn;
    s.low = low;
    s.high = high;
    _mm512_store_si512(s.first, first);
    _mm512_store_si512(s.second, second);
    _mm512_store_si512(s.third, third);
    _mm512_store_si512(s.at, at);
    _mm512_store_si512(s.had, had);
    return made;
}

// One row of weights of each of kPorts ports against one row of activations, `words` words of 32 INT8: the exact sums.
// The instruction multiplies unsigned with signed, so activations are raised by 128 and `less` takes that back.
template <int kPorts>
inline void dot_rows(const int8_t* a, const int8_t* const w[kPorts], const int32_t less[kPorts], int words, int32_t out[kPorts]) {
    const __m512i raise = _mm512_set1_epi8(-128);
    __m512i sum[kPorts];
    for (int p = 0; p < kPorts; ++p) sum[p] = _mm512_setzero_si512();
    int k = 0;
    for (; k + 2 <= words; k += 2) {
        const __m512i x = _mm512_xor_si512(_mm512_loadu_si512(a + 32 * k), raise);
        for (int p = 0; p < kPorts; ++p) sum[p] = _mm512_dpbusd_epi32(sum[p], x, _mm512_loadu_si512(w[p] + 32 * k));
    }
    if (k < words) {
        const __m512i x = _mm512_xor_si512(_mm512_maskz_loadu_epi32(0xFF, a + 32 * k), raise);
        for (int p = 0; p < kPorts; ++p) {
            sum[p] = _mm512_dpbusd_epi32(sum[p], x, _mm512_maskz_loadu_epi32(0xFF, w[p] + 32 * k));
        }
    }
    for (int p = 0; p < kPorts; ++p) out[p] = _mm512_reduce_add_epi32(sum[p]) - less[p];
}

// 128 times the sum of a row of weights.
inline int32_t raised(const int8_t* w, int words) {
    __m512i sum = _mm512_setzero_si512();
    for (int k = 0; k < words; ++k) {
        sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(-128), _mm512_maskz_loadu_epi32(0xFF, w + 32 * k));
    }
    return _mm512_reduce_add_epi32(sum);
}

}  // namespace simd
