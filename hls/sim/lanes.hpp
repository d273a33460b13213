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

// The streams of a port: see weights.hpp.  The halfwords that wait lie by rounds; `whole` is a lane's first and second halfword.
struct Streams {
    alignas(64) uint16_t fifo[64 * 32 + 32];
    alignas(64) int32_t whole[32], third[32], at[32], had[32];
    int rounds;
    int turn;
};

struct Half {
    __m512i whole, third, at, had;
};

inline __m512i load16(const int32_t* from) { return _mm512_load_si512(from); }

// `count` beats of eight halfwords at `stream` into `words` words of 32 weights at `out`, in as many cycles as weights.hpp takes.
template <int kTurn, int kNeeded, int kFull, int kIdle>
inline Unpacked unpack_prefix(Streams& s, const uint16_t* stream, int count, int words, int row_words, bool start, const uint8_t* lengths,
                              const uint8_t* offsets, const int8_t* weight, int8_t* out) {
    const __m512i table = _mm512_loadu_si512(lengths), ones = _mm512_set1_epi32(15);
    const __m128i offset = _mm_loadu_si128(reinterpret_cast<const __m128i*>(offsets));
    const __m512i quarter[4] = {_mm512_loadu_si512(weight), _mm512_loadu_si512(weight + 64), _mm512_loadu_si512(weight + 128),
                                _mm512_loadu_si512(weight + 192)};
    const __m512i lane[2] = {_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                             _mm512_set_epi32(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16)};
    const __m256i column = _mm256_set_epi8(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7,
                                           6, 5, 4, 3, 2, 1, 0);
    const __m512i zero = _mm512_setzero_si512(), sixteen = _mm512_set1_epi32(16);
    if (start) s.rounds = s.turn = 0;
    Half half[2];
    for (int h = 0; h < 2; ++h) {
        half[h] = start ? Half{zero, zero, zero, zero}
                        : Half{load16(s.whole + 16 * h), load16(s.third + 16 * h), load16(s.at + 16 * h), load16(s.had + 16 * h)};
    }
    Unpacked made = {0, 0};
    bool enough = false, all_enough = false, room = false, all_room = false;
    int taken = 0, idle = 0, primed = start ? 0 : 3, at_word = 0;
    while (made.words < words || taken < count) {
        ++made.cycles;
        const bool take = taken < count && all_room, step = all_enough && made.words < words, prime = primed < 3;
        // Halfwords that have come for each lane: one more for the groups before the next beat's.
        const uint32_t ahead = (1u << (8 * (taken % 4))) - 1;
        const __m512i round = _mm512_set1_epi32(s.rounds);
        __m512i came[2], place[2];
        bool behind = false;
        for (int h = 0; h < 2; ++h) {
            Half& l = half[h];
            came[h] = _mm512_mask_add_epi32(round, static_cast<__mmask16>(ahead >> (16 * h)), round, _mm512_set1_epi32(1));
            if (!step) continue;
            const __mmask16 gone = _mm512_cmpge_epi32_mask(l.at, sixteen);
            const __mmask16 pop = prime ? static_cast<__mmask16>(0xFFFF) : gone;
            const __m512i next = _mm512_or_si512(_mm512_slli_epi32(l.whole, 16), l.third);
            const __m512i window = _mm512_srli_epi32(
                _mm512_sllv_epi32(_mm512_mask_mov_epi32(l.whole, gone, next), _mm512_and_si512(l.at, ones)), 18);
            // Lengths less one: both tables' lie in a byte.
            const __mmask16 escape = _mm512_cmpge_epi32_mask(window, _mm512_set1_epi32(0x3C00));
            const __m512i index = _mm512_mask_mov_epi32(_mm512_srli_epi32(window, 8), escape,
                                                        _mm512_and_si512(_mm512_srli_epi32(window, 4), _mm512_set1_epi32(63)));
            const __m512i both = _mm512_and_si512(_mm512_permutexvar_epi8(index, table), _mm512_set1_epi32(0xFF));
            const __m512i less = _mm512_mask_mov_epi32(_mm512_and_si512(both, ones), escape, _mm512_srli_epi32(both, 4));
            const __m512i code = _mm512_srlv_epi32(window, _mm512_sub_epi32(_mm512_set1_epi32(13), less));
            place[h] = _mm512_add_epi32(code, _mm512_permutexvar_epi8(less, _mm512_castsi128_si512(offset)));
            const __m512i from = _mm512_add_epi32(_mm512_slli_epi32(_mm512_and_si512(l.had, _mm512_set1_epi32(63)), 5), lane[h]);
            const __m512i fresh =
                _mm512_and_si512(_mm512_mask_i32gather_epi32(zero, pop, from, s.fifo, 2), _mm512_set1_epi32(0xFFFF));
            l.whole = _mm512_mask_mov_epi32(l.whole, pop, next);
            l.third = _mm512_mask_mov_epi32(l.third, pop, fresh);
            if (!prime) l.at = _mm512_add_epi32(_mm512_add_epi32(_mm512_and_si512(l.at, ones), less), _mm512_set1_epi32(1));
            l.had = _mm512_mask_add_epi32(l.had, pop, l.had, _mm512_set1_epi32(1));
            if (taken == count && !prime) {
                const __m512i left = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(came[h], l.had), _mm512_set1_epi32(3)), 4);
                behind |= _mm512_cmpgt_epi32_mask(l.at, left) != 0;
            }
        }
        all_enough = enough;
        all_room = room;
        enough = room = true;
        for (int h = 0; h < 2; ++h) {
            const __m512i waiting = _mm512_sub_epi32(came[h], half[h].had);
            enough &= taken == count || _mm512_cmplt_epi32_mask(waiting, _mm512_set1_epi32(kNeeded)) == 0;
            room &= _mm512_cmpge_epi32_mask(waiting, _mm512_set1_epi32(kFull)) == 0;
        }
        if (take) {
            std::memcpy(s.fifo + 32 * (s.rounds & 63) + 8 * (taken % 4), stream + 8 * static_cast<std::size_t>(taken), 16);
            if (taken % 4 == 3) ++s.rounds;
            ++taken;
        }
        idle = take || step ? 0 : idle + 1;
        if (behind || idle == kIdle) break;
        if (!step) continue;
        if (prime) {
            ++primed;
            continue;
        }
        const __m512i index = _mm512_inserti32x4(_mm512_castsi128_si512(_mm512_cvtepi32_epi8(place[0])), _mm512_cvtepi32_epi8(place[1]), 1);
        const __m512i below = _mm512_permutex2var_epi8(quarter[0], index, quarter[1]);
        const __m512i above = _mm512_permutex2var_epi8(quarter[2], index, quarter[3]);
        const __m512i found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), below, above);
        const __m256i back = _mm256_and_si256(_mm256_sub_epi8(column, _mm256_set1_epi8(static_cast<char>(s.turn))), _mm256_set1_epi8(31));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutexvar_epi8(back, _mm512_castsi512_si256(found)));
        out += 32;
        ++made.words;
        if (++at_word == row_words) {
            at_word = 0;
            s.turn = (s.turn + kTurn) % 32;
        }
    }
    for (int h = 0; h < 2; ++h) {
        _mm512_store_si512(s.whole + 16 * h, half[h].whole);
        _mm512_store_si512(s.third + 16 * h, half[h].third);
        _mm512_store_si512(s.at + 16 * h, half[h].at);
        _mm512_store_si512(s.had + 16 * h, half[h].had);
    }
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
