// SPDX-License-Identifier: Apache-2.0
// The two loops that take the C simulation's time, the prefix decoder and the multiplier array, in AVX-512.  Not synthesized:
// weights.hpp and linear.hpp have the engine's own, and tests compare the two: weights, sums and cycles.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace simd {

// What unpack_prefix did: words made (fewer than asked for when the stream is damaged), and cycles of its loop.
struct Unpacked {
    int words;
    int cycles;
};

// `count` beats of eight halfwords at `stream` into `words` words of 32 weights at `out`.  A cycle takes a beat into a queue of
// kQueue halfwords where there is room, and gives a word when the queue holds what its lanes need: here the queue is a number.
template <int kCodeBits, int kQueue>
inline Unpacked unpack_prefix(const uint16_t* stream, int count, int words, const uint16_t* bound, const uint16_t* offset,
                              const int8_t* weight, int8_t* out) {
    const __m512i longest = _mm512_set1_epi16(kCodeBits);
    __m512i bounds[kCodeBits - 1];
    for (int l = 0; l < kCodeBits - 1; ++l) bounds[l] = _mm512_set1_epi16(static_cast<short>(bound[l]));
    alignas(64) uint16_t padded[32] = {};
    for (int l = 0; l < kCodeBits; ++l) padded[l] = offset[l];
    const __m512i offsets = _mm512_load_si512(padded);
    const __m512i quarter[4] = {_mm512_loadu_si512(weight), _mm512_loadu_si512(weight + 64), _mm512_loadu_si512(weight + 128),
                                _mm512_loadu_si512(weight + 192)};
    __m512i low = _mm512_setzero_si512(), high = low, fill = low;  // bits not decoded yet, the next one on top; how many
    Unpacked made = {0, 0};
    int queued = 0, taken = 0;
    while (made.words < words) {
        ++made.cycles;
        if (taken < count && queued <= kQueue - 8) {
            queued += 8;
            ++taken;
        }
        const __mmask32 take = _mm512_cmplt_epu16_mask(fill, longest);
        const int wanted = _mm_popcnt_u32(take);
        if (wanted > queued) {
            if (taken == count) break;
            continue;
        }
        const __m512i fresh = _mm512_maskz_expandloadu_epi16(take, stream);
        const __m512i by = _mm512_sub_epi16(_mm512_set1_epi16(16), fill);  // only where taken
        stream += wanted;
        queued -= wanted;
        low = _mm512_or_si512(low, _mm512_sllv_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(fresh)),
                                                     _mm512_cvtepu16_epi32(_mm512_castsi512_si256(by))));
        high = _mm512_or_si512(high, _mm512_sllv_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(fresh, 1)),
                                                       _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(by, 1))));
        const __m512i window = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(_mm512_srli_epi32(low, 32 - kCodeBits))),
                                                  _mm512_cvtepi32_epi16(_mm512_srli_epi32(high, 32 - kCodeBits)), 1);
        __m512i marks = _mm512_setzero_si512();  // the length less one
        for (int l = 0; l < kCodeBits - 1; ++l) {
            const __mmask32 longer = _mm512_cmpge_epu16_mask(window, bounds[l]);
            marks = _mm512_mask_add_epi16(marks, longer, marks, _mm512_set1_epi16(1));
        }
        const __m512i length = _mm512_add_epi16(marks, _mm512_set1_epi16(1));
        const __m512i code = _mm512_srlv_epi16(window, _mm512_sub_epi16(longest, length));
        const __m512i place = _mm512_add_epi16(code, _mm512_permutexvar_epi16(marks, offsets));
        const __m512i index = _mm512_castsi256_si512(_mm512_cvtepi16_epi8(place));
        const __m512i below = _mm512_permutex2var_epi8(quarter[0], index, quarter[1]);
        const __m512i above = _mm512_permutex2var_epi8(quarter[2], index, quarter[3]);
        const __m512i found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), below, above);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_castsi512_si256(found));
        out += 32;
        ++made.words;
        low = _mm512_sllv_epi32(low, _mm512_cvtepu16_epi32(_mm512_castsi512_si256(length)));
        high = _mm512_sllv_epi32(high, _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(length, 1)));
        fill = _mm512_sub_epi16(_mm512_mask_add_epi16(fill, take, fill, _mm512_set1_epi16(16)), length);
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
