// AVX-512 on integers: memory, arithmetic, comparisons and masks.
#pragma once

#include "lanes.h"

namespace fastbert_emulated {
namespace {

using std::int16_t;
using std::int32_t;
using std::int64_t;
using std::int8_t;
using std::uint16_t;
using std::uint32_t;
using std::uint64_t;
using std::uint8_t;

inline Int512 mm512_setzero_si512() { return zero<Int512>(); }
inline Int512 mm512_set1_epi8(char x) { return broadcast<char, Int512>(x); }
inline Int512 mm512_set1_epi16(short x) { return broadcast<int16_t, Int512>(x); }
inline Int512 mm512_set1_epi32(int x) { return broadcast<int32_t, Int512>(x); }
inline Int512 mm512_set1_epi64(long long x) { return broadcast<long long, Int512>(x); }
inline Int512 mm512_setr_epi32(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j, int k, int l,
                               int m, int n, int o, int p) {
  const int32_t lanes[16] = {a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p};
  return bits_as<Int512>(lanes);
}
inline Int512 mm512_setr_epi64(long long a, long long b, long long c, long long d, long long e, long long f,
                               long long g, long long h) {
  const long long lanes[8] = {a, b, c, d, e, f, g, h};
  return bits_as<Int512>(lanes);
}

inline Int512 mm512_loadu_si512(const void* p) { return load<Int512>(p); }
inline Int512 mm512_load_si512(const void* p) { return need_alignment(p), load<Int512>(p); }
inline Int512 mm512_loadu_epi16(const void* p) { return load<Int512>(p); }
inline Int512 mm512_loadu_epi32(const void* p) { return load<Int512>(p); }
inline void mm512_storeu_si512(void* p, Int512 a) { store(p, a); }
inline void mm512_store_si512(void* p, Int512 a) { need_alignment(p), store(p, a); }
inline void mm512_stream_si512(void* p, Int512 a) { need_alignment(p), store(p, a); }
inline void mm512_storeu_epi16(void* p, Int512 a) { store(p, a); }
inline void mm512_storeu_epi32(void* p, Int512 a) { store(p, a); }

inline Int512 mm512_maskz_loadu_epi8(__mmask64 k, const void* p) { return load_masked<uint8_t>(k, p, zero<Int512>()); }
inline Int512 mm512_maskz_loadu_epi16(__mmask32 k, const void* p) {
  return load_masked<uint16_t>(k, p, zero<Int512>());
}
inline Int512 mm512_maskz_loadu_epi32(__mmask16 k, const void* p) {
  return load_masked<uint32_t>(k, p, zero<Int512>());
}
inline __m256i mm256_maskz_loadu_epi8(__mmask32 k, const void* p) {
  return load_masked<uint8_t>(k, p, zero<__m256i>());
}
inline __m256i mm256_maskz_loadu_epi16(__mmask16 k, const void* p) {
  return load_masked<uint16_t>(k, p, zero<__m256i>());
}
inline __m256i mm256_maskz_loadu_epi32(__mmask8 k, const void* p) {
  return load_masked<uint32_t>(k, p, zero<__m256i>());
}
inline __m128i mm_maskz_loadu_epi8(__mmask16 k, const void* p) { return load_masked<uint8_t>(k, p, zero<__m128i>()); }
inline void mm512_mask_storeu_epi8(void* p, __mmask64 k, Int512 a) { store_masked<uint8_t>(p, k, a); }
inline void mm512_mask_storeu_epi16(void* p, __mmask32 k, Int512 a) { store_masked<uint16_t>(p, k, a); }
inline void mm512_mask_storeu_epi32(void* p, __mmask16 k, Int512 a) { store_masked<uint32_t>(p, k, a); }
inline void mm256_mask_storeu_epi8(void* p, __mmask32 k, __m256i a) { store_masked<uint8_t>(p, k, a); }
inline void mm256_mask_storeu_epi16(void* p, __mmask16 k, __m256i a) { store_masked<uint16_t>(p, k, a); }
inline void mm256_mask_storeu_epi32(void* p, __mmask8 k, __m256i a) { store_masked<uint32_t>(p, k, a); }
inline void mm_mask_storeu_epi8(void* p, __mmask16 k, __m128i a) { store_masked<uint8_t>(p, k, a); }

inline Int512 mm512_add_epi32(Int512 a, Int512 b) {
  return each<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x + y; });
}
inline Int512 mm512_add_epi64(Int512 a, Int512 b) {
  return each<uint64_t>(a, b, [](uint64_t x, uint64_t y) { return x + y; });
}
inline Int512 mm512_sub_epi32(Int512 a, Int512 b) {
  return each<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x - y; });
}
inline Int512 mm512_mullo_epi32(Int512 a, Int512 b) {
  return each<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x * y; });
}
// The low halves of 64-bit lanes, without sign.
inline Int512 mm512_mul_epu32(Int512 a, Int512 b) {
  return each<uint64_t>(a, b, [](uint64_t x, uint64_t y) { return (x & 0xFFFFFFFFu) * (y & 0xFFFFFFFFu); });
}

