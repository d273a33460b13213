// SPDX-License-Identifier: Apache-2.0
// One word of the prefix decoder in AVX-512, so that the C simulation decodes as fast as it multiplies.  Not synthesized:
// weights.hpp has the engine's own loops, and tests/hls compares the two.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace simd {

// As decode_word: `held`, `fill` [32] are the lanes' state, `queue` the halfwords that wait, the rest the code's table.
template <int kCodeBits>
inline void decode_word(uint32_t* held, uint16_t* fill, const uint16_t* queue, const uint16_t* bound, const uint16_t* offset,
                        const int8_t* weight, int8_t* out) {
    __m512i bits_in = _mm512_loadu_si512(fill);
    const __mmask32 take = _mm512_cmplt_epu16_mask(bits_in, _mm512_set1_epi16(kCodeBits));
    const __m512i fresh = _mm512_maskz_expandloadu_epi16(take, queue);
    const __m512i place = _mm512_sub_epi16(_mm512_set1_epi16(16), bits_in);  // only where taken
    auto join = [&](int half) {
        const __m512i old = _mm512_loadu_si512(held + 16 * half);
        const __m256i some = half ? _mm512_extracti64x4_epi64(fresh, 1) : _mm512_castsi512_si256(fresh);
        const __m256i by = half ? _mm512_extracti64x4_epi64(place, 1) : _mm512_castsi512_si256(place);
        return _mm512_or_si512(old, _mm512_sllv_epi32(_mm512_cvtepu16_epi32(some), _mm512_cvtepu16_epi32(by)));
    };
    const __m512i low = join(0), high = join(1);
    bits_in = _mm512_mask_add_epi16(bits_in, take, bits_in, _mm512_set1_epi16(16));
    auto top = [](__m512i x) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(x, 32 - kCodeBits)); };
    const __m512i window = _mm512_inserti64x4(_mm512_castsi256_si512(top(low)), top(high), 1);
    __m512i length = _mm512_set1_epi16(1);
    __m512i shift = _mm512_set1_epi16(static_cast<short>(offset[0]));
    for (int l = 1; l < kCodeBits; ++l) {
        const __mmask32 longer = _mm512_cmpge_epu16_mask(window, _mm512_set1_epi16(static_cast<short>(bound[l - 1])));
        length = _mm512_mask_add_epi16(length, longer, length, _mm512_set1_epi16(1));
        shift = _mm512_mask_mov_epi16(shift, longer, _mm512_set1_epi16(static_cast<short>(offset[l])));
    }
    const __m512i code = _mm512_srlv_epi16(window, _mm512_sub_epi16(_mm512_set1_epi16(kCodeBits), length));
    const __m512i index = _mm512_castsi256_si512(_mm512_cvtepi16_epi8(_mm512_add_epi16(code, shift)));
    const __m512i below = _mm512_permutex2var_epi8(_mm512_loadu_si512(weight), index, _mm512_loadu_si512(weight + 64));
    const __m512i above = _mm512_permutex2var_epi8(_mm512_loadu_si512(weight + 128), index, _mm512_loadu_si512(weight + 192));
    const __m512i found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), below, above);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_castsi512_si256(found));
    _mm512_storeu_si512(held, _mm512_sllv_epi32(low, _mm512_cvtepu16_epi32(_mm512_castsi512_si256(length))));
    _mm512_storeu_si512(held + 16, _mm512_sllv_epi32(high, _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(length, 1))));
    _mm512_storeu_si512(fill, _mm512_sub_epi16(bits_in, length));
}

// How many lanes need a halfword.
template <int kCodeBits>
inline int wanted(const uint16_t* fill) {
    return _mm_popcnt_u32(_mm512_cmplt_epu16_mask(_mm512_loadu_si512(fill), _mm512_set1_epi16(kCodeBits)));
}

}  // namespace simd
