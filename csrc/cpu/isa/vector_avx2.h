// AVX2 with FMA and F16C: 8 floats a vector, 16 registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fastbert {
namespace {

struct Vector {
  using Float = __m256;
  using Mask = __m256;  // all bits of a lane, or none
  static constexpr int lanes = 8;
  static constexpr int strip_rows = 6;  // 6 rows of 2 vectors are 12 accumulators, beside 2 operands and a broadcast
  // Keys of a block of attention's forward and of a piece of its backward.
  static constexpr int forward_keys = 128, backward_keys = 256;

  static Float zero() { return _mm256_setzero_ps(); }
  static Float broadcast(float x) { return _mm256_set1_ps(x); }
  static Float load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Float x) { _mm256_storeu_ps(p, x); }
  static Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static Float subtract_product(Float c, Float a, Float b) { return _mm256_fnmadd_ps(a, b, c); }
  // The second argument where either is NaN.
  static Float maximum(Float a, Float b) { return _mm256_max_ps(a, b); }
  static Float minimum(Float a, Float b) { return _mm256_min_ps(a, b); }
  static Float nearest(Float x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // The nearest integer and the rest; anything below -126.
  static void split(Float x, Float& n, Float& f) {
    const Float bounded = maximum(broadcast(-126.0f), x);
    n = nearest(bounded);
    f = bounded - n;
  }
  // x * 2^n for integers n from -126 to 127 and x of 1/2 to 2.
  static Float scale_by_power(Float x, Float n) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
  }

  static Mask at_least(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_NLT_UQ); }  // or unordered
  static Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
  // Lanes whose index, counted from `first`, lies in [begin, end).
  static Mask in_range(int first, int begin, int end) {
    const __m256i index = _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const __m256i from = _mm256_cmpgt_epi32(index, _mm256_set1_epi32(begin - 1));
    return _mm256_castsi256_ps(_mm256_and_si256(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(end), index)));
  }
  static Mask nonzero(const std::uint8_t* bytes) {
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(widen(bytes), _mm256_setzero_si256()));
  }
  static Mask bytes_at_least(const std::uint8_t* bytes, int threshold) {
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(widen(bytes), _mm256_set1_epi32(threshold - 1)));
  }
  static Float select(Mask mask, Float yes, Float no) { return _mm256_blendv_ps(no, yes, mask); }
  static Float or_zero(Mask mask, Float yes) { return _mm256_and_ps(mask, yes); }

  // Pairwise, always in the same order.
  static float sum(Float x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }
  static float largest(Float x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }

  static Float load_bfloat16(const std::uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static Float load_float16(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_bfloat16(std::uint16_t* p, Float x) {
    const __m256i quiet = _mm256_or_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x400000));  // a NaN must stay one
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i high = _mm256_blendv_epi8(rounded_high(x), _mm256_srli_epi32(quiet, 16), nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0b1000);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  static void store_float16(std::uint16_t* p, Float x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }

  static void transpose(Float (&rows)[lanes]) {
    Float pairs[8], quads[8];
    for (int i = 0; i < 8; i += 2) {
      pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
      pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      quads[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
      quads[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xEE);
      quads[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
      quads[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; ++i) {
      rows[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
      rows[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
  }

  // Two vectors to 16 numbers in a row: one packing for both, and one look for NaN, which is rare.
  static void store_bfloat16_pair(std::uint16_t* p, Float a, Float b) {
    if (__builtin_expect(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0, 0)) {
      store_bfloat16(p, a);
      store_bfloat16(p + lanes, b);
      return;
    }
    const __m256i packed = _mm256_packus_epi32(rounded_high(a), rounded_high(b));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0b11011000));
  }

 private:
  static __m256i rounded_high(Float x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    return _mm256_srli_epi32(rounded, 16);
  }
  static __m256i widen(const std::uint8_t* bytes) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
  }
};

}  // namespace
}  // namespace fastbert
