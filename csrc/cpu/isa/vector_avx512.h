// AVX-512 (F, BW, DQ, VL): 16 floats a vector, 32 registers, masks in registers of their own.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12's own header: "undefined" is meant there
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <cstdint>

namespace fastbert {
namespace {

struct Vector {
  using Float = __m512;
  using Mask = __mmask16;
  static constexpr int lanes = 16;
  static constexpr int strip_rows = 12;  // 12 rows of 2 vectors are 24 accumulators; scalars come straight from memory
  // Keys of a block of attention's forward and of a piece of its backward. 128 and 256 measured 7% slower.
  static constexpr int forward_keys = 512, backward_keys = 512;

  static Float zero() { return _mm512_setzero_ps(); }
  static Float broadcast(float x) { return _mm512_set1_ps(x); }
  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Float x) { _mm512_storeu_ps(p, x); }
  static Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static Float subtract_product(Float c, Float a, Float b) { return _mm512_fnmadd_ps(a, b, c); }
  // The second argument where either is NaN.
  static Float maximum(Float a, Float b) { return _mm512_max_ps(a, b); }
  static Float minimum(Float a, Float b) { return _mm512_min_ps(a, b); }
  // The nearest integer and the rest; anything below -126.
  static void split(Float x, Float& n, Float& f) {
    f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    n = x - f;
  }
  // x * 2^n for integers n from -126 to 127 and x of 1/2 to 2.
  static Float scale_by_power(Float x, Float n) { return _mm512_scalef_ps(x, n); }

  static Mask at_least(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ); }  // or unordered
  static Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
  // Lanes whose index, counted from `first`, lies in [begin, end).
  static Mask in_range(int first, int begin, int end) {
    const __m512i index = _mm512_add_epi32(_mm512_set1_epi32(first),
                                           _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    return both(_mm512_cmpge_epi32_mask(index, _mm512_set1_epi32(begin)),
                _mm512_cmplt_epi32_mask(index, _mm512_set1_epi32(end)));
  }
  static Mask nonzero(const std::uint8_t* bytes) { return bytes_at_least(bytes, 1); }
  static Mask bytes_at_least(const std::uint8_t* bytes, int threshold) {
    return _mm_cmpge_epu8_mask(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)),
                               _mm_set1_epi8(static_cast<char>(threshold)));
  }
  static Float select(Mask mask, Float yes, Float no) { return _mm512_mask_blend_ps(mask, no, yes); }
  static Float or_zero(Mask mask, Float yes) { return _mm512_maskz_mov_ps(mask, yes); }

  // Pairwise, always in the same order.
  static float sum(Float x) { return _mm512_reduce_add_ps(x); }
  static float largest(Float x) { return _mm512_reduce_max_ps(x); }

  static Float load_bfloat16(const std::uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static Float load_float16(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store_bfloat16(std::uint16_t* p, Float x) {
    const __m512i high = _mm512_srli_epi32(round_to_bfloat16(x), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(high));
  }
  // In the upper halves; what is left in the lower ones means nothing.
  static __m512i round_to_bfloat16(Float x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));  // a NaN must stay one
    return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), rounded, quiet);
  }
  static void store_float16(std::uint16_t* p, Float x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }

  static void transpose(Float (&rows)[lanes]) {
    Float pairs[16], quads[16], halves[16];
    for (int i = 0; i < 16; i += 2) {
      pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
      pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      quads[i] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
      quads[i + 1] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0xEE);
      quads[i + 2] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
      quads[i + 3] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xEE);
    }
    // quads[4g + c] holds, in its 128-bit piece p, column 4p + c of rows 4g to 4g + 3.
    for (int c = 0; c < 4; ++c) {
      halves[c] = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0x88);           // pieces 0 2 of groups 0, 1
      halves[4 + c] = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0xDD);       // pieces 1 3
      halves[8 + c] = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0x88);  // of groups 2, 3
      halves[12 + c] = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0xDD);
    }
    for (int c = 0; c < 4; ++c) {
      rows[c] = _mm512_shuffle_f32x4(halves[c], halves[8 + c], 0x88);
      rows[4 + c] = _mm512_shuffle_f32x4(halves[4 + c], halves[12 + c], 0x88);
      rows[8 + c] = _mm512_shuffle_f32x4(halves[c], halves[8 + c], 0xDD);
      rows[12 + c] = _mm512_shuffle_f32x4(halves[4 + c], halves[12 + c], 0xDD);
    }
  }

  // Two vectors to 32 numbers in a row.
  static void store_bfloat16_pair(std::uint16_t* p, Float a, Float b) {
    store_bfloat16(p, a);
    store_bfloat16(p + lanes, b);
  }
};

}  // namespace
}  // namespace fastbert