inline Int512 mm512_and_si512(Int512 a, Int512 b) {
  return each<uint64_t>(a, b, [](uint64_t x, uint64_t y) { return x & y; });
}
inline Int512 mm512_andnot_si512(Int512 a, Int512 b) {
  return each<uint64_t>(a, b, [](uint64_t x, uint64_t y) { return ~x & y; });
}
inline Int512 mm512_or_si512(Int512 a, Int512 b) {
  return each<uint64_t>(a, b, [](uint64_t x, uint64_t y) { return x | y; });
}
inline Int512 mm512_xor_si512(Int512 a, Int512 b) {
  return each<uint64_t>(a, b, [](uint64_t x, uint64_t y) { return x ^ y; });
}
// Bit by bit, imm is the table: its bit number is 4 a + 2 b + c.
inline Int512 mm512_ternarylogic_epi32(Int512 a, Int512 b, Int512 c, int imm) {
  return each<uint64_t>(a, b, c, [imm](uint64_t x, uint64_t y, uint64_t z) {
    uint64_t result = 0;
    for (int row = 0; row < 8; ++row) {
      if ((imm >> row & 1) != 0) result |= ((row & 4) ? x : ~x) & ((row & 2) ? y : ~y) & ((row & 1) ? z : ~z);
    }
    return result;
  });
}

// Counts from the width on shift everything out.
inline Int512 mm512_slli_epi32(Int512 a, unsigned count) {
  return each<uint32_t>(a, [count](uint32_t x) { return count > 31 ? 0u : x << count; });
}
inline Int512 mm512_srli_epi32(Int512 a, unsigned count) {
  return each<uint32_t>(a, [count](uint32_t x) { return count > 31 ? 0u : x >> count; });
}
inline Int512 mm512_srai_epi32(Int512 a, unsigned count) {
  return each<int32_t>(a, [count](int32_t x) { return x >> (count > 31 ? 31u : count); });
}
inline Int512 mm512_slli_epi64(Int512 a, unsigned count) {
  return each<uint64_t>(a, [count](uint64_t x) { return count > 63 ? uint64_t{0} : x << count; });
}
inline Int512 mm512_srli_epi64(Int512 a, unsigned count) {
  return each<uint64_t>(a, [count](uint64_t x) { return count > 63 ? uint64_t{0} : x >> count; });
}

inline __mmask16 mm512_cmpeq_epi32_mask(Int512 a, Int512 b) {
  return compare<__mmask16, int32_t>(a, b, [](int32_t x, int32_t y) { return x == y; });
}
inline __mmask16 mm512_cmpneq_epi32_mask(Int512 a, Int512 b) {
  return compare<__mmask16, int32_t>(a, b, [](int32_t x, int32_t y) { return x != y; });
}
inline __mmask16 mm512_cmplt_epi32_mask(Int512 a, Int512 b) {
  return compare<__mmask16, int32_t>(a, b, [](int32_t x, int32_t y) { return x < y; });
}
inline __mmask16 mm512_cmple_epi32_mask(Int512 a, Int512 b) {
  return compare<__mmask16, int32_t>(a, b, [](int32_t x, int32_t y) { return x <= y; });
}
inline __mmask16 mm512_cmpgt_epi32_mask(Int512 a, Int512 b) {
  return compare<__mmask16, int32_t>(a, b, [](int32_t x, int32_t y) { return x > y; });
}
inline __mmask16 mm512_cmpge_epi32_mask(Int512 a, Int512 b) {
  return compare<__mmask16, int32_t>(a, b, [](int32_t x, int32_t y) { return x >= y; });
}
inline __mmask16 mm_cmpge_epu8_mask(__m128i a, __m128i b) {
  return compare<__mmask16, uint8_t>(a, b, [](uint8_t x, uint8_t y) { return x >= y; });
}
inline __mmask32 mm256_cmpge_epu8_mask(__m256i a, __m256i b) {
  return compare<__mmask32, uint8_t>(a, b, [](uint8_t x, uint8_t y) { return x >= y; });
}
inline __mmask64 mm512_cmpge_epu8_mask(Int512 a, Int512 b) {
  return compare<__mmask64, uint8_t>(a, b, [](uint8_t x, uint8_t y) { return x >= y; });
}

inline __mmask16 mm256_cmpge_epu16_mask(__m256i a, __m256i b) {
  return compare<__mmask16, uint16_t>(a, b, [](uint16_t x, uint16_t y) { return x >= y; });
}
inline unsigned mm512_reduce_max_epu32(Int512 a) {
  const Lanes<uint32_t, Int512> x(a);
  uint32_t largest = 0;
  for (int i = 0; i < x.count; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

inline Int512 mm512_cvtepu16_epi32(__m256i a) {
  return convert<uint32_t, Int512, uint16_t>(a, [](uint16_t x) { return x; });
}
inline Int512 mm512_cvtepu8_epi32(__m128i a) {
  return convert<uint32_t, Int512, uint8_t>(a, [](uint8_t x) { return x; });
}
// The low halves.
inline __m256i mm512_cvtepi32_epi16(Int512 a) {
  return convert<uint16_t, __m256i, uint32_t>(a, [](uint32_t x) { return x; });
}

}  // namespace
}  // namespace fastbert_emulated
